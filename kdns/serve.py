"""``kdns serve``: the parts put together, started, stopped.

Binding comes first: clients are answered at once, with SERVFAIL for what is not known yet, whether or not there is
an API server. Everything that this machine can know to be wrong ends the program before that, with status 2;
nothing that comes later does.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from kdns.admin.logs import QueryLog
from kdns.admin.metrics import Metrics
from kdns.admin.stats import QueryStats
from kdns.admin.upstreams import UpstreamStats
from kdns.answer.authority import STATIC
from kdns.answer.push import Feed
from kdns.answer.session import DsoSession
from kdns.answer.transfer import Transfers
from kdns.certificate import Certificate
from kdns.cluster import Cluster, is_listed
from kdns.config import Config, PushMode
from kdns.control.reflector import Pace
from kdns.errors import ConfigError, Problem
from kdns.gauges import gauges_of
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

GC_THRESHOLDS: Final = (50_000, 20, 100)
"""Objects more, before the collector looks for cycles: what this program makes has next to none, and a look at what
came since the last one costs a tenth of the time that a list takes."""

GATHER_SECONDS: Final = 0.002
"""Changes of this long go out together: one look-up of a name for a slice and its Service."""
PUSH_SECONDS: Final = 0.005
"""Pushing for longer than this lets queries in between."""


class Server:
    """The program. *announce* is given the lines that a user sees on standard output."""

    def __init__(self, config: Config, *, announce: Callable[[str], None] = print, pace: Pace | None = None) -> None:
        self.config = config
        self._certificate: Certificate | None = None
        if config.tls_cert is not None and config.tls_key is not None:
            self._certificate = Certificate(config.tls_cert, config.tls_key)
        raise_descriptor_limit()
        gc.set_threshold(*GC_THRESHOLDS)
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
            listen_tls=config.listen_tls,
            tls=self._certificate.context if self._certificate is not None else None,
            sessions=self._open_session if self.cluster.feed is not None else None,
            has_plain_sessions=config.push is PushMode.TCP,
        )
        self.metrics.add(self.stats)
        self.metrics.add(
            gauges_of(
                self.cluster,
                self.program,
                self.stats.server,
                forwarder=self._forwarder,
                transfers=self._transfers,
                notifier=self._notifier,
                troubles=self.troubles,
            )
        )

    # -- what the admin pages ask ---------------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """List why this is not ready."""
        if self.program.is_stopping:
            return ["shutting down"]
        return sorted(f"not synced: {kind.value}" for kind in self.cluster.sink.missing())

    def troubles(self) -> list[str]:
        """List what is wrong with where the objects come from."""
        troubles = self.cluster.troubles() + (self._notifier.troubles() if self._notifier is not None else [])
        if self._certificate is not None and self._certificate.trouble:
            troubles.append(self._certificate.trouble)
        return troubles

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

    def check_certificate(self) -> None:
        """Raise ConfigError for a certificate, or its key, that cannot be used."""
        if self._certificate is not None:
            self._certificate.load()

    def bind(self) -> None:
        """Bind everything. Raises ConfigError; then nothing is bound."""
        self.check_upstreams()
        self.check_certificate()
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
        if self.cluster.feed is not None:
            parts.append(partial(self._push, self.cluster.feed))
        if self._certificate is not None:
            parts.append(self._certificate.run)
        if self._exchanges is not None:
            parts.insert(0, self._exchanges.run)
        await self.program.run(self, parts, task_status=task_status)

    def _open_session(self, send: Callable[[bytes], None], cut: Callable[[], None]) -> DsoSession:
        assert self.cluster.feed is not None  # else there are no sessions
        return DsoSession(self.cluster.feed, send, cut, trio.current_time())

    async def _push(self, feed: Feed) -> None:
        """Push changes: those that come close together at once, and queries are answered meanwhile."""
        while True:
            await self.cluster.news.wait()
            await trio.sleep(GATHER_SECONDS)
            self.cluster.news = trio.Event()
            began = trio.current_time()
            for _ in feed.flush():
                if trio.current_time() - began > PUSH_SECONDS:
                    await trio.lowlevel.checkpoint()
                    began = trio.current_time()

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


def plugin_of(label: Label) -> str:
    """Return the name that CoreDNS's metrics have for what answered."""
    if not label.zone:
        return ""
    if label.zone in _PLUGINS:
        return _PLUGINS[label.zone]
    return "kubernetes" if label.rcode != REFUSED else ""


_PLUGINS: Final = {".": "forward", STATIC: "hosts"}
