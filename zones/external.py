"""External zones: names of the cluster for the outside world, in zones that are delegated to us (CONTRACT section 13).

| the name                                     | records                                                         |
|----------------------------------------------|-----------------------------------------------------------------|
| the apex                                     | SOA, NS                                                         |
| ``ns1.dns``                                  | A, AAAA: where this server is reached from outside, else its own |
| claimed (``zones.outside``), with addresses  | A, AAAA; of a Service also SRV at the name and for named ports  |
| claimed, with other names alone              | CNAME                                                           |
| ``<namespace>``, above a claimed name, ``dns`` | NODATA                                                        |
| below a claimed ``*.<name>``                 | as a wildcard (RFC 4592)                                        |

A name is looked for in this order, so that a namespace takes no name from a wildcard unless something is claimed in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from zones.names import label_octets, Name
from zones.objects import ExposedService, Port
from zones.outside import Claim, Outside
from zones.owners import port_owners
from zones.records import address_rrsets, ANY, CNAME, NS, RRset, SRV, srv_rdatas
from zones.store import Store
from zones.zone import Alias, Found, make_soa, NODATA, NoData, NxDomain, Outcome, pick, Reads, Serial, Timers


class ExternalZone:
    """The zone *origin* over *outside*; *own_addresses* are the server's own (4 or 16 octets each).

    *exists* tells of a key whether the name has records from elsewhere, or one below it has: no wildcard takes such.
    """

    def __init__(
        self,
        origin: Name,
        store: Store,
        outside: Outside,
        *,
        serial: Serial,
        timers: Timers | None = None,
        own_addresses: Sequence[bytes] = (),
        exists: Callable[[bytes], bool] = lambda key: False,
    ) -> None:
        self._exists_elsewhere = exists
        self.origin = origin
        self._store = store
        self._outside = outside
        self._serial = serial
        self._timers = timers or Timers()
        self._ttl = self._timers.ttl
        self._own_addresses = tuple(own_addresses)
        self._ns = origin.prefixed(b"ns1", b"dns")
        self._rname = origin.prefixed(b"hostmaster", b"dns")
        self._above_ns = origin.prefixed(b"dns").key
        self._soa: tuple[int, RRset] | None = None

    @property
    def soa(self) -> RRset:
        """The SOA as of now."""
        serial = self._serial.value
        if self._soa is None or self._soa[0] != serial:
            soa = make_soa(self.origin, self._ns, self._rname, serial=serial, timers=self._timers)
            self._soa = serial, soa
        return self._soa[1]

    def lookup(self, qname: Name, qtype: int) -> Outcome:
        """Say what the zone has for the question; *qname* is at or below the origin."""
        labels = qname.labels[: len(qname.labels) - len(self.origin.labels)]
        if not labels:
            return pick(iter((self.soa, self._ns_of(qname))), qtype)
        if labels == (b"ns1", b"dns"):
            return pick(self._addresses_of_ns(qname), qtype, reads=None)  # of whatever Service it belongs to
        key = qname.key
        if (claim := self._outside.claim(key)) is not None:
            return self._at_claim(qname, qname, claim, qtype, ())
        if labels[0][:1] == b"_" and (outcome := self._at_port(qname, labels, qtype)) is not None:
            return outcome
        if self._exists(key):
            return NODATA
        encloser, above = self._closest_encloser(key)
        wildcard = label_octets((b"*",)) + encloser
        reads = (encloser, wildcard, *above)
        if (claim := self._outside.claim(wildcard)) is not None:
            return self._at_claim(qname, Name.trusted(wildcard), claim, qtype, reads)
        if len(labels) == 1 and self._store.has_namespace(labels[0]):
            return NoData(reads)
        return NxDomain(reads)

    def walk(self) -> Iterator[RRset]:
        """Yield every RRset once, the SOA first."""
        yield self.soa
        yield self._ns_of(self.origin)
        yield from self._addresses_of_ns(self._ns)
        for name, claim in self._outside.names(self.origin):
            if name == self._ns:
                continue
            if claim.targets.addresses:
                yield from self._rrsets_at(name, name, claim)
            else:
                yield RRset(name, CNAME, self._ttl, (claim.targets.aliases[0].wire,))
            for owner, ports in port_owners(name, claim.ports):
                yield RRset(owner, SRV, self._ttl, _srv(name, claim, ports))

    # -- the apex -------------------------------------------------------------------------------------------------

    def _ns_of(self, owner: Name) -> RRset:
        return RRset(owner, NS, self._ttl, (self._ns.wire,))

    def _addresses_of_ns(self, owner: Name) -> Iterator[RRset]:
        """Yield where this server is reached from outside: as the Service that its own addresses are endpoints of."""
        found: set[bytes] = set()
        for address in self._own_addresses:
            for service, _ in self._store.endpoint_owners(address):
                if isinstance(service, ExposedService):
                    found.update(service.outside.addresses)
        yield from address_rrsets(owner, self._ttl, found or set(self._own_addresses))

    # -- claims ---------------------------------------------------------------------------------------------------

    def _at_claim(self, owner: Name, name: Name, claim: Claim, qtype: int, reads: Reads) -> Outcome:
        if not claim.targets.addresses:
            target = claim.targets.aliases[0]
            return Alias(RRset(owner, CNAME, self._ttl, (target.wire,)), target, reads)
        return pick(self._rrsets_at(owner, name, claim), qtype, reads=reads)

    def _rrsets_at(self, owner: Name, name: Name, claim: Claim) -> Iterator[RRset]:
        yield from address_rrsets(owner, self._ttl, claim.targets.addresses)
        if claim.ports:
            yield RRset(owner, SRV, self._ttl, _srv(name, claim, claim.ports))

    def _at_port(self, qname: Name, labels: tuple[bytes, ...], qtype: int) -> Outcome | None:
        """Answer for ``_<port>._<protocol>`` of a Service, and for ``_<protocol>``; None for anything else."""
        left = labels[:2] if labels[1:2] and labels[1][:1] == b"_" else labels[:1]
        base = qname.key[sum(map(len, left)) + len(left) :]
        claim = self._outside.claim(base)
        if claim is None:
            return None
        ports = [port for port in claim.ports if port.name and b"_" + port.protocol == left[-1]]
        if len(left) == 1:
            return NODATA if ports else None
        ports = [port for port in ports if b"_" + port.name == left[0]]
        if not ports:
            return None
        if qtype not in (SRV, ANY):
            return NODATA
        rdatas = _srv(Name.trusted(base), claim, ports)
        return Found(RRset(qname, SRV, self._ttl, rdatas), rotates=len(rdatas) > 1)

    def _exists(self, key: bytes) -> bool:
        return self._outside.exists(key) or key == self._above_ns or self._exists_elsewhere(key)

    def _closest_encloser(self, key: bytes) -> tuple[bytes, list[bytes]]:
        """Return the longest existing name above *key* (RFC 4592 section 3.3.1), and those between."""
        above: list[bytes] = []
        key = key[1 + key[0] :]
        while key != self.origin.key and not self._exists(key):
            above.append(key)
            key = key[1 + key[0] :]
        return key, above


def _srv(name: Name, claim: Claim, ports: Sequence[Port]) -> tuple[bytes, ...]:
    """Return the SRV RDATA for *ports*; the target must be no alias (RFC 2782)."""
    targets = claim.targets
    entries = {(address, port.number, name) for address in targets.addresses for port in ports}
    if not targets.addresses:
        entries = {(alias.wire, port.number, alias) for alias in targets.aliases[:1] for port in ports}
    return srv_rdatas(entries)
