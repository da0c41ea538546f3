"""The objects, the zones over them, and the answers made from those: all of kdns but its sockets."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import trio

from kdns.admin.metrics import Metrics
from kdns.answer.authority import Authority, ZoneSet
from kdns.answer.push import Feed
from kdns.answer.responder import Responder
from kdns.config import Config, EndpointMode, PushMode
from kdns.control.client import ApiServer
from kdns.control.cluster import ApiSource, CORE, Source
from kdns.control.manifests import ManifestReader, ManifestSource
from kdns.control.resource import Pace
from kdns.control.sink import Sink, StoreSink
from kdns.errors import ConfigError
from kdns.net.addresses import own_addresses
from kdns.proto.tlds import is_public_tld
from kdns.served import Group, Zones
from kdns.static import StaticSource
from zones.change import Change
from zones.decode import Decoder
from zones.imports import Imports
from zones.names import Name
from zones.objects import Kind, ObjectKey
from zones.outside import Claim
from zones.records import RRset
from zones.rewrite import Rewrites
from zones.selectors import HEADLESS_SLICES, Scope, Selector
from zones.static import conflicts_with, Overlaid, Overlay, StaticRecords
from zones.store import Store
from zones.zone import Serial

log = logging.getLogger(__name__)

COMPARED_AT_ONCE: Final = 2000
"""Static names looked at in a tick, whether they hide something: milliseconds."""
MAX_TOLD: Final = 1000
"""Records of the cluster that static ones hide and that are told of."""


def public_namespaces(sink: Sink) -> list[bytes]:
    """List the namespaces that are named like public top-level domains: they take names of the outside world from
    clients that walk search paths (CVE-2022-2835, CVE-2022-2837)."""
    return sorted(key.name for key in sink.keys(Kind.NAMESPACE) if is_public_tld(key.name))


def counts_of(sink: Sink) -> str:
    """Return how many objects of each kind there are, for a person."""
    numbers = ((kind, sink.count(kind)) for kind in Kind if kind in sink.kinds)
    return ", ".join(f"{number} {kind.value if number == 1 else kind.plural}" for kind, number in numbers)


def troubles_of(sink: Sink) -> list[str]:
    """List what is wrong with where objects come from."""
    return [f"{where}: {message}" for where, message in sorted(sink.troubles.items())]


def load_manifests(source: Source) -> None:
    """Read what lies on this machine. Raises ConfigError with every problem."""
    if isinstance(source, ManifestSource):
        source.load()
        problems = [problem for some in source.problems.values() for problem in some]
        if problems:
            raise ConfigError(problems)


MakeSource = Callable[[StoreSink], Source]
"""Makes what feeds a sink."""


def api_or_manifests(
    config: Config,
    metrics: Metrics | None = None,
    pace: Pace | None = None,
    *,
    versions: dict[tuple[Kind, ObjectKey], str] | None = None,
) -> Callable[[Sink], Source]:
    """Return what makes the source that *config* names. Requests are noted in *metrics*, resourceVersions in
    *versions*."""

    def make(sink: Sink) -> Source:
        scope = Scope(
            config.namespaces,
            config.namespace_labels,
            config.labels,
            HEADLESS_SLICES if config.endpoints is EndpointMode.HEADLESS else Selector(),
        )
        decoder = Decoder(
            endpoint_pod_names=config.endpoint_pod_names,
            scope=scope,
            imports=bool(config.clusterset_zones),
            topology_zones=config.zonal,
            outside=bool(config.external_zones),
            versions=versions,
        )
        if config.access is None:
            return ManifestSource(config.manifests, ManifestReader(decoder, scope, CORE | sink.kinds), sink)
        server = ApiServer(config.access, observe=metrics.observe_request if metrics is not None else None)
        observe: Callable[[str, float], None] | None = None
        if metrics is not None:
            histogram = metrics.programming_seconds

            def observe(kind: str, seconds: float) -> None:
                histogram.labels(kind).observe(seconds)

        return ApiSource(
            server,
            sink,
            decoder,
            scope,
            pace=pace,
            compare_seconds=config.compare_seconds,
            observe_programming=observe,
        )

    return make


class Cluster:
    """The objects and what is made of them, followed as they change.

    *serial_of* gives the serial that the zones begin with of which the first has that origin. Unless it *reads_hosts*,
    somebody else gives it the static records, those of the configuration included.
    """

    def __init__(
        self,
        config: Config,
        make_source: MakeSource | None = None,
        *,
        serial_of: Callable[[Name], Serial] = lambda origin: Serial(time.time()),
        reads_hosts: bool = True,
    ) -> None:
        self.config = config
        imports = Imports(ignore_empty=config.ignore_empty_service) if config.clusterset_zones else None
        self.store = Store(
            ignore_empty_service=config.ignore_empty_service, imports=imports, external_zones=config.external_zones
        )
        self.overlay = Overlay() if config.records or config.hosts else None
        self._own = own_addresses(config.listen)
        self.zones = Zones(config, self.store, self._own, self.overlay, serial_of)
        self._generation = 0
        self._snapshot: tuple[int, Zones] | None = None
        forwards = bool(config.upstreams)
        self.authority = Authority(
            ZoneSet(self.zones.all),
            forwards=forwards,
            reverse=frozenset(config.reverse),
            overlay=self.overlay,
            rewrites=Rewrites(config.rewrites) if config.rewrites else None,
            pushes=config.push is not PushMode.OFF,
        )
        self.feed = Feed(self.authority.records_of) if config.push is not PushMode.OFF else None
        self.news = trio.Event()
        """Set when something waits to be pushed."""
        self.responder = Responder(self.authority, forwards=forwards, transfers=bool(config.transfer_to))
        self._told: set[bytes] = set()
        self._told_hidden: set[str] = set()
        self._to_compare: Iterator[Name] = iter(())
        self._told_conflicts: dict[bytes, tuple[Claim, ...]] = {}
        self.synced = trio.Event()
        self.sink = StoreSink(
            self.store,
            self.zones.kinds,
            on_change=self._changed,
            on_complete=self._completed,
            on_restored=self._restored,
            on_synced=self._synced,
        )
        self.source = (make_source or api_or_manifests(config))(self.sink)
        static = (config.records, config.hosts) if reads_hosts else ((), ())
        self.static = StaticSource(*static, ttl=config.ttl, on_change=self.static_changed)

    def load(self, *, tells: bool = True) -> None:
        """Read what lies on this machine: hosts files and manifests. Raises ConfigError for the latter.

        Unless it *tells*, bad lines of hosts files are in ``static.problems`` alone.
        """
        if self.overlay is not None:
            self.static.load(tells=tells)
        load_manifests(self.source)
        self._tell_conflicts()

    def tick(self) -> None:
        """Once a second: tell of what is noticed late."""
        self._tell_conflicts()
        if self.sink.is_synced:
            self._tell_hidden(islice(self._to_compare, COMPARED_AT_ONCE))

    def moved(self, groups: Sequence[Group]) -> None:
        """Have the apexes' answers follow their serials."""
        if not groups:
            return
        self._snapshot = None  # its serial has moved, and only transfers of one serial share it
        for group in groups:
            self.responder.forget(zone.origin.key for zone in group.zones)
        if self.feed is not None:
            self.feed.changed(zone.origin.key for group in groups for zone in group.zones)
            self.feed.changed_unseen()
            self._wake()
        self._tell_public_namespaces()

    def records_of(self, origin: Name) -> Iterator[RRset] | None:
        """Return the records of a zone as of now, which later changes do not touch; None for one that is not complete.

        What is copied are tables of objects, not the objects: milliseconds for ten thousand Services.
        """
        if origin in self.authority.unsynced:
            return None
        if self._snapshot is None or self._snapshot[0] != self._generation:
            overlay = None
            if self.overlay is not None:
                overlay = Overlay()
                overlay.records = self.overlay.records
            serials = {group.name: group.serial.value for group in self.zones.groups}
            copied = Zones(
                self.config,
                self.store.copy(),
                self._own,
                overlay,
                lambda first: Serial(serials[first.to_text()]),
            )
            self._snapshot = self._generation, copied
        return self._snapshot[1].records(origin)

    def troubles(self) -> list[str]:
        """List what is wrong with where objects and records come from."""
        return troubles_of(self.sink) + self.static.troubles()

    def _tell_public_namespaces(self) -> None:
        for name in public_namespaces(self.sink):
            if name not in self._told:
                self._told.add(name)
                log.warning(
                    "namespace %s is named like a public top-level domain: clients find names that end so in it first",
                    name.decode(),
                )

    def _tell_conflicts(self) -> None:
        """Tell of those who claim a hostname that an older object has, each once as long as it lasts."""
        conflicts = self.store.outside.conflicts if self.store.outside is not None else {}
        if not conflicts and not self._told_conflicts:
            return
        for key, (winner, *others) in conflicts.items():
            for claim in others:
                if claim not in self._told_conflicts.get(key, ()):
                    hostname = Name.trusted(key).to_text().removesuffix(".")
                    log.warning("%s claims %s, which %s has; passed over", claim.text, hostname, winner.told)
        self._told_conflicts = dict(conflicts)

    def _changed(self, change: Change) -> None:
        self._generation += 1
        self.zones.note(change)
        if change.is_everything:
            self.responder.clear()
            if self.feed is not None:
                self.feed.changed_unseen(all_of_them=True)
                self._wake()
            return
        if self.overlay is None and self.feed is None:
            self.responder.forget(self.zones.owners_of(change))
            return
        owners = list(self.zones.owners_of(change))
        self.responder.forget(owners)
        if self.feed is not None:
            self.feed.changed(owners)
            self._wake()
        if self.overlay is not None and self.sink.is_synced:
            self._tell_hidden(Name.trusted(key) for key in owners if self.overlay.records.at(key) is not None)

    def _wake(self) -> None:
        if self.feed is not None and self.feed.has_news:
            self.news.set()

    def static_changed(self, records: StaticRecords) -> None:
        """Serve other static records than before."""
        assert self.overlay is not None  # without static records nobody reads any
        self.overlay.records = records
        self._generation += 1
        self.responder.clear()
        if self.feed is not None:
            self.feed.changed_unseen(all_of_them=True)
            self._wake()
        for group in self.zones.groups:
            group.serial.changed()
        self._to_compare = records.owners()

    def _tell_hidden(self, owners: Iterable[Name]) -> None:
        """Tell of records of the cluster that static ones hide, each once."""
        if self.overlay is None:
            return
        for owner in owners:
            zone = self.authority.zones.closest(owner)
            if not isinstance(zone, Overlaid):
                continue
            for conflict in conflicts_with(self.overlay.records, zone.zone, owner, "the cluster's"):
                if str(conflict) not in self._told_hidden and len(self._told_hidden) < MAX_TOLD:
                    self._told_hidden.add(str(conflict))
                    log.warning("static records: %s", conflict)

    def _completed(self, _: Kind) -> None:
        missing = self.sink.missing()
        for group in self.zones.groups:
            if (
                not group.kinds & missing
                and (origins := {zone.origin for zone in group.zones}) & self.authority.unsynced
            ):
                self.authority.unsynced -= origins
                group.serial.changed()

    def _restored(self) -> None:
        self.authority.is_stale = self.sink.is_stale
        for group in self.zones.groups:
            group.serial.changed()
        self.authority.unsynced.clear()
        self.responder.clear()

    def _synced(self) -> None:
        if self.authority.is_stale:
            self.authority.is_stale = False
            self.responder.clear()
        # What is known now stays for long: the collector need not walk it again and again.
        gc.freeze()
        self._tell_public_namespaces()
        self.synced.set()
