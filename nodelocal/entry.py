"""What the cache holds: the part of a reply behind its question, ready to be sent again with a smaller TTL.

The sections stay in wire form. Names in them are compressed against the question, which has the same length in every
message that asks for the same name, so they hold in each of them; only TTLs change, and where those stand is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from kdns.proto.query import NXDOMAIN, Query, SERVFAIL, Transport
from kdns.proto.response import make_response
from kdns.upstream.servers import Server
from zones.names import Name
from zones.records import IN, RRset


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the cache: octets of memory; TTLs and the time after them in seconds."""

    max_octets: int = 32 * 2**20
    min_ttl: int = 0
    max_ttl: int = 86_400
    max_negative_ttl: int = 3600
    max_stale: int = 3600


class Entry(msgspec.Struct, gc=False):
    """One answer, or one denial.

    ``body`` holds *answers* and *authorities* records, ``ttl_at`` where in it their TTLs stand, ``ttl`` the smallest of
    them in seconds. ``target`` is the name that the answer goes on at, to be asked for elsewhere. ``note`` is what
    kdns said of it (``kdns.proto.peer``). The rest is the cache's: times in seconds of one monotonic clock.
    """

    rcode: int
    is_denial: bool
    is_authentic: bool
    answers: int
    authorities: int
    body: bytes
    ttl_at: tuple[int, ...]
    ttl: int
    target: Name | None = None
    note: int | None = None
    server: Server | None = None
    is_kept: bool = True
    is_truncated: bool = False
    stored_at: float = 0.0
    expires_at: float = 0.0
    retry_at: float = 0.0
    hits: int = 0
    is_used: bool = False
    octets: int = 0

    @property
    def is_failure(self) -> bool:
        """Whether this is neither an answer nor a denial."""
        return self.rcode not in (0, NXDOMAIN)

    @property
    def is_nxdomain(self) -> bool:
        """Whether the name itself, not one that it is an alias of, does not exist."""
        return self.rcode == NXDOMAIN and not self.answers


FAILURE: Final = Entry(
    rcode=SERVFAIL,
    is_denial=False,
    is_authentic=False,
    answers=0,
    authorities=0,
    body=b"",
    ttl_at=(),
    ttl=0,
    is_kept=False,
)
"""What stands for no reply at all."""


def seal(
    qname: Name,
    qtype: int,
    *,
    rcode: int,
    answer: Sequence[RRset],
    authority: Sequence[RRset],
    is_denial: bool,
    is_authentic: bool = False,
    target: Name | None = None,
    note: int | None = None,
    server: Server | None = None,
    is_kept: bool = True,
    is_truncated: bool = False,
) -> Entry:
    """Make an entry of RRsets."""
    question = qname.wire + b"%c%c\0\1" % divmod(qtype, 256)
    query = Query(b"\0\0", 0, qname, qtype, IN, question, 0, Transport.TCP)
    tail = make_response(query, rcode=rcode, answer=answer, authority=authority)[0]
    body = tail[10 + len(question) :]
    is_truncated = is_truncated or bool(tail[0] & 0x02)  # without the sender's compression it may be too long
    answers, authorities = int.from_bytes(tail[4:6], "big"), int.from_bytes(tail[6:8], "big")
    return Entry(
        rcode=rcode,
        is_denial=is_denial,
        is_authentic=is_authentic,
        answers=answers,
        authorities=authorities,
        body=body,
        ttl_at=places_of_ttls(body, answers + authorities),
        ttl=min((rrset.ttl for rrset in (*answer, *authority)), default=0),
        target=target,
        note=note,
        server=server,
        is_kept=is_kept and not is_truncated,
        is_truncated=is_truncated,
    )


def places_of_ttls(body: bytes, records: int) -> tuple[int, ...]:
    """Return where the TTLs of *records* stand in well-formed sections."""
    places = []
    at = 0
    for _ in range(records):
        while (size := body[at]) and size < 0xC0:
            at += 1 + size
        at += 2 if size else 1
        places.append(at + 4)
        at += 10 + (body[at + 8] << 8 | body[at + 9])
    return tuple(places)
