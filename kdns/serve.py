"""``kdns serve`` in one process: the parts put together, started, stopped.

Binding comes first: clients are answered at once, with SERVFAIL for what is not known yet, whether or not there is
an API server. Everything that this machine can know to be wrong ends the program before that, with status 2;
nothing that comes later does.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from kdns.admin.metrics import Metrics
from kdns.admin.pages import StatusPages
from kdns.admin.status import Rates, Status
from kdns.answers import Answers, is_own, server_label
from kdns.cluster import api_or_manifests, Cluster, counts_of
from kdns.config import Config
from kdns.control.resource import Pace
from kdns.control.sink import Sink
from kdns.errors import ConfigError, Problem
from kdns.gauges import cluster_gauges
from kdns.overview import explained, overview
from kdns.program import Program, raise_descriptor_limit
from kdns.proto.query import Transport
from kdns.reload import Reloads
from kdns.serials import Serials
from kdns.snapshot import describe, Snapshots
from kdns.upstream.servers import Server as Upstream
from kdns.version import VERSION

TICK_SECONDS: Final = 1.0

GC_THRESHOLDS: Final = (50_000, 20, 100)
"""Objects more, before the collector looks for cycles: what this program makes has next to none, and a look at what
came since the last one costs a tenth of the time that a list takes."""


class Server:
    """The program. *announce* is given the lines that a user sees on standard output."""

    def __init__(self, config: Config, *, announce: Callable[[str], None] = print, pace: Pace | None = None) -> None:
        self.config = config
        raise_descriptor_limit()
        gc.set_threshold(*GC_THRESHOLDS)
        self.metrics = Metrics(VERSION)
        self._serials = Serials(config)
        self.cluster = Cluster(config, api_or_manifests(config, self.metrics, pace), serial_of=self._serials.first)
        self._serials.watch(self.cluster.zones)
        self.snapshots = snapshots_of(config, self.cluster.sink)
        self.answers = Answers(config, self.cluster)
        self.program = Program(
            "kdns",
            config.listen,
            config.admin,
            self.answers.listeners,
            lameduck=config.lameduck,
            announce=announce,
            listen_tls=config.listen_tls,
        )
        self.reloads = Reloads()
        for collector in (*self.answers.collectors, self.reloads.gauges()):
            self.metrics.add(collector)
        self.metrics.add(
            cluster_gauges(
                self.cluster.sink,
                self.cluster.source,
                self.cluster.zones,
                server_label(config),
                has_upstreams=bool(config.upstreams),
                notifier=self._serials.notifier,
                troubles=self.troubles,
                snapshots=self.snapshots,
            )
        )

    # -- what the status page asks --------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return what is known of zones and objects."""
        cluster, listeners = self.cluster, self.answers.listeners
        figures = [("finished answers", len(cluster.responder.tables[Transport.UDP]))]
        numbers = [("TCP connections", len(listeners.connections)), ("events", cluster.sink.events)]
        return overview(cluster.sink, cluster.source, cluster.zones, self.addresses, figures, numbers)

    def client_name(self, address: str) -> str:
        """Return nothing: clients are known by their addresses here."""
        return ""

    async def rates(self, count: int) -> Rates:
        """Return who asks most, and for what."""
        return self.answers.listeners.sampler.rates(count)

    async def explain(self, name: str, rrtype: str, asker: str) -> list[str]:
        """Explain a question. Raises ValueError."""
        return explained(self.cluster, name, rrtype, asker)

    # -- what the admin pages ask ---------------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """List why this is not ready."""
        if self.program.is_unready:
            return ["shutting down"]
        if self.config.ready_when_stale and self.cluster.sink.is_stale:
            return []
        return sorted(f"not synced: {kind.value}" for kind in self.cluster.sink.missing())

    def troubles(self) -> list[str]:
        """List what is wrong with where the objects come from."""
        own = (
            self.reloads.troubles()
            + self._serials.troubles()
            + (self.snapshots.troubles() if self.snapshots is not None else [])
        )
        return self.answers.troubles() + own

    async def metrics_page(self) -> bytes:
        """Return the metrics page."""
        return self.metrics.page()

    # -- running --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ConfigError for an upstream that is this server itself, or a certificate that cannot be used."""
        check_upstreams(self.config)
        if self.answers.certificate is not None:
            self.answers.certificate.load()

    def bind(self) -> None:
        """Bind everything. Raises ConfigError; then nothing is bound."""
        self.check()
        self.program.bind()

    def load(self) -> None:
        """Read what lies on this machine. Raises ConfigError for manifests that cannot be served."""
        self.cluster.load()
        if self.snapshots is not None:
            self.snapshots.restore()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses that are answered at."""
        return self.program.addresses

    async def run(
        self,
        *,
        fit: Callable[[], Awaitable[None]] | None = None,
        heeds_signals: bool = True,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until a signal ends it, or cancelled. Sockets are bound and manifests loaded already.

        Where another one answers on the same sockets, *fit* waits until this can, too. Unless it *heeds_signals*
        somebody else does, and tells ``program``.
        """
        parts = [*self.answers.parts(), self._tick, self._tell_when_synced]
        if self._serials.notifier is not None:
            parts.append(self._serials.notifier.run)
        if self.snapshots is not None:
            parts.append(self.snapshots.run)
        status = Status("kdns", self, self.answers.collectors)
        pages = StatusPages(status, self.config.status)
        await self.program.run(self, parts, fit=fit, heeds_signals=heeds_signals, pages=pages, task_status=task_status)

    @property
    def synced(self) -> trio.Event:
        """Set once every kind of object is complete."""
        return self.cluster.synced

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_SECONDS)
            moved = self._serials.move()
            self.cluster.moved(moved)
            self._serials.tell(moved)
            self.answers.tick()

    async def _tell_when_synced(self) -> None:
        began = trio.current_time()
        await self.cluster.synced.wait()
        self.program.announce(f"synced after {trio.current_time() - began:.2f} s: {counts_of(self.cluster.sink)}")


def snapshots_of(config: Config, sink: Sink) -> Snapshots | None:
    """Return what keeps the objects of *sink*, where they come from an API server and there is a place to keep them."""
    if config.state_dir is None or config.access is None:
        return None
    return Snapshots(config.state_dir, describe(config, sink.kinds), sink)


def check_upstreams(config: Config) -> None:
    """Raise ConfigError for an upstream that is this server itself."""
    problems = [
        Problem(f"--upstream {source}", "this server itself", "another server")
        for source in config.upstreams
        if isinstance(source, Upstream) and is_own(config, source)
    ]
    if problems:
        raise ConfigError(problems)
