"""Responses made of entries: an answer as it is kept, or one that search-path expansion found under another name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kdns.proto.query import MIN_UDP_OCTETS, NOERROR, NXDOMAIN, Query, SERVFAIL
from kdns.proto.response import ede, make_response, opt_record
from nodelocal.body import body_with_ttl, remaining, sections
from nodelocal.cache import STALE_TTL
from nodelocal.entry import Entry
from nodelocal.found import Found, Link
from zones.names import Name
from zones.records import A, AAAA, CNAME, RRset

EDE_STALE: Final = 3
EDE_STALE_NXDOMAIN: Final = 19
EDE_NO_REACHABLE: Final = 22

_TC: Final = 0x0200
_AD: Final = 0x0020
_CD: Final = 0x0010


def flags_for(query: Query, *, is_authentic: bool) -> int:
    """Return AD, if the client wants to know and it is true, and CD as it was asked (RFC 6840 5.7, RFC 4035 3.2.2)."""
    flags = query.flags & _CD
    if is_authentic and (query.flags & _AD or (query.edns is not None and query.edns.do)):
        flags |= _AD
    return flags


def plain(query: Query, found: Found, now: float) -> tuple[bytes, ...]:
    """Return the tails of the response to *query*: one, or several orders of it."""
    links = found.links
    if len(links) == 1 and not links[0].is_stale:
        tail = simple(query, links[0].entry, now)
        if tail is not None:
            return (tail,)
    answer, authority = rrsets_of(found, now)
    return _whole(query, found, answer, authority)


def simple(query: Query, entry: Entry, now: float) -> bytes | None:
    """Return the commonest response, put together from the entry's own octets; None where it takes more than that."""
    rcode = entry.rcode
    if entry.answers > 1 or entry.authorities > 255 or entry.is_truncated or rcode not in (NOERROR, NXDOMAIN):
        return None
    flags = 0x8080 | query.flags & 0x0110 | rcode  # RD and CD as they were asked
    edns = query.edns
    if entry.is_authentic and (query.flags & _AD or (edns is not None and edns.do)):
        flags |= _AD
    opt = b"" if edns is None else opt_record(query, 0, b"")
    tail = b"%c%c\0\1\0%c\0%c\0%c%b%b%b" % (
        flags >> 8,
        flags & 255,
        entry.answers,
        entry.authorities,
        edns is not None,
        query.question,
        body_with_ttl(entry, remaining(entry, now)),
        opt,
    )
    octets = len(tail) + 2
    return tail if octets <= MIN_UDP_OCTETS or octets <= query.limit else None


def expanded(query: Query, alias: Name, found: Found, now: float, *, ttl: int) -> tuple[bytes, ...]:
    """Return the response in which the name asked for is an alias of *alias*; no TTL in it is above *ttl* seconds."""
    answer, authority = rrsets_of(found, now, most=ttl)
    if alias != query.qname:
        least = min((rrset.ttl for rrset in (*answer, *authority)), default=ttl)
        answer.insert(0, RRset(query.qname, CNAME, min(least, ttl), (alias.wire,)))
    return _whole(query, found, answer, authority, exists=True)


def denied(query: Query, soa: RRset | None, *, rcode: int, is_stale: bool = False) -> bytes:
    """Return the response that says that no step of the path has anything."""
    options = ede(EDE_STALE_NXDOMAIN, "stale") if is_stale else b""
    return make_response(
        query,
        rcode=rcode,
        authority=() if soa is None else (soa,),
        ra=True,
        flags=flags_for(query, is_authentic=False),
        options=options,
    )[0]


def failed(query: Query, text: str = "no upstream answered") -> bytes:
    """Return SERVFAIL with what is wrong."""
    return make_response(
        query,
        rcode=SERVFAIL,
        ra=True,
        flags=flags_for(query, is_authentic=False),
        options=ede(EDE_NO_REACHABLE, text),
    )[0]


def rrsets_of(found: Found, now: float, *, most: int | None = None) -> tuple[list[RRset], list[RRset]]:
    """Return the answer along the whole chain, and the authority of its end, with the TTLs that are left."""
    answer: list[RRset] = []
    authority: list[RRset] = []
    for link in found.links:
        ttl = ttl_of(link, now)
        some, authority = sections(link.entry, link.qname, ttl if most is None else min(ttl, most))
        answer += some
    return answer, authority


def ttl_of(link: Link, now: float) -> int:
    """Return the TTL to show: what is left, or of a stale answer the one that RFC 8767 section 4 gives it."""
    return STALE_TTL if link.is_stale else remaining(link.entry, now)


def _whole(
    query: Query, found: Found, answer: Sequence[RRset], authority: Sequence[RRset], *, exists: bool = False
) -> tuple[bytes, ...]:
    """Return the whole response; with *exists* a denial is NODATA, whatever the server said: the name was found."""
    entry = found.last
    if entry.is_failure and entry.rcode == SERVFAIL and not answer:
        return (failed(query),)
    options = b""
    if found.is_stale:
        options = ede(EDE_STALE if entry.rcode == NOERROR else EDE_STALE_NXDOMAIN, "no upstream answered in time")
    return make_response(
        query,
        rcode=NOERROR if exists and entry.is_denial else entry.rcode,
        answer=answer,
        authority=authority,
        rotate=bool(answer) and answer[-1].rtype in (A, AAAA),
        ra=True,
        flags=flags_for(query, is_authentic=entry.is_authentic and len(found.links) == 1)
        | _TC * any(link.entry.is_truncated for link in found.links),
        options=options,
    )
