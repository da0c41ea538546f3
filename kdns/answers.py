"""What answers queries from a cluster's objects: the listeners, what they ask and what they count.

It is the whole of a worker, and most of a kdns of one process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from kdns.admin.logs import QueryLog
from kdns.admin.metrics import Collector, tap_gauges
from kdns.admin.stats import QueryStats
from kdns.admin.upstreams import UpstreamStats
from kdns.answer.authority import STATIC
from kdns.answer.push import Feed
from kdns.answer.session import DsoSession
from kdns.answer.transfer import Transfers
from kdns.certificate import Certificate
from kdns.cluster import Cluster
from kdns.config import Config, PushMode
from kdns.gauges import answer_gauges
from kdns.net.addresses import is_listened_at
from kdns.net.cookies import WithCookies
from kdns.net.fairness import Fairness
from kdns.net.handler import Handler
from kdns.net.listeners import Listeners
from kdns.proto.label import Label
from kdns.proto.message import Message, read_message
from kdns.proto.query import REFUSED, Transport
from kdns.queries import QueryHandler
from kdns.tap import Tap, WithTap
from kdns.upstream.forwarder import Exchanges, Forwarder
from kdns.upstream.servers import Server as Upstream
from kdns.upstream.servers import ServerList
from kdns.version import VERSION

GATHER_SECONDS: Final = 0.002
"""Changes of this long go out together: one look-up of a name for a slice and its Service."""
PUSH_SECONDS: Final = 0.005
"""Pushing for longer than this lets queries in between."""


class Answers:
    """Answers from *cluster* on ``listeners``."""

    def __init__(self, config: Config, cluster: Cluster) -> None:
        self.config = config
        self.cluster = cluster
        self.certificate: Certificate | None = None
        if config.tls_cert is not None and config.tls_key is not None:
            self.certificate = Certificate(config.tls_cert, config.tls_key)
        self.stats = QueryStats(server_label(config), plugin_of=plugin_of)
        self._query_log: QueryLog | None = None
        if config.log_queries or config.log_errors:
            self._query_log = QueryLog(queries=config.log_queries, errors=config.log_errors)
        self._transfers: Transfers | None = None
        if config.transfer_to:
            listed = [origin for group in cluster.zones.groups for origin in group.listed]
            unlisted = [zone.origin for zone in cluster.zones.all if zone.origin not in listed]
            self._transfers = Transfers(listed, unlisted, config.transfer_to, cluster.records_of)
        self._fairness = Fairness(config.client_rate, config.client_slip) if config.client_rate else None
        self.tap = Tap(config.dnstap, "kdns", VERSION) if config.dnstap is not None else None
        self._exchanges: Exchanges | None = None
        self._forwarder: Forwarder[Message] | None = None
        self.listeners = Listeners(
            self._handler,
            gathers=not config.upstreams,
            tls=self.certificate.context if self.certificate is not None else None,
            wait_for_tls=self.certificate.wait if self.certificate is not None else None,
            sessions=self._open_session if cluster.feed is not None else None,
            has_plain_sessions=config.push is PushMode.TCP,
        )
        self.collectors: list[Collector] = [self.stats]
        """What tells its metrics."""
        if config.upstreams:
            upstream_stats = UpstreamStats()
            self._exchanges = Exchanges()
            self._exchanges.tap = self.tap
            self._forwarder = Forwarder(
                ServerList(config.upstreams, own=partial(is_own, config)),
                self._exchanges,
                lambda wire, question, server: read_message(wire),
                observe=upstream_stats.observe,
            )
            upstream_stats.watch([self._forwarder], self._exchanges)
            self.collectors.append(upstream_stats)
        self.collectors.append(
            answer_gauges(
                cluster,
                self.listeners,
                forwarder=self._forwarder,
                transfers=self._transfers,
                fairness=self._fairness,
            )
        )
        if self.tap is not None:
            self.collectors.append(tap_gauges(self.tap))

    def parts(self) -> list[Callable[[], Awaitable[None]]]:
        """Return what runs beside the listeners."""
        parts: list[Callable[[], Awaitable[None]]] = []
        if self._exchanges is not None:
            parts.append(self._exchanges.run)
        parts += [self.cluster.source.run, self.cluster.static.run]
        if self.cluster.feed is not None:
            parts.append(partial(self._push, self.cluster.feed))
        if self.certificate is not None:
            parts.append(self.certificate.run)
        if self.tap is not None:
            parts.append(self.tap.run)
        return parts

    def tick(self) -> None:
        """Once a second."""
        self.cluster.tick()
        self.stats.flush()
        self.listeners.sampler.fade()

    def troubles(self) -> list[str]:
        """List what is wrong with where objects and records come from, and with the certificate."""
        troubles = self.cluster.troubles()
        if self.certificate is not None and self.certificate.trouble:
            troubles.append(self.certificate.trouble)
        if self.tap is not None and self.tap.trouble:
            troubles.append(self.tap.trouble)
        return troubles

    def _handler(self, transport: Transport, family: int) -> Handler:
        handler = QueryHandler(
            self.cluster.responder,
            self.stats,
            self._query_log,
            self._forwarder,
            transport,
            family=family,
            transfers=self._transfers,
            fairness=self._fairness,
        )
        secret = self.config.cookie_secret
        proven = WithCookies(handler, secret) if secret is not None else handler
        return WithTap(proven, self.tap, transport) if self.tap is not None else proven

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


def server_label(config: Config) -> str:
    """Return what CoreDNS's metrics call the server."""
    first = config.listen[0]
    host = "" if first.address in ("::", "0.0.0.0") else first.address  # noqa: S104 - compared, not bound
    return f"dns://{host}:{first.port}"


def is_own(config: Config, server: Upstream) -> bool:
    """Tell whether *server* is this program itself."""
    return is_listened_at(config.listen, server.address, server.port)


def plugin_of(label: Label) -> str:
    """Return the name that CoreDNS's metrics have for what answered."""
    if not label.zone:
        return ""
    if label.zone in _PLUGINS:
        return _PLUGINS[label.zone]
    return "kubernetes" if label.rcode != REFUSED else ""


_PLUGINS: Final = {".": "forward", STATIC: "hosts"}
