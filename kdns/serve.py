"""``kdns serve``: the parts put together, started, stopped.

Binding comes first: clients are answered at once, with SERVFAIL for what is not known yet, whether or not there is
an API server. Everything that this machine can know to be wrong ends the program before that, with status 2;
nothing that comes later does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import trio

from kdns.admin.logs import QueryLog
from kdns.admin.metrics import Gauges, Metrics
from kdns.admin.stats import QueryStats
from kdns.admin.upstreams import UpstreamStats
from kdns.answer.authority import STATIC
from kdns.answer.transfer import Transfers
from kdns.cluster import Cluster, is_listed
from kdns.config import Config
from kdns.control.cluster import ApiSource
from kdns.control.reflector import Pace
from kdns.errors import ConfigError, Problem
from kdns.net.addresses import is_listened_at
from kdns.notify import Notifier
from kdns.program import Program, raise_descriptor_limit
from kdns.proto.label import Label
from kdns.proto.message import Message, read_message
from kdns.proto.query import REFUSED, Transport
from kdns.queries import QueryHandler
from kdns.upstream.forwarder import Exchanges, Forwarder
from kdns.upstream.servers import Server as Upstream
from kdns.upstream.servers import ServerList
from kdns.version import VERSION

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0


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
        listed = [zone.origin for zone in self.cluster.zones.all if is_listed(zone)]
        unlisted = [zone.origin for zone in self.cluster.zones.all if not is_listed(zone)]
        self._transfers: Transfers | None = None
        if config.transfer_to:
            self._transfers = Transfers(listed, unlisted, config.transfer_to, self.cluster.records_of)
        self._notifier: Notifier | None = None
        if config.notify:
            self._notifier = Notifier(config.notify, self.cluster.soa_of)
            self.cluster.on_serials = self._notifier.changed
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
        return sorted(f"not synced: {kind.value}" for kind in self.cluster.sink.missing())

    def troubles(self) -> list[str]:
        """List what is wrong with where the objects come from."""
        return self.cluster.troubles() + (self._notifier.troubles() if self._notifier is not None else [])

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
        parts = [self.cluster.source.run, self.cluster.static.run, self._tick, self._tell_when_synced]
        if self._notifier is not None:
            parts.append(self._notifier.run)
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
            self.cluster.responder,
            self.stats,
            self._query_log,
            self._forwarder,
            transport,
            family=family,
            transfers=self._transfers,
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
                [((server, zone.origin.to_text(), "", "kubernetes"), 1) for zone in cluster.zones.all]
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
        if (outside := store.outside) is not None:
            gauges.add(
                "kdns_hostname_conflicts",
                "Hostnames that several objects claim which lead to different places; the oldest has it.",
                lambda: [(one, len(outside.conflicts))],
            )
        gauges.add(
            "kdns_serial",
            "The serial of each zone.",
            lambda: [
                ((zone.origin.to_text(),), group.serial.value) for group in cluster.zones.groups for zone in group.zones
            ],
            labels=("zone",),
        )
        if (transfers := self._transfers) is not None:
            gauges.add(
                "kdns_transfers",
                "Zone transfers asked for, by what came of them: whole, current (the SOA alone) or refused.",
                lambda: list(transfers.done.items()),
                labels=("zone", "result"),
                is_counter=True,
            )
        if (notifier := self._notifier) is not None:
            gauges.add("kdns_notifies", "NOTIFY messages sent.", lambda: [(one, notifier.sent)], is_counter=True)
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
    if label.zone in _PLUGINS:
        return _PLUGINS[label.zone]
    return "kubernetes" if label.rcode != REFUSED else ""


_PLUGINS: Final = {".": "forward", STATIC: "hosts"}
