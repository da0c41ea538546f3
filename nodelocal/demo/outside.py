"""A small name server for the demo: the world outside the cluster, so that nothing needs a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from kdns.errors import WireError
from kdns.net.handler import Client, Later
from kdns.proto.query import NOERROR, NXDOMAIN, REFUSED, Transport
from kdns.proto.reading import read_query
from kdns.proto.response import make_bare, make_negative, make_response
from kdns.proto.table import Entry
from zones.names import Name
from zones.records import A, AAAA, address_from_text, address_rrtype, RRset, rrtype_to_text, SOA, soa_rdata

HINFO: Final = 13
TTL: Final = 60

ADDRESSES: Final = {
    "www.example.com.": ("192.0.2.10", "2001:db8::10"),
    "git.corp.example.": ("192.0.2.20",),
}
ZONES: Final = ("example.com.", "corp.example.", ".")


class Outside:
    """Answers for two zones of examples and denies all else (``kdns.net.handler.Handler``); counts what is asked."""

    def __init__(self) -> None:
        self.find: Callable[[bytes], Entry | None] = lambda key: None
        self.asked: Counter[str] = Counter()
        self._records: dict[tuple[Name, int], RRset] = {}
        for text, addresses in ADDRESSES.items():
            name = Name.from_text(text)
            for address in map(address_from_text, addresses):
                rtype = address_rrtype(address)
                self._records[name, rtype] = RRset(name, rtype, TTL, (address,))
        self._soas = [
            RRset(
                origin,
                SOA,
                TTL,
                (
                    soa_rdata(
                        origin.prefixed(b"ns"),
                        origin.prefixed(b"hostmaster"),
                        serial=1,
                        refresh=7200,
                        retry=1800,
                        expire=86_400,
                        minimum=TTL,
                    ),
                ),
            )
            for origin in map(Name.from_text, ZONES)
        ]

    def respond(self, wire: bytes, client: Client) -> bytes | Later | None:
        """Answer one message."""
        try:
            query = read_query(wire, Transport.UDP)
        except WireError as exc:
            return None if exc.rcode_hint is None else make_bare(wire, exc.rcode_hint, ra=True)
        name = query.qname
        if query.qtype != HINFO:  # the probe by which nodelocal looks for loops
            self.asked[f"{name.to_text()} {rrtype_to_text(query.qtype)}"] += 1
        rrset = self._records.get((name, query.qtype))
        if rrset is not None:
            return make_response(query, rcode=NOERROR, answer=(rrset,), ra=True)[0]
        soa = next((soa for soa in self._soas if name.is_under(soa.owner)), None)
        if soa is None:
            return make_response(query, rcode=REFUSED, ra=True)[0]
        exists = any((name, rtype) in self._records for rtype in (A, AAAA)) or name == soa.owner
        return make_negative(query, rcode=NOERROR if exists else NXDOMAIN, soa=soa, aa=False, ra=True)

    def count(self, hits: Sequence[Entry], seconds: float) -> None:
        """Nothing is stored, so nothing hits."""
