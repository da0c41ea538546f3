"""The cluster zone: Services and their endpoints (Kubernetes DNS spec 1.1.0, 2.3 to 2.5; CONTRACT sections 1 to 5).

| labels left of ``svc``                    | cluster IP          | headless                    | ExternalName |
|-------------------------------------------|---------------------|-----------------------------|--------------|
| none, ``<namespace>``                     | NODATA              | NODATA                      | NODATA       |
| ``<service>.<namespace>``                 | A, AAAA, SRV        | A, AAAA, SRV of the ready   | CNAME        |
| ``_<proto>.<service>…``                   | NODATA              | NODATA                      | NXDOMAIN     |
| ``_<port>._<proto>.<service>…``           | SRV to the Service  | SRV to each ready endpoint  | NXDOMAIN     |
| ``<hostname or dashed address>.<service>…`` | A, AAAA of the ready | A, AAAA of the ready      | NXDOMAIN     |
| ``<topology zone>.pin._zone.<service>…``  | NXDOMAIN            | A, AAAA, SRV of those there | NXDOMAIN     |
| ``<topology zone>.prefer._zone.<service>…`` | NXDOMAIN          | the same, or of all if none | NXDOMAIN     |

A headless Service without ready endpoints does not exist (spec 2.4.1 "should"; CoreDNS). SRV at the bare name,
endpoint names under Services with a cluster IP, and port names without underscores are CoreDNS's extensions,
which clients rely on. ``pod`` and the apex have files of their own. Zonal names are CoreDNS's, served where asked for
(CONTRACT section 10): the value of a topology zone may have dots, and one without a ready endpoint is NODATA to pin.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence

import msgspec

from zones.apex import Apex
from zones.names import Name
from zones.objects import EndpointSlice, Port, Service, topology_zone_of
from zones.owners import port_owners
from zones.pods import PodMode, Pods
from zones.records import A, AAAA, address_rrsets, ANY, CNAME, NS, RRset, SRV, srv_rdatas
from zones.store import Store
from zones.zone import (
    Alias,
    Found,
    NODATA,
    NoData,
    NXDOMAIN,
    NxDomain,
    Outcome,
    pick,
    reads_of,
    Serial,
    Timers,
)

_FAMILIES = ((A, 4), (AAAA, 16))

_BELOW_APEX = frozenset((b"svc", b"pod", b"dns", b"dns-version"))
"""What ``ClusterZone.lookup`` looks behind."""


class ClusterZone:
    """The zone *origin* over *store*."""

    def __init__(
        self,
        origin: Name,
        store: Store,
        *,
        serial: Serial,
        timers: Timers | None = None,
        pods: PodMode = PodMode.DISABLED,
        own_addresses: Sequence[bytes] = (),
        is_zonal: bool = False,
    ) -> None:
        self.origin = origin
        timers = timers or Timers()
        self.apex = Apex(origin, store, timers=timers, serial=serial, own_addresses=own_addresses)
        self._is_zonal = is_zonal
        self._store = store
        self._depth = len(origin.labels)
        self._ttl = timers.ttl
        self._pods = Pods(store, pods, ttl=timers.ttl)

    @property
    def soa(self) -> RRset:
        """The SOA as of now."""
        return self.apex.soa_of(self.origin)

    def lookup(self, qname: Name, qtype: int) -> Outcome:
        """Say what the zone has for the question; *qname* is at or below the origin."""
        labels = qname.labels[: len(qname.labels) - self._depth]
        if not labels:
            return self._at_apex(qname, labels, qtype)
        match labels[-1]:
            case b"svc":
                return self._below_svc(qname, labels, qtype)
            case b"pod":
                return self._pods.lookup(qname, labels[:-1], qtype)
            case b"dns" | b"dns-version":
                return self._at_apex(qname, labels, qtype)
        return NXDOMAIN

    def names_below(self, name: Name) -> Container[bytes] | None:
        """Return labels among which are all that exist right below *name*, which is in the zone.

        None where they are not known at once. They are those of now, for as long as nothing changes.
        """
        match name.labels[: len(name.labels) - self._depth]:
            case ():
                return _BELOW_APEX
            case (b"svc",):
                return self._store.namespace_names
            case (namespace, b"svc"):
                return self._store.service_names(namespace)
            case _:
                return None

    def has_service(self, namespace: bytes, name: bytes) -> bool:
        """Tell whether there is such a Service and it is shown."""
        return self._store.service(namespace, name) is not None

    def walk(self) -> Iterator[RRset]:
        """Yield every RRset once, the SOA first."""
        yield self.soa
        yield from self.apex.walk()
        for service in self._store.services():
            yield from self._walk_service(service)
        yield from self._pods.walk(self.origin)

    # -- the outcomes ---------------------------------------------------------------------------------------------

    def _at_apex(self, qname: Name, labels: tuple[bytes, ...], qtype: int) -> Outcome:
        rrsets = self.apex.at(qname, labels)
        if rrsets is None:
            return NXDOMAIN
        # NS at the apex reads endpoints of whatever Service the server belongs to: never stored.
        return pick(iter(rrsets), qtype, reads=None if not labels and qtype in (NS, ANY) else ())

    def _below_svc(self, qname: Name, labels: tuple[bytes, ...], qtype: int) -> Outcome:
        count = len(labels)
        if count < 3:
            return NODATA if count == 1 or self._store.has_namespace(labels[0]) else NXDOMAIN
        service = self._store.service(labels[-2], labels[-3])
        if service is not None and count > 3 and self._is_zonal and labels[-4] == b"_zone" and service.is_headless:
            return self._at_topology_zone(qname, service, labels, qtype)
        if service is None or count > 5:
            return _denial(qname, labels)
        if service.external_name is not None:
            if count > 3:
                return _denial(qname, labels)
            target = service.external_name
            return Alias(RRset(qname, CNAME, self._ttl, (target.wire,)), target)
        if service.is_headless and not self._store.has_ready_endpoint(service):
            return _denial(qname, labels)
        if count == 3:
            return self._at_service(qname, service, qtype)
        if count == 4:
            return self._at_endpoint(qname, service, labels, qtype)
        return self._at_port(qname, service, labels, qtype)

    def _at_service(self, qname: Name, service: Service, qtype: int) -> Outcome:
        if qtype in (A, AAAA):
            addresses = self._addresses(service, 4 if qtype == A else 16)
            if not addresses:
                return NODATA
            return Found(RRset(qname, qtype, self._ttl, addresses), rotates=len(addresses) > 1)
        if qtype == SRV:
            rdatas = self._srv(service, self._ports(service))
            return Found(RRset(qname, SRV, self._ttl, rdatas), rotates=len(rdatas) > 1) if rdatas else NODATA
        if qtype == ANY:
            return pick(self._rrsets_of(qname, service), ANY)
        return NODATA

    def _at_endpoint(self, qname: Name, service: Service, labels: tuple[bytes, ...], qtype: int) -> Outcome:
        label = labels[0]
        endpoints = self._store.endpoints_labelled(service, label)
        if endpoints:
            return pick(address_rrsets(qname, self._ttl, {endpoint.address for endpoint in endpoints}), qtype)
        protocol = label.removeprefix(b"_")
        if any(port.name and port.protocol == protocol for port in self._ports(service)):
            return NoData(reads_of(qname, labels, own=3))
        return _denial(qname, labels)

    def _at_port(self, qname: Name, service: Service, labels: tuple[bytes, ...], qtype: int) -> Outcome:
        name, protocol = labels[0].removeprefix(b"_"), labels[1].removeprefix(b"_")
        ports = [port for port in self._ports(service) if port.name == name and port.protocol == protocol and name]
        if not ports:
            return _denial(qname, labels)
        reads = reads_of(qname, labels, own=3)
        if qtype not in (SRV, ANY) or not (rdatas := self._srv(service, ports)):
            return NoData(reads)
        return Found(RRset(qname, SRV, self._ttl, rdatas), rotates=len(rdatas) > 1, reads=reads)

    def _at_topology_zone(self, qname: Name, service: Service, labels: tuple[bytes, ...], qtype: int) -> Outcome:
        """Answer for what lies at and below ``_zone`` of a headless Service."""
        reads = (qname.key[sum(map(len, labels[:-3])) + len(labels) - 3 :],)  # every change of endpoints names it
        directive, topology_zone = labels[-5:-4], b".".join(labels[:-5])
        if directive not in ((), (b"pin",), (b"prefer",)) or not self._store.has_ready_endpoint(service):
            return NxDomain(reads)
        if not topology_zone:
            return NoData(reads)  # names lie below
        slices = [
            msgspec.structs.replace(piece, endpoints=some)
            for piece in self._store.slices_of(service)
            if (some := tuple(e for e in piece.endpoints if topology_zone_of(e) == topology_zone))
        ]
        every = service.publish_not_ready
        if not any(every or endpoint.is_ready for piece in slices for endpoint in piece.endpoints):
            if directive == (b"pin",):
                return NoData(reads)
            slices = list(self._store.slices_of(service))
        return pick(self._rrsets_of(qname, service, slices), qtype, reads=reads)

    # -- what a Service has ---------------------------------------------------------------------------------------

    def _addresses(
        self, service: Service, octets: int, slices: Collection[EndpointSlice] | None = None
    ) -> tuple[bytes, ...]:
        """Return the addresses of one family that the Service's own name has; of *slices* alone, if given."""
        if not service.is_headless:
            return tuple(address for address in service.cluster_ips if len(address) == octets)
        every = service.publish_not_ready
        if slices is None:
            some = (self._store.addresses_in(piece, every=every) for piece in self._store.slices_of(service))
        else:
            some = ([e.address for e in piece.endpoints if every or e.is_ready] for piece in slices)
        known = dict.fromkeys(sorted(address for piece in some for address in piece if len(address) == octets))
        return tuple(known)

    def _ports(self, service: Service) -> Collection[Port]:
        """Return the ports that SRV records name: a headless Service's are those that its slices tell."""
        if not service.is_headless:
            return service.ports if service.cluster_ips else ()
        return dict.fromkeys(
            port
            for piece in self._store.slices_of(service)
            if any(service.publish_not_ready or endpoint.is_ready for endpoint in piece.endpoints)
            for port in piece.ports
        )

    def _srv(
        self, service: Service, ports: Collection[Port], slices: Collection[EndpointSlice] | None = None
    ) -> tuple[bytes, ...]:
        """Return the SRV RDATA for *ports* of the Service, without duplicates."""
        if not self.origin.has_room_for(service.name, service.namespace, b"svc"):
            return ()
        base = self.origin.prefixed(service.name, service.namespace, b"svc")
        entries: set[tuple[bytes, int, Name]] = set()
        if service.is_headless:
            wanted = set(ports)
            for piece in self._store.slices_of(service) if slices is None else slices:
                numbers = {port.number for port in piece.ports if port in wanted}
                for endpoint in piece.endpoints if numbers else ():
                    if (endpoint.is_ready or service.publish_not_ready) and base.has_room_for(endpoint.label):
                        target = base.prefixed(endpoint.label)
                        entries.update((endpoint.address, number, target) for number in numbers)
        else:
            entries.update((address, port.number, base) for address in service.cluster_ips for port in ports)
        return srv_rdatas(entries)

    def _rrsets_of(
        self, owner: Name, service: Service, slices: Collection[EndpointSlice] | None = None
    ) -> Iterator[RRset]:
        for rtype, octets in _FAMILIES:
            if addresses := self._addresses(service, octets, slices):
                yield RRset(owner, rtype, self._ttl, addresses)
        if rdatas := self._srv(service, self._ports(service), slices):
            yield RRset(owner, SRV, self._ttl, rdatas)

    def _walk_service(self, service: Service) -> Iterator[RRset]:
        if not self.origin.has_room_for(service.name, service.namespace, b"svc"):
            return
        base = self.origin.prefixed(service.name, service.namespace, b"svc")
        if service.external_name is not None:
            yield RRset(base, CNAME, self._ttl, (service.external_name.wire,))
            return
        yield from self._rrsets_of(base, service)
        for owner, ports in port_owners(base, self._ports(service)):
            if rdatas := self._srv(service, ports):
                yield RRset(owner, SRV, self._ttl, rdatas)
        endpoints: dict[bytes, set[bytes]] = {}
        for piece in self._store.slices_of(service):
            for endpoint in piece.endpoints:
                if (endpoint.is_ready or service.publish_not_ready) and base.has_room_for(endpoint.label):
                    endpoints.setdefault(endpoint.label, set()).add(endpoint.address)
        for label, addresses in sorted(endpoints.items()):
            yield from address_rrsets(base.prefixed(label), self._ttl, addresses)


def _denial(qname: Name, labels: tuple[bytes, ...]) -> NxDomain:
    """Return NXDOMAIN for a name with *labels* left of the zone."""
    return NXDOMAIN if len(labels) == 3 else NxDomain(reads_of(qname, labels, own=3))
