"""``nodelocal serve``: the parts put together, started, stopped."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from kdns.admin.logs import QueryLog
from kdns.admin.metrics import Metrics, tap_gauges
from kdns.admin.pages import StatusPages
from kdns.admin.stats import QueryStats
from kdns.admin.status import Rates, Status
from kdns.admin.upstreams import UpstreamStats
from kdns.errors import ConfigError, Problem
from kdns.net.addresses import is_listened_at, Listen
from kdns.net.cookies import WithCookies
from kdns.net.fairness import Fairness
from kdns.net.handler import Handler
from kdns.net.listeners import Listeners, Sockets
from kdns.program import Program, raise_descriptor_limit
from kdns.proto.query import Transport
from kdns.reload import Reloads
from kdns.static import StaticSource
from kdns.tap import Tap, WithTap
from kdns.upstream.cookies import UpstreamCookies
from kdns.upstream.forwarder import Exchanges, Forwarder
from kdns.upstream.servers import Server as Upstream
from kdns.upstream.servers import ServerList
from kdns.upstream.stream import StreamQuestions
from kdns.version import VERSION
from nodelocal.cache import Cache
from nodelocal.cluster import in_order
from nodelocal.config import Config, STATIC_TTL
from nodelocal.control import Control
from nodelocal.entry import Entry
from nodelocal.expand import Expander
from nodelocal.feed import FeedClient
from nodelocal.follow import follow, Json, take_said, watcher_command
from nodelocal.local import Local
from nodelocal.loops import LoopGuard
from nodelocal.metrics import gauges_of
from nodelocal.pods import NodePods
from nodelocal.queries import Front, plugin_of
from nodelocal.resolver import Resolver
from nodelocal.route import CLUSTER, UPSTREAM
from nodelocal.routes import Routes
from nodelocal.subscriptions import Subscriptions
from nodelocal.telling import explanation
from zones.names import Name
from zones.records import rrtype_from_text
from zones.rewrite import Rewrites
from zones.static import StaticRecords

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0
GC_THRESHOLDS: Final = (50_000, 20, 100)


class Server:
    """The program. *announce* is given the lines that a user sees on standard output."""

    def __init__(self, config: Config, *, announce: Callable[[str], None] = print) -> None:
        self.config = config
        self._is_supervised = False
        self._watch_trouble = ""
        self.counted: dict[str, float] = {}
        """What the supervisor counts, by the name of its metric."""
        raise_descriptor_limit()
        first = config.listen[0]
        host = "" if first.address in ("::", "0.0.0.0") else first.address  # noqa: S104 - compared, not bound
        self.stats = QueryStats(f"dns://{host}:{first.port}", plugin_of=plugin_of)
        self.upstream_stats = UpstreamStats()
        self.exchanges = Exchanges(StreamQuestions(partial(tls_context, config)))
        self.tap = Tap(config.dnstap, "nodelocal", VERSION) if config.dnstap is not None else None
        self.exchanges.tap = self.tap
        routes = Routes(config.cluster_zones, [*config.stubs], has_upstream=bool(config.upstreams))
        self.routes = routes
        cache = Cache(config.limits, cuts=self._cuts)
        self.resolver = Resolver(cache, routes, self.exchanges.timers)
        self.static = StaticSource(config.records, config.hosts, ttl=STATIC_TTL, on_change=self._static_changed)
        if config.records or config.hosts or config.rewrites:
            self.resolver.local = Local(Rewrites(config.rewrites))
        groups = {CLUSTER: config.cluster, UPSTREAM: config.upstreams}
        groups |= {zone.to_text(): servers for zone, servers in config.stubs.items()}
        self.forwarders = self.resolver.forwarders
        cookies = UpstreamCookies() if config.cookie_secret is not None else None
        for group, sources in groups.items():
            if sources or (group == CLUSTER and config.cluster_service is not None):
                self.forwarders[group] = Forwarder(
                    ServerList(sources, own=self._is_own),
                    self.exchanges,
                    self.resolver.read,
                    observe=self.upstream_stats.observe,
                    is_one_zone=group != UPSTREAM,
                    randomizes_case=config.random_case,
                    cookies=cookies,
                )
        self.upstream_stats.watch(list(self.forwarders.values()), self.exchanges)
        self.pods = NodePods() if config.node is not None else None
        self.expander = Expander(
            self.resolver,
            config.cluster_zones,
            config.expand,
            domains=self._domains,
            pods=self.pods,
            absolute_first=config.absolute_first,
        )
        query_log = None
        if config.log_queries or config.log_errors:
            query_log = QueryLog(queries=config.log_queries, errors=config.log_errors)
        self.front = Front(
            self.resolver,
            self.expander,
            LoopGuard(self.forwarders, self._zones_of_groups()),
            self.stats,
            query_log,
            Fairness(config.client_rate, config.client_slip) if config.client_rate else None,
        )
        self.listeners = Listeners(self._handler)
        self.program = Program(
            "nodelocal",
            config.listen,
            config.admin,
            self.listeners,
            lameduck=config.lameduck,
            announce=announce,
        )
        if config.subscribe:
            subscriptions = Subscriptions(cache, self.resolver.is_cluster)
            self.resolver.feed = FeedClient(subscriptions, self.exchanges.streams, self._dropped)
        self.control = Control(self, config.control)
        self.metrics = Metrics(VERSION)
        self.reloads = Reloads()
        self._gauges = gauges_of(self.front, self.listeners, self.stats.server, self.troubles, self.counted)
        for collector in (
            self.stats,
            self.upstream_stats,
            self.reloads.gauges(),
            self._gauges,
        ):
            self.metrics.add(collector)
        if self.tap is not None:
            self.metrics.add(tap_gauges(self.tap))

    # -- what the status page asks --------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return the routes, and what is in the cache."""
        cache = self.resolver.cache
        groups = {
            group: [str(server) for server in some.servers.all(trio.current_time())]
            for group, some in self.forwarders.items()
        }
        pods = [] if self.pods is None else [("pods of this node", len(self.pods))]
        feed = self.resolver.feed
        return {
            "addresses": [str(Listen(*address)) for address in self.addresses],
            "asker": "as the client with the address",
            "zones_head": ["zone", "asked"],
            "zones": [
                [route.zone.to_text(), ", ".join(groups.get(route.servers, ())) or "nobody"]
                for route in self.routes.all
            ],
            "objects": {},
            "watches": {},
            "figures": [
                ("entries cached", sum(cache.counts)),
                ("of the cache in use", f"{sum(cache.octets) / cache.limits.max_octets:.0%}"),
            ],
            "numbers": [
                *pods,
                ("cached denials", cache.counts[1]),
                ("evictions", sum(cache.evictions)),
                ("finished answers", sum(map(len, self.front.finished.tables.values()))),
                ("search paths walked", sum(self.expander.endings.values())),
                ("questions on their way", sum(map(len, self.forwarders.values()))),
                ("TCP connections", len(self.listeners.connections)),
                ("subscriptions", len(feed.subscriptions) if feed is not None and feed.is_connected else 0),
            ],
        }

    def client_name(self, address: str) -> str:
        """Return the pod that has an address, where the node's pods are known."""
        pod = self.pods.at(address) if self.pods is not None else None
        return "" if pod is None else f"{pod.namespace.decode()}/{pod.name.decode()}"

    async def rates(self, count: int) -> Rates:
        """Return who asks most, and for what."""
        return self.listeners.sampler.rates(count)

    async def explain(self, name: str, rrtype: str, asker: str) -> list[str]:
        """Explain a question, of the client with the address *asker* if there is one. Raises ValueError."""
        if not name:
            raise ValueError("no name")
        return list(
            explanation(await self.control.explain(Name.from_text(name), rrtype_from_text(rrtype), asker or None))
        )

    # -- what the admin pages ask ---------------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """List why this is not ready."""
        if self.program.is_unready:
            return ["shutting down"]
        if self.pods is not None and not self.pods.is_synced:
            return ["not synced: Pod"]
        return []

    def troubles(self) -> list[str]:
        """List what is wrong with those who are asked."""
        troubles = [
            f"upstream {server}: it asks this server in turn"
            for forwarder in self.forwarders.values()
            for server in forwarder.servers.looping
        ]
        troubles += [f"{group}: no server answers" for group, some in self.forwarders.items() if some.is_failing]
        if self.pods is not None and self.pods.trouble:
            troubles.append(self.pods.trouble)
        if self._watch_trouble:
            troubles.append(self._watch_trouble)
        troubles += self.reloads.troubles()
        if self.tap is not None and self.tap.trouble:
            troubles.append(self.tap.trouble)
        return troubles + self.static.troubles()

    async def metrics_page(self) -> bytes:
        """Return the metrics page."""
        return self.metrics.page()

    def _handler(self, transport: Transport, family: int) -> Handler:
        handler: Handler = self.front.handler(transport, family)
        secret = self.config.cookie_secret
        proven = handler if secret is None else WithCookies(handler, secret)
        return WithTap(proven, self.tap, transport) if self.tap is not None else proven

    # -- running --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ConfigError for an upstream that is this server itself, and for certificates that cannot be read."""
        config = self.config
        named = [("--cluster", server) for server in config.cluster]
        named += [("--upstream", server) for server in config.upstreams if isinstance(server, Upstream)]
        named += [(f"--stub {zone}", server) for zone, servers in config.stubs.items() for server in servers]
        problems = [
            Problem(f"{place} {server}", "this server itself", "another server")
            for place, server in named
            if self._is_own(server)
        ]
        try:
            tls_context(config)
        except (OSError, ssl.SSLError) as exc:
            problems.append(Problem(f"--tls-ca {config.tls_ca}", str(exc), "PEM certificates"))
        if problems:
            raise ConfigError(problems)

    def load(self, *, tells: bool = True) -> None:
        """Read the hosts files; unless it *tells*, bad lines are in ``static.problems`` alone."""
        if self.resolver.local is not None:
            self.static.load(tells=tells)

    def _dropped(self) -> None:
        """Have what was made of dropped entries follow them."""
        self.front.finished.forget()
        self.expander.forget()

    def _static_changed(self, records: StaticRecords) -> None:
        assert self.resolver.local is not None  # without static records nobody reads any
        self.resolver.local.records = records
        self._dropped()

    def bind(self) -> None:
        """Bind everything. Raises ConfigError; then nothing is bound."""
        self.check()
        self.program.bind()
        try:
            self.control.bind()
        except ConfigError:
            self.program.close()
            raise

    def watched(self, said: Json) -> None:
        """Take what the watcher says."""
        if "servers" in said:
            self._watch_trouble = ""
            self._cluster_moved(said["servers"])
        elif "servers_trouble" in said:
            self._watch_trouble = said["servers_trouble"] or ""
        elif self.pods is not None:
            take_said(self.pods, said)
        elif "trouble" in said:
            self._watch_trouble = said["trouble"] or ""

    def _cluster_moved(self, told: object) -> None:
        try:
            servers = in_order(told, self.pods)
        except (ValueError, TypeError) as exc:
            log.warning("the watcher wrote something else: %s", exc)
            return
        if not servers:
            log.warning("the cluster's DNS has no ready endpoint; --cluster is asked, where it has addresses")
        self.forwarders[CLUSTER].servers.tell(servers)

    def adopt(self, sockets: Sockets, admin: Sequence[socket.socket], control: socket.socket) -> None:
        """Take sockets that the supervisor has bound; it follows the signals, and the node's pods, too."""
        self._is_supervised = True
        self.program.adopt([sockets], admin)
        self.control.adopt(control)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses that are answered at."""
        return self.program.addresses

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until a signal ends it, or cancelled. Sockets are bound already."""
        parts: list[Callable[[], Awaitable[None]]] = [
            self._tick,
            self.front.finished.run,
            self.front.guard.run,
            self.control.serve,
            self.static.run,
        ]
        if self.resolver.feed is not None:
            parts.append(self.resolver.feed.run)
        if self.tap is not None:
            parts.append(self.tap.run)
        if self.config.is_watching and not self._is_supervised:
            parts.append(partial(follow, self.watched, watcher_command(self.config)))
        # What is there now stays, and questions leave no circles behind: the collector has little to find, and walks
        # the whole cache each time it looks. With its own thresholds it took three quarters of a miss's time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.exchanges.run)
                pages = StatusPages(
                    Status("nodelocal", self, [self.stats, self.upstream_stats, self._gauges]), self.config.status
                )
                await self.program.run(
                    self, parts, heeds_signals=not self._is_supervised, pages=pages, task_status=task_status
                )
                nursery.cancel_scope.cancel()
        finally:
            self.control.close()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_SECONDS)
            self.stats.flush()
            self.listeners.sampler.fade()

    def _domains(self) -> tuple[Name, ...]:
        """Return the host's search domains: those configured, else those of the resolv.conf files that are followed."""
        if self.config.search is not None:
            return self.config.search
        forwarder = self.forwarders.get(UPSTREAM)
        if forwarder is None:
            return ()
        return forwarder.servers.search(trio.current_time())

    def _zones_of_groups(self) -> dict[str, Name]:
        """Return the zone that each group of servers is asked for, or one of them."""
        zones = {route.servers: route.zone for route in self.routes.all}
        return zones | {CLUSTER: self.config.cluster_zones[0]}

    def _is_own(self, server: Upstream) -> bool:
        return is_listened_at(self.config.listen, server.address, server.port)

    def _cuts(self, above: Name, name: Name, entry: Entry) -> bool:
        """Tell whether an NXDOMAIN of the name *above* stands for *name* below it (RFC 8020).

        Whoever said it must speak for *name*, too. CoreDNS denies names in cluster zones that exist through names
        below them alone; kdns does not.
        """
        route = self.routes.of(name)
        if route is None or self.routes.of(above) is not route:
            return False
        return entry.note is not None or not route.is_cluster


def tls_context(config: Config) -> ssl.SSLContext:
    """Return the context for ``tls://`` servers: the system's trust, or the certificates configured."""
    context = ssl.create_default_context(cafile=None if config.tls_ca is None else str(config.tls_ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8310 section 8.1
    return context
