"""``kdns serve``: the parts put together, started, stopped.

Binding comes first: clients are answered at once, with SERVFAIL for what is not known yet, whether or not there is
an API server. Everything that this machine can know to be wrong ends the program before that, with status 2;
nothing that comes later does.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import trio

from kdns.admin.logs import QueryLog
from kdns.admin.metrics import Gauges, Metrics
from kdns.admin.stats import QueryStats
from kdns.admin.upstreams import UpstreamStats
from kdns.answer.authority import Authority, ZoneSet
from kdns.answer.responder import Responder
from kdns.config import Config, EndpointMode
from kdns.control.client import ApiServer
from kdns.control.cluster import ApiSource, Source
from kdns.control.manifests import ManifestReader, ManifestSource
from kdns.control.reflector import Pace
from kdns.control.sink import Sink
from kdns.errors import ConfigError, Problem
from kdns.net.addresses import is_listened_at, own_addresses
from kdns.program import Program, raise_descriptor_limit
from kdns.proto.label import Label
from kdns.proto.message import Message, read_message
from kdns.proto.query import REFUSED, Transport
from kdns.proto.tlds import is_public_tld
from kdns.queries import QueryHandler
from kdns.upstream.forwarder import Exchanges, Forwarder
from kdns.upstream.servers import Server as Upstream
from kdns.upstream.servers import ServerList
from kdns.version import VERSION
from zones.cluster import ClusterZone
from zones.decode import Decoder
from zones.explicit import ExplicitZone
from zones.objects import Kind
from zones.pods import PodMode
from zones.reverse import reverse_key, ReverseZone
from zones.selectors import Scope
from zones.store import Change, Store
from zones.zone import Serial, Timers, Zone

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0


class Cluster:
    """The objects, the zones over them, and the answers made from those: all of kdns but its sockets."""

    def __init__(self, config: Config, *, metrics: Metrics | None = None, pace: Pace | None = None) -> None:
        self.config = config
        self.store = Store(ignore_empty_service=config.ignore_empty_service)
        self.serial = Serial(time.time())
        timers = Timers(ttl=config.ttl)
        own = own_addresses(config.listen)
        self.cluster_zones = [
            ClusterZone(origin, self.store, serial=self.serial, timers=timers, pods=config.pods, own_addresses=own)
            for origin in config.zones
        ]
        apex = self.cluster_zones[0].apex
        self.reverse_zones = [ReverseZone(origin, self.store, apex=apex, ttl=config.ttl) for origin in config.reverse]
        self.explicit_zones = [ExplicitZone(zone, self.store, ttl=config.ttl) for zone in self.cluster_zones]
        forwards = bool(config.upstreams)
        self.authority = Authority(
            ZoneSet(self.zones), forwards=forwards, reverse=frozenset(zone.origin for zone in self.reverse_zones)
        )
        self.responder = Responder(self.authority, forwards=forwards)
        self._told: set[bytes] = set()
        self.synced = trio.Event()
        self.sink = Sink(self.store, _kinds(config), on_change=self._changed, on_synced=self._synced)
        self.source = self._make_source(metrics, pace)

    @property
    def zones(self) -> list[Zone]:
        """All zones."""
        return [*self.cluster_zones, *self.reverse_zones, *self.explicit_zones]

    def load(self) -> None:
        """Read what lies on this machine: manifests, or the credentials for an API server. Raises ConfigError."""
        if isinstance(self.source, ManifestSource):
            self.source.load()
            problems = [problem for some in self.source.problems.values() for problem in some]
            if problems:
                raise ConfigError(problems)

    def counts(self) -> str:
        """Return how many objects of each kind there are, for a person."""
        numbers = ((kind.value, self.store.count(kind)) for kind in Kind if kind in self.sink.kinds)
        return ", ".join(f"{number} {name}{'' if number == 1 else 's'}" for name, number in numbers)

    def tick(self, now: float) -> None:
        """Once a second, with Unix time: let the serial move, and have the apexes' answers follow."""
        if self.serial.advance(now):
            self.responder.forget(zone.origin.key for zone in self.zones)
            self._tell_public_namespaces()

    def public_namespaces(self) -> list[bytes]:
        """List the namespaces that are named like public top-level domains: they take names of the outside world from
        clients that walk search paths (CVE-2022-2835, CVE-2022-2837)."""
        return [name for name in self.store.namespaces() if is_public_tld(name)]

    def _tell_public_namespaces(self) -> None:
        for name in self.public_namespaces():
            if name not in self._told:
                self._told.add(name)
                log.warning(
                    "namespace %s is named like a public top-level domain: clients find names that end so in it first",
                    name.decode(),
                )

    def _changed(self, change: Change) -> None:
        self.serial.changed()
        self.responder.forget(owners_of(change, self.cluster_zones))

    def _synced(self) -> None:
        self.authority.is_synced = True
        self.serial.changed()
        # What is known now stays for long: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        self.synced.set()

    def _make_source(self, metrics: Metrics | None, pace: Pace | None) -> Source:
        config = self.config
        scope = Scope(config.namespaces, config.namespace_labels, config.labels)
        decoder = Decoder(endpoint_pod_names=config.endpoint_pod_names, scope=scope)
        if config.access is None:
            return ManifestSource(config.manifests, ManifestReader(decoder, scope), self.sink)
        server = ApiServer(config.access, observe=metrics.observe_request if metrics is not None else None)
        observe: Callable[[str, float], None] | None = None
        if metrics is not None:
            histogram = metrics.programming_seconds

            def observe(kind: str, seconds: float) -> None:
                histogram.labels(kind).observe(seconds)

        return ApiSource(server, self.sink, decoder, scope, pace=pace, observe_programming=observe)


def owners_of(change: Change, zones: Iterable[ClusterZone]) -> Iterator[bytes]:
    """Yield the keys of the owner names that *change* is about, in every zone."""
    for zone in zones:
        origin = zone.origin.key
        for relative in change.forward:
            yield relative + origin
    yield from map(reverse_key, change.addresses)


def _kinds(config: Config) -> set[Kind]:
    kinds = {Kind.NAMESPACE, Kind.SERVICE}
    if config.endpoints is not EndpointMode.NONE:
        kinds.add(Kind.ENDPOINT_SLICE)
    if config.pods is PodMode.VERIFIED:
        kinds.add(Kind.POD)
    return kinds


class Server:
    """The program. *announce* is given the lines that a user sees on standard output."""

    def __init__(self, config: Config, *, announce: Callable[[str], None] = print, pace: Pace | None = None) -> None:
        self.config = config
        raise_descriptor_limit()
        self.metrics = Metrics(VERSION)
        self.cluster = Cluster(config, metrics=self.metrics, pace=pace)
        first = config.listen[0]
        host = "" if first.address in ("::", "0.0.0.0") else first.address  # noqa: S104 - compared, not bound
        self.stats = QueryStats(f"dns://{host}:{first.port}", plugin_of=plugin_of)
        self._upstream_stats = UpstreamStats()
        query_log = None
        if config.log_queries or config.log_errors:
            query_log = QueryLog(queries=config.log_queries, errors=config.log_errors)
        self._query_log = query_log
        self._exchanges: Exchanges | None = None
        self._forwarder: Forwarder[Message] | None = None
        if config.upstreams:
            self._exchanges = Exchanges()
            self._forwarder = Forwarder(
                ServerList(config.upstreams, own=self._is_own),
                self._exchanges,
                lambda wire, question, server: read_message(wire),
                observe=self._upstream_stats.observe,
            )
            self._upstream_stats.watch([self._forwarder], self._exchanges)
            self.metrics.add(self._upstream_stats)
        self.program = Program(
            "kdns",
            config.listen,
            config.admin,
            lameduck=config.lameduck,
            handler=self._handler,
            announce=announce,
        )
        self.metrics.add(self.stats)
        self.metrics.add(self._gauges())

    # -- what the admin pages ask ---------------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """List why this is not ready."""
        if self.program.is_stopping:
            return ["shutting down"]
        return [f"not synced: {kind}" for kind in self.cluster.sink.missing()]

    def troubles(self) -> list[str]:
        """List what is wrong with where the objects come from."""
        return [f"{where}: {message}" for where, message in sorted(self.cluster.sink.troubles.items())]

    def metrics_page(self) -> bytes:
        """Return the metrics page."""
        return self.metrics.page()

    def _is_own(self, server: Upstream) -> bool:
        return is_listened_at(self.config.listen, server.address, server.port)

    # -- running --------------------------------------------------------------------------------------------------

    def check_upstreams(self) -> None:
        """Raise ConfigError for an upstream that is this server itself."""
        problems = [
            Problem(f"--upstream {source}", "this server itself", "another server")
            for source in self.config.upstreams
            if isinstance(source, Upstream) and self._is_own(source)
        ]
        if problems:
            raise ConfigError(problems)

    def bind(self) -> None:
        """Bind everything. Raises ConfigError; then nothing is bound."""
        self.check_upstreams()
        self.program.bind()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses that are answered at."""
        return self.program.addresses

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until a signal ends it, or cancelled. Sockets are bound and manifests loaded already."""
        parts = [self.cluster.source.run, self._tick, self._tell_when_synced]
        if self._exchanges is not None:
            parts.insert(0, self._exchanges.run)
        await self.program.run(self, parts, task_status=task_status)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_SECONDS)
            self.cluster.tick(time.time())
            self.stats.flush()

    async def _tell_when_synced(self) -> None:
        began = trio.current_time()
        await self.cluster.synced.wait()
        self.program.announce(f"synced after {trio.current_time() - began:.2f} s: {self.cluster.counts()}")

    def _handler(self, transport: Transport, family: int) -> QueryHandler:
        return QueryHandler(
            self.cluster.responder, self.stats, self._query_log, self._forwarder, transport, family=family
        )

    def _gauges(self) -> Gauges:
        cluster, gauges = self.cluster, Gauges()
        sink, store, tables = cluster.sink, cluster.store, cluster.responder.tables
        server = self.stats.server
        one: tuple[str, ...] = ()
        gauges.add(
            "coredns_plugin_enabled",
            "A metric that indicates whether a plugin is enabled on per server and zone basis.",
            lambda: (
                [((server, zone.origin.to_text(), "", "kubernetes"), 1) for zone in cluster.zones]
                + [((server, ".", "", "forward"), 1)] * bool(self.config.upstreams)
            ),
            labels=("server", "zone", "view", "name"),
        )
        gauges.add(
            "kdns_synced", "Whether every kind of object has been complete once.", lambda: [(one, sink.is_synced)]
        )
        gauges.add(
            "kdns_objects",
            "Objects in the store by kind.",
            lambda: [((kind.value,), store.count(kind)) for kind in sink.kinds],
            labels=("kind",),
        )
        gauges.add("kdns_events", "Objects put or deleted.", lambda: [(one, sink.events)], is_counter=True)
        gauges.add(
            "kdns_bad_objects", "Objects that could not be served.", lambda: [(one, sink.bad_objects)], is_counter=True
        )
        gauges.add(
            "kdns_source_troubles",
            "Places that objects come from (kinds of an API, manifest files) with something wrong now.",
            lambda: [(one, len(sink.troubles))],
        )
        if isinstance(source := cluster.source, ApiSource):
            gauges.add(
                "kdns_watch_age_seconds",
                "Seconds since the API server last said anything about a kind.",
                lambda: [((r.kind.value,), r.age()) for r in source.reflectors],
                labels=("kind",),
            )
            gauges.add(
                "kdns_lists",
                "Whole lists asked for by kind.",
                lambda: [((r.kind.value,), r.lists) for r in source.reflectors],
                labels=("kind",),
                is_counter=True,
            )
        gauges.add(
            "kdns_answers",
            "Finished answers stored.",
            lambda: [((transport.value,), len(table)) for transport, table in tables.items()],
            labels=("proto",),
        )
        gauges.add(
            "kdns_answer_bytes",
            "Memory of the finished answers stored.",
            lambda: [((transport.value,), table.octets) for transport, table in tables.items()],
            labels=("proto",),
        )
        gauges.add(
            "kdns_public_namespaces",
            "Namespaces named like public top-level domains, which take outside names from search paths.",
            lambda: [(one, len(cluster.public_namespaces()))],
        )
        gauges.add("kdns_serial", "The serial of the zones.", lambda: [(one, cluster.serial.value)])
        gauges.add("kdns_tcp_connections", "Open TCP connections.", lambda: [(one, len(self.program.connections))])
        gauges.add(
            "kdns_tcp_closed_for_others",
            "Quiet TCP connections closed to make room for new ones.",
            lambda: [(one, self.program.connections.closed_for_others)],
            is_counter=True,
        )
        gauges.add(
            "kdns_udp_replies_lost",
            "Replies that the system would not send.",
            lambda: [(one, self.program.lost)],
            is_counter=True,
        )
        gauges.add(
            "coredns_forward_max_concurrent_rejects",
            "Counter of the number of queries rejected because the concurrent queries were at maximum.",
            lambda: [(one, self.program.shed + (self._forwarder.shed if self._forwarder else 0))],
            is_counter=True,
        )
        return gauges


def plugin_of(label: Label) -> str:
    """Return the name that CoreDNS's metrics have for what answered."""
    if not label.zone:
        return ""
    return "forward" if label.zone == "." else "kubernetes" if label.rcode != REFUSED else ""
