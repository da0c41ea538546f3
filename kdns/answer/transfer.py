"""Zone transfers: who gets one, and the messages that one is (RFC 5936, RFC 1995; CONTRACT section 12).

| the query                                         | the response                                             |
|---------------------------------------------------|----------------------------------------------------------|
| from an address that is not allowed               | REFUSED; AXFR over UDP FORMERR                           |
| for a name that is the apex of no zone of ours    | NOTAUTH                                                  |
| for a zone whose names cannot be listed           | REFUSED                                                  |
| for a zone that is not complete yet               | SERVFAIL                                                 |
| AXFR over TCP                                     | the zone, SOA first and last, over several messages      |
| AXFR over UDP                                     | FORMERR                                                  |
| IXFR with the zone's serial, or a later one       | the SOA alone                                            |
| IXFR over UDP with an earlier one                 | the SOA alone: come over TCP                             |
| IXFR over TCP with an earlier one                 | as AXFR                                                  |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address, IPv4Network, IPv6Network
from itertools import chain
from typing import Final

from kdns.errors import WireError
from kdns.proto.message import read_message
from kdns.proto.query import FORMERR, NOTAUTH, Query, REFUSED, SERVFAIL, Transport
from kdns.proto.response import make_response, make_transfer
from zones.names import Name
from zones.records import AXFR, RRset, SOA, soa_serial

MESSAGE_OCTETS: Final = 8_192
"""Of one message of a transfer: names in it can be pointed to, and it is made in a few milliseconds."""

Snapshot = Callable[[Name], Iterator[RRset] | None]
"""Gives the records of the zone with that apex as of now, the SOA first, unchanged while they are read; None for a zone
that is not complete yet."""


class Transfers:
    """Transfers of *zones* to the networks *allowed*; of the *unlisted* ones names cannot be listed."""

    def __init__(
        self,
        zones: Sequence[Name],
        unlisted: Sequence[Name],
        allowed: Sequence[IPv4Network | IPv6Network],
        snapshot: Snapshot,
    ) -> None:
        self._zones = frozenset(zones)
        self._unlisted = frozenset(unlisted)
        self._allowed = tuple(allowed)
        self._snapshot = snapshot
        self.done: dict[tuple[str, str], int] = {}
        """Transfers by zone and by what came of them."""

    def answer(self, wire: bytes, query: Query, client: str, *, ra: bool) -> bytes | Iterator[bytes]:
        """Return the tail of the response, or those of the several that make it up."""
        if query.qtype == AXFR and query.transport is Transport.UDP:
            return self._refuse(query, FORMERR, ra)
        if not self._is_allowed(client):
            return self._refuse(query, REFUSED, ra)
        if query.qname not in self._zones:
            return self._refuse(query, REFUSED if query.qname in self._unlisted else NOTAUTH, ra)
        records = self._snapshot(query.qname)
        if records is None:
            return self._refuse(query, SERVFAIL, ra)
        soa = next(records)
        if query.qtype != AXFR and (query.transport is Transport.UDP or _is_current(wire, soa)):
            self._note(query.qname, "current")
            return make_response(query, rcode=0, answer=(soa,), aa=True, ra=ra)[0]
        self._note(query.qname, "whole")
        return make_transfer(query, chain((soa,), records, (soa,)), max_octets=MESSAGE_OCTETS, ra=ra)

    def _is_allowed(self, client: str) -> bool:
        address = ip_address(client.partition("%")[0])
        return any(address.version == network.version and address in network for network in self._allowed)

    def _refuse(self, query: Query, rcode: int, ra: bool) -> bytes:
        self._note(query.qname if query.qname in self._zones else None, "refused")
        return make_response(query, rcode=rcode, ra=ra)[0]

    def _note(self, zone: Name | None, result: str) -> None:
        key = ("" if zone is None else zone.to_text(), result)
        self.done[key] = self.done.get(key, 0) + 1


def _is_current(wire: bytes, soa: RRset) -> bool:
    """Tell whether the serial in an IXFR query is that of *soa* or later (RFC 1982); without one it is not."""
    try:
        asked = next((record for record in read_message(wire).authority if record.rtype == SOA), None)
    except WireError:
        return False
    if asked is None:
        return False
    return (soa_serial(asked.rdata) - soa_serial(soa.rdatas[0])) & 0xFFFFFFFF < 1 << 31
