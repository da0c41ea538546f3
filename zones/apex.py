"""The records at and beside the apex of a served zone (Kubernetes DNS spec 2.2; CONTRACT section 1).

| name                  | records                                                                      |
|-----------------------|------------------------------------------------------------------------------|
| the apex              | SOA, NS                                                                      |
| ``dns-version``       | TXT with the version of the specification                                    |
| ``ns.dns``            | A, AAAA: the server's own addresses; ``dns`` is an empty non-terminal        |

NS names the Service that the server's own addresses are endpoints of, so that the name stays true when
pods come and go; without one it names ``ns.dns``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zones.names import Name
from zones.records import address_rrsets, NS, RRset, TXT, txt_rdata
from zones.store import Store
from zones.zone import make_soa, Serial, Timers

SCHEMA_VERSION = b"1.1.0"
"""The version of the Kubernetes DNS specification that ``dns-version`` tells."""

VERSION_TTL = 28_800
"""The TTL in the example of Kubernetes DNS spec 2.2."""


class Apex:
    """The apex of the zone *origin*; *own_addresses* are the server's own (4 or 16 octets each).

    *store* tells which Services those belong to; without it NS always names ``ns.dns``. *version* is what
    ``dns-version`` tells; without it there is no such name.
    """

    def __init__(
        self,
        origin: Name,
        store: Store | None,
        *,
        timers: Timers,
        serial: Serial,
        own_addresses: Sequence[bytes],
        version: bytes | None = SCHEMA_VERSION,
    ) -> None:
        self.origin = origin
        self._store = store
        self._timers = timers
        self.serial = serial
        self._own_addresses = tuple(own_addresses)
        self._version = version
        self._ns = origin.prefixed(b"ns", b"dns")
        self._rname = origin.prefixed(b"hostmaster")
        self._soas: dict[bytes, tuple[int, RRset]] = {}  # of this zone and of the reverse zones, with their serial

    @property
    def soa(self) -> RRset:
        """The SOA as of now (CONTRACT row 1.3)."""
        return self.soa_of(self.origin)

    def soa_of(self, origin: Name) -> RRset:
        """Return the SOA of another zone that this one's name server speaks for: a reverse zone."""
        serial, soa = self._soas.get(origin.key, (-1, None))
        if soa is None or serial != self.serial.value:
            serial = self.serial.value
            soa = make_soa(origin, self._ns, self._rname, serial=serial, timers=self._timers)
            self._soas[origin.key] = serial, soa
        return soa

    def ns(self, owner: Name) -> RRset:
        """Return the NS RRset, hung from *owner*: the apex, or that of a reverse zone (CONTRACT row 1.4)."""
        names: dict[Name, None] = {}
        for address in self._own_addresses:
            for service, label in self._store.endpoint_owners(address) if self._store is not None else ():
                labels: tuple[bytes, ...] = (service.name, service.namespace, b"svc")
                if service.is_headless:
                    labels = (label, *labels)
                if self.origin.has_room_for(*labels):
                    names[self.origin.prefixed(*labels)] = None
        return RRset(owner, NS, self._timers.ttl, tuple(name.wire for name in names or (self._ns,)))

    def version(self, owner: Name, version: bytes) -> RRset:
        """Return the TXT RRset of ``dns-version``."""
        return RRset(owner, TXT, VERSION_TTL, (txt_rdata(version),))

    def addresses(self, owner: Name) -> Iterator[RRset]:
        """Yield the address RRsets of ``ns.dns``."""
        yield from address_rrsets(owner, self._timers.ttl, self._own_addresses)

    def at(self, owner: Name, labels: tuple[bytes, ...]) -> list[RRset] | None:
        """Return the RRsets at *owner*, whose *labels* are relative to the zone; None if it is no name of the apex."""
        match labels:
            case ():
                return [self.soa_of(owner), self.ns(owner)]
            case (b"dns-version",) if self._version is not None:
                return [self.version(owner, self._version)]
            case (b"ns", b"dns"):
                return list(self.addresses(owner))
            case (b"dns",):
                return []
            case _:
                return None

    def walk(self) -> Iterator[RRset]:
        """Yield everything here but the SOA."""
        yield self.ns(self.origin)
        if self._version is not None:
            yield self.version(self.origin.prefixed(b"dns-version"), self._version)
        yield from self.addresses(self._ns)
