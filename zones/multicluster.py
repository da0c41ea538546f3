"""The multicluster zone: ServiceImports (KEP-1645's DNS specification 1.0.0; CONTRACT section 8).

| labels left of ``svc``                        | ClusterSetIP        | headless                              |
|-----------------------------------------------|---------------------|---------------------------------------|
| none, ``<namespace>``                         | NODATA              | NODATA                                |
| ``<import>.<namespace>``                      | A, AAAA, SRV        | A, AAAA, SRV of the ready, of all clusters |
| ``_<proto>.<import>…``                        | NODATA              | NODATA                                |
| ``_<port>._<proto>.<import>…``                | SRV to the import   | SRV to each ready endpoint            |
| ``<cluster id>.<import>…``                    | NXDOMAIN            | NODATA: names lie below               |
| ``<endpoint>.<cluster id>.<import>…``         | NXDOMAIN            | A, AAAA of the ready of that cluster  |

A cluster id may have two labels (``name.registry``). A headless import without ready endpoints does not exist. The
number in a headless SRV is the endpoint's own, so clusters may differ in it. ``pod`` exists, and nothing below it.
Nothing here shows in a cluster zone or in reverse zones, and nothing of those here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from zones.apex import Apex
from zones.imports import Imports
from zones.names import Name
from zones.objects import Endpoint, ImportedSlice, Port, ServiceImport
from zones.owners import port_owners
from zones.records import A, AAAA, address_rrsets, ANY, RRset, SRV, srv_rdatas
from zones.store import Store
from zones.zone import Found, NODATA, NoData, NXDOMAIN, NxDomain, Outcome, pick, reads_of, Serial, Timers

SCHEMA_VERSION = b"1.0.0"
"""The version of the multicluster DNS specification that ``dns-version`` tells (CONTRACT row 8.2)."""

_FAMILIES = ((A, 4), (AAAA, 16))


class MulticlusterZone:
    """The zone *origin* over the imports of *store*."""

    def __init__(
        self,
        origin: Name,
        store: Store,
        imports: Imports,
        *,
        serial: Serial,
        timers: Timers | None = None,
        own_addresses: Sequence[bytes] = (),
    ) -> None:
        self.origin = origin
        timers = timers or Timers()
        self.apex = Apex(
            origin, None, timers=timers, serial=serial, own_addresses=own_addresses, version=SCHEMA_VERSION
        )
        self._store = store
        self._imports = imports
        self._depth = len(origin.labels)
        self._ttl = timers.ttl

    @property
    def soa(self) -> RRset:
        """The SOA as of now."""
        return self.apex.soa

    def lookup(self, qname: Name, qtype: int) -> Outcome:
        """Say what the zone has for the question; *qname* is at or below the origin."""
        labels = qname.labels[: len(qname.labels) - self._depth]
        if labels[-1:] == (b"svc",):
            return self._below_svc(qname, labels, qtype)
        if labels == (b"pod",):
            return NODATA
        rrsets = self.apex.at(qname, labels)
        return NXDOMAIN if rrsets is None else pick(iter(rrsets), qtype)

    def has_service(self, namespace: bytes, name: bytes) -> bool:
        """Tell whether there is such an import and it is shown."""
        return self._service(namespace, name) is not None

    def walk(self) -> Iterator[RRset]:
        """Yield every RRset once, the SOA first."""
        yield self.soa
        yield from self.apex.walk()
        for namespace in self._store.namespaces():
            for service in self._imports.of_namespace(namespace):
                yield from self._walk_service(service)

    # -- the outcomes ---------------------------------------------------------------------------------------------

    def _service(self, namespace: bytes, name: bytes) -> ServiceImport | None:
        return self._imports.get(namespace, name) if self._store.has_namespace(namespace) else None

    def _below_svc(self, qname: Name, labels: tuple[bytes, ...], qtype: int) -> Outcome:
        count = len(labels)
        if count < 3:
            return NODATA if count == 1 or self._store.has_namespace(labels[0]) else NXDOMAIN
        service = self._service(labels[-2], labels[-3])
        reads = reads_of(qname, labels, own=3)
        if service is None or (service.is_headless and not self._imports.has_ready_endpoint(service)):
            return NxDomain(reads)
        left = labels[:-3]
        if not left:
            return self._at_service(qname, service, qtype)
        if service.is_headless and (outcome := self._at_endpoint(qname, service, left, qtype)) is not None:
            return outcome
        return self._at_port(qname, service, left, qtype, reads)

    def _at_service(self, qname: Name, service: ServiceImport, qtype: int) -> Outcome:
        if qtype in (A, AAAA):
            addresses = self._addresses(service, 4 if qtype == A else 16)
            if not addresses:
                return NODATA
            return Found(RRset(qname, qtype, self._ttl, addresses), rotates=len(addresses) > 1)
        return pick(self._rrsets_of(qname, service), qtype) if qtype in (SRV, ANY) else NODATA

    def _at_endpoint(self, qname: Name, service: ServiceImport, left: tuple[bytes, ...], qtype: int) -> Outcome | None:
        """Answer for a cluster id, part of one, or an endpoint below one; None where it is none of them."""
        found: set[bytes] = set()
        is_above = False
        for piece, endpoint in self._ready(service):
            path = (endpoint.label, *piece.cluster)
            if left == path:
                found.add(endpoint.address)
            elif left == path[-len(left) :]:
                is_above = True
        if found:
            return pick(address_rrsets(qname, self._ttl, found), qtype)
        return NODATA if is_above else None

    def _at_port(
        self, qname: Name, service: ServiceImport, left: tuple[bytes, ...], qtype: int, reads: tuple[bytes, ...]
    ) -> Outcome:
        protocol = left[-1].removeprefix(b"_")
        ports = [port for port in self._ports(service) if port.name and port.protocol == protocol]
        if len(left) == 1:
            return NoData(reads) if ports else NxDomain(reads)
        ports = [port for port in ports if port.name == left[0].removeprefix(b"_")]
        if not ports or len(left) > 2:
            return NxDomain(reads)
        rdatas = self._srv(service, ports)
        if qtype not in (SRV, ANY) or not rdatas:
            return NoData(reads)
        return Found(RRset(qname, SRV, self._ttl, rdatas), rotates=len(rdatas) > 1, reads=reads)

    # -- what an import has ---------------------------------------------------------------------------------------

    def _addresses(self, service: ServiceImport, octets: int) -> tuple[bytes, ...]:
        """Return the addresses of one family that the import's own name has."""
        if not service.is_headless:
            return tuple(address for address in service.ips if len(address) == octets)
        return tuple(
            sorted({endpoint.address for _, endpoint in self._ready(service) if len(endpoint.address) == octets})
        )

    def _ready(self, service: ServiceImport) -> Iterator[tuple[ImportedSlice, Endpoint]]:
        for piece in self._imports.slices_of(service):
            for endpoint in piece.endpoints:
                if endpoint.is_ready:
                    yield piece, endpoint

    def _ports(self, service: ServiceImport) -> Collection[Port]:
        """Return the ports that SRV records name: a headless import's are those that its slices tell."""
        if not service.is_headless:
            return service.ports if service.ips else ()
        return dict.fromkeys(port for piece, _ in self._ready(service) for port in piece.ports)

    def _srv(self, service: ServiceImport, ports: Collection[Port]) -> tuple[bytes, ...]:
        """Return the SRV RDATA for *ports*, without duplicates; priority and weight as in a cluster zone."""
        if not self.origin.has_room_for(service.name, service.namespace, b"svc"):
            return ()
        base = self.origin.prefixed(service.name, service.namespace, b"svc")
        entries: set[tuple[bytes, int, Name]] = set()
        if service.is_headless:
            for piece, endpoint in self._ready(service):
                labels = (endpoint.label, *piece.cluster)
                if base.has_room_for(*labels):
                    target = base.prefixed(*labels)
                    entries.update((endpoint.address, port.number, target) for port in piece.ports if port in ports)
        else:
            entries.update((address, port.number, base) for address in service.ips for port in ports)
        return srv_rdatas(entries)

    def _rrsets_of(self, owner: Name, service: ServiceImport) -> Iterator[RRset]:
        for rtype, octets in _FAMILIES:
            if addresses := self._addresses(service, octets):
                yield RRset(owner, rtype, self._ttl, addresses)
        if rdatas := self._srv(service, self._ports(service)):
            yield RRset(owner, SRV, self._ttl, rdatas)

    def _walk_service(self, service: ServiceImport) -> Iterator[RRset]:
        if not self.origin.has_room_for(service.name, service.namespace, b"svc"):
            return
        base = self.origin.prefixed(service.name, service.namespace, b"svc")
        yield from self._rrsets_of(base, service)
        for owner, ports in port_owners(base, self._ports(service)):
            if rdatas := self._srv(service, ports):
                yield RRset(owner, SRV, self._ttl, rdatas)
        if service.is_headless:
            endpoints: dict[tuple[bytes, ...], set[bytes]] = {}
            for piece, endpoint in self._ready(service):
                endpoints.setdefault((endpoint.label, *piece.cluster), set()).add(endpoint.address)
            for path, addresses in sorted(endpoints.items()):
                if base.has_room_for(*path):
                    yield from address_rrsets(base.prefixed(*path), self._ttl, addresses)
