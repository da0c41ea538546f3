"""``kdns serve``: the parts put together, started, stopped.

Binding comes first: clients are answered at once, with SERVFAIL for what is not known yet, whether or not there is
an API server. Everything that this machine can know to be wrong ends the program before that, with status 2;
nothing that comes later does.
"""

from __future__ import annotations

import gc
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

import trio

from kdns.admin.endpoint import AdminEndpoint
from kdns.admin.logs import QueryLog
from kdns.admin.metrics import Gauges, Metrics
from kdns.admin.stats import QueryStats
from kdns.answer.authority import Authority, ZoneSet
from kdns.answer.responder import Responder
from kdns.config import Config, EndpointMode
from kdns.control.client import ApiServer
from kdns.control.cluster import ApiSource, Source
from kdns.control.manifests import ManifestReader, ManifestSource
from kdns.control.reflector import Pace
from kdns.control.sink import Sink
from kdns.errors import ConfigError, Problem
from kdns.net.addresses import bind, bind_pair, is_listened_at, own_addresses
from kdns.net.tcp import Connections, TcpListener
from kdns.net.udp import UdpListener
from kdns.proto.query import Transport
from kdns.queries import QueryHandler
from kdns.upstream.forwarder import Forwarder
from kdns.upstream.servers import Server as Upstream
from kdns.upstream.servers import ServerList
from kdns.version import VERSION
from zones.cluster import ClusterZone
from zones.decode import Decoder
from zones.objects import Kind
from zones.pods import PodMode
from zones.reverse import reverse_key, ReverseZone
from zones.selectors import Scope
from zones.store import Change, Store
from zones.zone import Serial, Timers, Zone

DRAIN_SECONDS: Final = 4.5
"""Responses on their way through upstreams have at most 4 s to go when the listeners stop."""

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
        forwards = bool(config.upstreams)
        self.authority = Authority(
            ZoneSet(self.zones), forwards=forwards, reverse=frozenset(zone.origin for zone in self.reverse_zones)
        )
        self.responder = Responder(self.authority, forwards=forwards)
        self.synced = trio.Event()
        self.sink = Sink(self.store, _kinds(config), on_change=self._changed, on_synced=self._synced)
        self.source = self._make_source(metrics, pace)

    @property
    def zones(self) -> list[Zone]:
        """All zones."""
        return [*self.cluster_zones, *self.reverse_zones]

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
        self.metrics = Metrics(VERSION)
        self.cluster = Cluster(config, metrics=self.metrics, pace=pace)
        self._announce = _quietly(announce)
        self._stopping = False
        first = config.listen[0]
        host = "" if first.address in ("::", "0.0.0.0") else first.address  # noqa: S104 - compared, not bound
        self.stats = QueryStats(f"dns://{host}:{first.port}")
        self.connections = Connections()
        query_log = None
        if config.log_queries or config.log_errors:
            query_log = QueryLog(queries=config.log_queries, errors=config.log_errors)
        self._query_log = query_log
        self._forwarder = (
            Forwarder(ServerList(config.upstreams, own=self._is_own), observe=self.metrics.observe_upstream)
            if config.upstreams
            else None
        )
        self._udp: list[UdpListener] = []
        self._tcp: list[tuple[int, socket.socket]] = []
        self._admin: list[socket.socket] = []
        self.metrics.add(self.stats)
        self.metrics.add(self._gauges())

    # -- what the admin pages ask ---------------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """List why this is not ready."""
        if self._stopping:
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
        problems: list[Problem] = []
        for listen in self.config.listen:
            try:
                udp, tcp = bind_pair(listen, "--listen")
            except ConfigError as exc:
                problems += exc.problems
                continue
            for family, sock in udp:
                self._udp.append(UdpListener(sock, self._handler(Transport.UDP, family)))
            self._tcp += tcp
        for admin in self.config.admin:
            try:
                self._admin += [sock for _, sock in bind(admin, socket.SOCK_STREAM, "--admin")]
            except ConfigError as exc:
                problems += exc.problems
        if problems:
            self.close()
            raise ConfigError(problems)

    def close(self) -> None:
        """Close all sockets."""
        for sock in (*(udp.sock for udp in self._udp), *(sock for _, sock in self._tcp), *self._admin):
            sock.close()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses that are answered at."""
        return [udp.sock.getsockname()[:2] for udp in self._udp]

    @property
    def admin_addresses(self) -> list[tuple[str, int]]:
        """The addresses of the admin pages."""
        return [sock.getsockname()[:2] for sock in self._admin]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until a signal ends it, or cancelled. Sockets are bound and manifests loaded already."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_on_signals, nursery.cancel_scope)
                for listener in self._udp:
                    await nursery.start(listener.serve)
                for family, sock in self._tcp:
                    stream = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
                    tcp = TcpListener(stream, self._handler(Transport.TCP, family), self.connections)
                    await nursery.start(tcp.serve)
                await nursery.start(AdminEndpoint(self._admin, self).serve)
                for address, port in self.addresses:
                    self._announce(f"kdns: answering on {_text(address, port)} (udp, tcp)")
                for address, port in self.admin_addresses:
                    self._announce(f"kdns: metrics, health and readiness on http://{_text(address, port)}")
                nursery.start_soon(self.cluster.source.run)
                nursery.start_soon(self._tick)
                nursery.start_soon(self._tell_when_synced)
                task_status.started()
        finally:
            self.close()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_SECONDS)
            self.cluster.tick(time.time())
            self.stats.flush()

    async def _tell_when_synced(self) -> None:
        began = trio.current_time()
        await self.cluster.synced.wait()
        self._announce(f"kdns: synced after {trio.current_time() - began:.2f} s: {self.cluster.counts()}")

    async def _end_on_signals(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            first = await anext(aiter(signals))
            self._stopping = True
            if first == signal.SIGTERM and self.config.lameduck:
                self._announce(f"kdns: SIGTERM: unready, answering for {self.config.lameduck:g} s more")
                with trio.move_on_after(self.config.lameduck):
                    await anext(aiter(signals))
            with trio.move_on_after(DRAIN_SECONDS):
                for udp in self._udp:
                    await udp.drained()
                while self.connections.pending:  # noqa: ASYNC110 - for seconds at most, once in a life
                    await trio.sleep(0.05)
            self._announce("kdns: stopped")
            scope.cancel()

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
        gauges.add("kdns_serial", "The serial of the zones.", lambda: [(one, cluster.serial.value)])
        gauges.add("kdns_tcp_connections", "Open TCP connections.", lambda: [(one, len(self.connections))])
        gauges.add(
            "kdns_tcp_closed_for_others",
            "Quiet TCP connections closed to make room for new ones.",
            lambda: [(one, self.connections.closed_for_others)],
            is_counter=True,
        )
        gauges.add(
            "kdns_udp_replies_lost",
            "Replies that the system would not send.",
            lambda: [(one, sum(udp.lost for udp in self._udp))],
            is_counter=True,
        )
        gauges.add(
            "coredns_forward_max_concurrent_rejects",
            "Counter of the number of queries rejected because the concurrent queries were at maximum.",
            lambda: [(one, sum(udp.shed for udp in self._udp) + (self._forwarder.rejected if self._forwarder else 0))],
            is_counter=True,
        )
        return gauges


def _quietly(announce: Callable[[str], None]) -> Callable[[str], None]:
    """Have *announce* survive that nobody reads standard output any more: that must not end a DNS server."""

    def announce_quietly(line: str) -> None:
        with suppress(OSError, ValueError):
            announce(line)

    return announce_quietly


def _text(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
