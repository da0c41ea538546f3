"""The zones that a configuration serves, over one store: in groups that share a serial."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from kdns.answer.authority import names_above
from kdns.config import Config, EndpointMode
from zones.change import Change
from zones.cluster import ClusterZone
from zones.explicit import ExplicitZone
from zones.external import ExternalZone
from zones.multicluster import MulticlusterZone
from zones.names import Name
from zones.objects import Kind
from zones.pods import PodMode
from zones.records import A, AAAA, NS, RRset
from zones.reverse import reverse_key, ReverseZone
from zones.rewrite import Rewrites
from zones.static import Overlaid, Overlay
from zones.store import Store
from zones.zone import Found, Serial, Timers, Zone


class Group(msgspec.Struct, frozen=True):
    """Zones that change together: one serial, and the kinds of objects that their answers need."""

    zones: tuple[Zone, ...]
    serial: Serial
    kinds: frozenset[Kind]

    @property
    def name(self) -> str:
        """The origin of the first zone, which they are known by."""
        return self.zones[0].origin.to_text()

    @property
    def listed(self) -> list[Name]:
        """The origins of those whose names can be listed, and so transferred."""
        return [zone.origin for zone in self.zones if is_listed(zone)]


def is_listed(zone: Zone) -> bool:
    """Tell whether the names of *zone* can be listed, and so transferred."""
    return not isinstance(zone.zone if isinstance(zone, Overlaid) else zone, ExplicitZone)


class Zones:
    """Every zone of *config* over *store*; *own* are this server's addresses."""

    def __init__(
        self,
        config: Config,
        store: Store,
        own: Sequence[bytes],
        overlay: Overlay | None,
        serial_of: Callable[[Name], Serial],
    ) -> None:
        """*serial_of* gives the serial of the zones of which the first has that origin."""
        self._own = frozenset(own)
        self._above = names_above((*config.zones, *config.reverse, *config.clusterset_zones, *config.external_zones))
        self._overlay = overlay
        self._rewrites = Rewrites(config.rewrites) if config.rewrites else None
        timers = Timers(ttl=config.ttl)
        serial = serial_of(config.zones[0])
        self.clusters = [
            ClusterZone(
                origin,
                store,
                serial=serial,
                timers=timers,
                pods=config.pods,
                own_addresses=own,
                is_zonal=config.zonal,
            )
            for origin in config.zones
        ]
        apex = self.clusters[0].apex
        self.reverse = [ReverseZone(origin, store, apex=apex, ttl=config.ttl) for origin in config.reverse]
        explicit = [self._explicit(zone, store, config.ttl) for zone in self.clusters]
        zones: list[Zone] = [*self.clusters, *self.reverse, *explicit]
        self.cluster_group = Group(self._laid_over(zones), serial, _cluster_kinds(config))
        self.clustersets: list[MulticlusterZone] = []
        self.groups = [self.cluster_group]
        if store.imports is not None:
            serial = serial_of(config.clusterset_zones[0])
            self.clustersets = [
                MulticlusterZone(origin, store, store.imports, serial=serial, timers=timers, own_addresses=own)
                for origin in config.clusterset_zones
            ]
            explicit = [self._explicit(zone, store, config.ttl) for zone in self.clustersets]
            kinds = frozenset((Kind.NAMESPACE, Kind.SERVICE_IMPORT, Kind.ENDPOINT_SLICE))
            self.clusterset_group = Group(self._laid_over((*self.clustersets, *explicit)), serial, kinds)
            self.groups.append(self.clusterset_group)

        self.externals: list[ExternalZone] = []
        if store.outside is not None:
            serial = serial_of(config.external_zones[0])
            self.externals = [
                ExternalZone(
                    origin,
                    store,
                    store.outside,
                    serial=serial,
                    timers=timers,
                    own_addresses=own,
                    exists=self._exists,
                )
                for origin in config.external_zones
            ]
            self.external_group = Group(self._laid_over(self.externals), serial, _EXTERNAL_KINDS)
            self.groups.append(self.external_group)

    def _exists(self, key: bytes) -> bool:
        """Tell of a name in an external zone whether something else than claims makes it exist."""
        return key in self._above or (self._overlay is not None and self._overlay.records.exists(key))

    def _laid_over(self, zones: Iterable[Zone]) -> tuple[Zone, ...]:
        """Return *zones* under the static records, if there can be any."""
        if self._overlay is None:
            return tuple(zones)
        return tuple(Overlaid(zone, self._overlay) for zone in zones)

    def _explicit(self, zone: ClusterZone | MulticlusterZone, store: Store, ttl: int) -> ExplicitZone:
        (laid_over,) = self._laid_over((zone,))
        if self._rewrites is None:
            return ExplicitZone(zone, store, ttl=ttl, lookup=laid_over.lookup)
        return ExplicitZone(zone, store, ttl=ttl, lookup=laid_over.lookup, rename=self._rewrites.of)

    def records(self, origin: Name) -> Iterator[RRset]:
        """Yield the records of a zone, the SOA first; where another of ours begins, its NS records and their glue."""
        zone = next(zone for zone in self.all if zone.origin == origin)
        below = [other for other in self.all if other.origin != origin and other.origin.is_under(origin)]
        for rrset in zone.walk():
            if not any(rrset.owner.is_under(other.origin) for other in below):
                yield rrset
        for child in below:
            if any(child.origin.is_under(other.origin) for other in below if other is not child):
                continue
            delegation = child.lookup(child.origin, NS)
            if isinstance(delegation, Found):
                yield delegation.rrset
                targets = [Name.trusted(rdata) for rdata in delegation.rrset.rdatas]
                for target in targets:
                    if target.is_under(child.origin):
                        glue = [child.lookup(target, rtype) for rtype in (A, AAAA)]
                        yield from (outcome.rrset for outcome in glue if isinstance(outcome, Found))

    @property
    def all(self) -> list[Zone]:
        """All zones."""
        return [zone for group in self.groups for zone in group.zones]

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of objects that all of them need."""
        return frozenset().union(*(group.kinds for group in self.groups))

    def soa(self, origin: Name) -> RRset:
        """Return the SOA of a zone as of now."""
        return next(zone.soa for zone in self.all if zone.origin == origin)

    def owners_of(self, change: Change) -> Iterator[bytes]:
        """Yield the keys of the owner names that *change* is about, in every zone."""
        for zone in self.clusters:
            origin = zone.origin.key
            for relative in change.forward:
                yield relative + origin
        yield from map(reverse_key, change.addresses)
        for clusterset in self.clustersets:
            origin = clusterset.origin.key
            for relative in change.imported:
                yield relative + origin
        yield from change.outside

    def note(self, change: Change) -> None:
        """Have the serials of the zones that *change* shows in move."""
        if change.is_everything:
            for group in self.groups:
                group.serial.changed()
            return
        if change.forward or change.addresses:
            self.cluster_group.serial.changed()
        if change.imported:
            self.clusterset_group.serial.changed()
        if self.externals and (change.outside or not self._own.isdisjoint(change.addresses)):
            self.external_group.serial.changed()


_EXTERNAL_KINDS: Final = frozenset(
    (
        Kind.NAMESPACE,
        Kind.SERVICE,
        Kind.ENDPOINT_SLICE,
        Kind.INGRESS,
        Kind.GATEWAY,
        Kind.HTTP_ROUTE,
        Kind.TLS_ROUTE,
        Kind.GRPC_ROUTE,
    )
)


def _cluster_kinds(config: Config) -> frozenset[Kind]:
    kinds = {Kind.NAMESPACE, Kind.SERVICE}
    if config.endpoints is not EndpointMode.NONE:
        kinds.add(Kind.ENDPOINT_SLICE)
    if config.pods is PodMode.VERIFIED:
        kinds.add(Kind.POD)
    return frozenset(kinds)
