"""What of an upstream's reply may be believed, sent on and kept (ROBUSTNESS section 3; RFC 2308, RFC 5452, RFC 8767).

| in the reply                                        | what becomes of it                                        |
|-----------------------------------------------------|-----------------------------------------------------------|
| records of the question's alias chain and its end   | the answer; with DO, their signatures and proofs as well  |
| a link of the chain that another route speaks for   | the answer ends there; that route is asked for the rest   |
| a chain without an end, and without a denial        | the rest is asked for                                     |
| a SOA above the denied name, without an answer      | the denial, for min(its TTL, its MINIMUM)                 |
| a denial without such a SOA                         | sent on, not kept                                         |
| any other record of any section                     | dropped: it is somebody's who was not asked               |
| TC over TCP: the rest has no room in 64 KiB         | sent on with TC, not kept                                 |
| any other RCODE                                     | a failure: sent on when nobody does better                |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from kdns.proto import peer
from kdns.proto.message import Message, option_of, read_message, Record, rrsets_of
from kdns.proto.query import NOERROR, NXDOMAIN, SERVFAIL
from kdns.upstream.question import Question
from kdns.upstream.servers import Server
from nodelocal.entry import Entry, seal
from zones.names import Name
from zones.records import A, AAAA, ANY, CNAME, MAX_TTL, RRset, SOA

MAX_ALIASES: Final = 16
_RRSIG: Final = 46
_DNAME: Final = 39
_PROOFS: Final = frozenset((_RRSIG, 47, 50))
_OCTETS: Final = {A: 4, AAAA: 16}
_HEADS: Final = {rtype: b"\xc0\x0c\0%c\0\1" % rtype for rtype in _OCTETS}
"""How a record of the name asked for begins: a pointer to the question, its type, class IN."""
_LENGTHS: Final = {octets: b"\0%c" % octets for octets in _OCTETS.values()}
_ONE_PLACE: Final = (6,)


def read_reply(wire: bytes, question: Question, belongs: Callable[[Name], bool], server: Server | None = None) -> Entry:
    """Read a matching reply from the server of a route; *belongs* says whether the route speaks for a name.

    Raises WireError when it is no well-formed message.
    """
    return _any(read_message(wire), question, belongs, server)


def read_addresses(wire: bytes, question: Question, server: Server | None) -> Entry | None:
    """Read the commonest reply: addresses of the name asked for, and at most an empty OPT record behind them.

    Return None for any other, which ``read_reply`` reads. This one is four times as quick.
    """
    size = _OCTETS.get(question.qtype)
    if (
        size is None
        or wire[3] & 0x0F
        or wire[2] & 0x02
        or wire[8:11] != b"\0\0\0"
        or wire[11] > 1
        or wire[4:6] != b"\0\1"
    ):
        return None
    count = wire[6] << 8 | wire[7]
    start = 16 + len(question.qname.wire)
    octets = 12 + size
    end = start + count * octets
    if not count or len(wire) != end + 11 * wire[11] or (wire[11] and wire[end : end + 3] != b"\0\0\x29"):
        return None
    if wire[11] and (wire[end + 5] or wire[-2:] != b"\0\0"):
        return None  # an extended RCODE, or options
    head = _HEADS[question.qtype]
    if not wire.startswith(head, start) or wire[start + 10 : start + 12] != _LENGTHS[size]:
        return None
    ttl = int.from_bytes(wire[start + 6 : start + 10], "big")
    for at in range(start + octets, end, octets):
        if not wire.startswith(head, at) or wire[at + 10 : at + 12] != _LENGTHS[size]:
            return None
        ttl = min(ttl, int.from_bytes(wire[at + 6 : at + 10], "big"))
    return Entry(
        NOERROR,
        False,
        bool(wire[3] & 0x20),
        count,
        0,
        wire[start:end],
        _ONE_PLACE if count == 1 else tuple(range(6, count * octets, octets)),
        ttl if ttl <= MAX_TTL else MAX_TTL,
        None,
        None,
        server,
    )


def _any(message: Message, question: Question, belongs: Callable[[Name], bool], server: Server | None) -> Entry:
    note = None
    if question.options and (data := option_of(message.options, peer.CODE)) is not None:
        note = peer.flags_of(data)
    rcode, qtype = message.rcode, question.qtype
    authentic = bool(message.flags & 0x0020)
    if rcode not in (NOERROR, NXDOMAIN):
        return seal(
            question.qname,
            qtype,
            rcode=rcode if rcode < 16 else SERVFAIL,
            answer=(),
            authority=(),
            is_denial=False,
            note=note,
            server=server,
            is_kept=False,
        )
    links, end, goes_elsewhere = chain_of(message.answer, question.qname, qtype, belongs)
    found = [] if goes_elsewhere else [record for record in message.answer if _answers(record, end, question)]
    records = [*links, *found, *(_signatures(message.answer, links, end) if question.do else ())]
    answer = rrsets_of(records)
    has_data = any(record.rtype == qtype or qtype == ANY for record in found)
    if goes_elsewhere or has_data:
        return seal(
            question.qname,
            qtype,
            rcode=NOERROR,
            answer=answer,
            authority=rrsets_of([r for r in message.authority if r.rtype in _PROOFS]) if question.do else (),
            is_denial=False,
            is_authentic=authentic and not goes_elsewhere,
            target=end if goes_elsewhere else None,
            note=note,
            server=server,
            is_truncated=message.is_truncated,
        )
    soa, proofs = _denial(message.authority, end, do=question.do)
    if soa is None and links and rcode == NOERROR:
        return seal(
            question.qname,
            qtype,
            rcode=NOERROR,
            answer=answer,
            authority=(),
            is_denial=False,
            target=end,
            note=note,
            server=server,
        )
    return seal(
        question.qname,
        qtype,
        rcode=rcode,
        answer=answer,
        authority=[] if soa is None else [soa, *proofs],
        is_denial=True,
        is_authentic=authentic,
        note=note,
        server=server,
        is_kept=soa is not None,
    )


def chain_of(
    records: Sequence[Record], qname: Name, qtype: int, belongs: Callable[[Name], bool]
) -> tuple[list[Record], Name, bool]:
    """Return the CNAME records from *qname* on, the name where they end, and whether the rest is another route's.

    A loop ends where it closes.
    """
    aliases: dict[Name, Record] = {}
    for record in records:
        if record.rtype == CNAME:
            aliases.setdefault(record.owner, record)
    links: list[Record] = []
    end = qname
    seen = {qname}
    while qtype not in (CNAME, ANY) and (alias := aliases.get(end)) is not None and len(links) < MAX_ALIASES:
        links.append(alias)
        end = Name.trusted(alias.rdata)
        if end in seen:
            break
        seen.add(end)
        if not belongs(end):
            return links, end, True
    return links, end, False


def _answers(record: Record, owner: Name, question: Question) -> bool:
    if record.owner != owner:
        return False
    return record.rtype == question.qtype or question.qtype == ANY


def _signatures(records: Sequence[Record], links: Sequence[Record], end: Name) -> list[Record]:
    names = {end, *(link.owner for link in links)}
    return [
        record
        for record in records
        if (record.rtype == _RRSIG and record.owner in names)
        or (record.rtype == _DNAME and any(name.is_under(record.owner) for name in names))
    ]


def _denial(records: Sequence[Record], name: Name, *, do: bool) -> tuple[RRset | None, list[RRset]]:
    """Return the SOA that denies *name*, with the TTL that the denial has, and what proves it (DNSSEC)."""
    for record in records:
        if record.rtype == SOA and name.is_under(record.owner):
            ttl = min(record.ttl, int.from_bytes(record.rdata[-4:], "big"))
            proofs = rrsets_of([other for other in records if other.rtype in _PROOFS]) if do else []
            return RRset(record.owner, SOA, min(ttl, MAX_TTL), (record.rdata,)), proofs
    return None, []
