"""``kdns serve --workers``: the process that talks to the API server, feeds the workers and answers no query.

It owns the sockets, so that a worker's death loses none of what waits in them; the credentials; the serials, which must
be the same whoever answers; and the admin pages, on which workers are added up.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final

import trio

from kdns.admin.metrics import Metrics
from kdns.admin.pages import StatusPages
from kdns.admin.status import Rates, Status
from kdns.answers import server_label
from kdns.certificate import Certificate
from kdns.cluster import api_or_manifests, counts_of, load_manifests, troubles_of
from kdns.config import Config
from kdns.control.framing import encode
from kdns.control.resource import Pace
from kdns.gauges import cluster_gauges
from kdns.net.addresses import own_addresses
from kdns.overview import overview
from kdns.program import Program, raise_descriptor_limit
from kdns.reload import Reloads
from kdns.serials import Serials
from kdns.serve import check_upstreams, GC_THRESHOLDS, snapshots_of, TICK_SECONDS
from kdns.served import Zones
from kdns.static import StaticSource
from kdns.version import VERSION
from kdns.workers.crew import Crew
from kdns.workers.relay import Relay
from kdns.workers.spawner import Spawner
from kdns.workers.wire import Moved, Static
from kdns.workers.worker import run_worker
from zones.imports import Imports
from zones.static import StaticRecords
from zones.store import Store

ASK_AGAIN_SECONDS: Final = 0.05


def make_spawner(config: Config) -> Spawner:
    """Start the process that forks workers; before trio runs, and before there are threads."""
    spawner = Spawner(partial(run_worker, config))
    spawner.start()
    return spawner


class Controller:
    """The program. *announce* is given the lines that a user sees on standard output."""

    def __init__(
        self,
        config: Config,
        spawner: Spawner,
        *,
        announce: Callable[[str], None] = print,
        pace: Pace | None = None,
    ) -> None:
        self.config = config
        raise_descriptor_limit()
        gc.set_threshold(*GC_THRESHOLDS)
        self.metrics = Metrics(VERSION)
        self._serials = Serials(config)
        self.crew = Crew(config.workers, spawner, self._everything)
        # The zones are here for their apexes alone: what is in them is the workers' to know.
        nothing = Store(imports=Imports() if config.clusterset_zones else None, external_zones=config.external_zones)
        self._zones = Zones(config, nothing, own_addresses(config.listen), None, self._serials.first)
        self._serials.watch(self._zones)
        self._has_static = bool(config.records or config.hosts)
        self._static = StaticSource(config.records, config.hosts, ttl=config.ttl, on_change=self._static_changed)
        self._may_begin = True
        """Whether workers that have everything may answer: what they are told last lets them."""
        self.synced = trio.Event()
        """Set once every kind of object is complete."""
        self.relay = Relay(self._zones.kinds, tell=self.crew.tell, on_synced=self.synced.set)
        self.source = api_or_manifests(config, self.metrics, pace)(self.relay)
        self.snapshots = snapshots_of(config, self.relay)
        self.program = Program(
            "kdns",
            config.listen,
            config.admin,
            self.crew,
            lameduck=config.lameduck,
            announce=announce,
            listen_tls=config.listen_tls,
            sets=config.workers,
        )
        self.metrics.add(
            cluster_gauges(
                self.relay,
                self.source,
                self._zones,
                server_label(config),
                has_upstreams=bool(config.upstreams),
                notifier=self._serials.notifier,
                troubles=self.troubles,
                snapshots=self.snapshots,
            )
        )
        self.reloads = Reloads()
        self.metrics.add(self.reloads.gauges())
        self.metrics.add(self.crew.gauges())
        self.metrics.add(self.crew.merged)

    # -- what the status page asks --------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return what is known of zones and objects."""
        workers = sum(worker.link is not None for worker in self.crew.workers)
        numbers = [("events", self.relay.events)]
        figures = [("workers", workers)]
        return overview(self.relay, self.source, self._zones, self.program.addresses, figures, numbers)

    def client_name(self, address: str) -> str:
        """Return nothing: clients are known by their addresses here."""
        return ""

    async def rates(self, count: int) -> Rates:
        """Return who asks most, and for what."""
        return self.crew.rates(count)

    async def explain(self, name: str, rrtype: str, asker: str) -> list[str]:
        """Explain a question. Raises ValueError."""
        return await self.crew.explain(name, rrtype, asker)

    # -- what the admin pages ask ---------------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """List why this is not ready."""
        if self.program.is_unready:
            return ["shutting down"]
        if self.config.ready_when_stale and self.relay.is_stale:
            return []
        missing = sorted(f"not synced: {kind.value}" for kind in self.relay.missing())
        return missing or [f"not synced: worker {number}" for number in self.crew.unready]

    def troubles(self) -> list[str]:
        """List what is wrong with where objects and records come from, and with the workers."""
        troubles = troubles_of(self.relay) + self._static.troubles()
        troubles += self.snapshots.troubles() if self.snapshots is not None else []
        return self.reloads.troubles() + troubles + self.crew.troubles() + self._serials.troubles()

    async def metrics_page(self) -> bytes:
        """Return the metrics page."""
        await self.crew.ask_and_wait()
        return self.metrics.page()

    # -- running --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ConfigError for an upstream that is this server itself, or a certificate that cannot be used."""
        check_upstreams(self.config)
        if self.config.tls_cert is not None and self.config.tls_key is not None:
            Certificate(self.config.tls_cert, self.config.tls_key).load()

    def bind(self) -> None:
        """Bind everything. Raises ConfigError; then nothing is bound."""
        self.check()
        self.program.bind()

    def load(self) -> None:
        """Read what lies on this machine: hosts files and manifests. Raises ConfigError for the latter."""
        if self._has_static:
            self._static.load()
        load_manifests(self.source)
        if self.snapshots is not None:
            self.snapshots.restore()

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
        self._may_begin = fit is None
        parts = [self.source.run, self._static.run, self._tick, self._tell_when_synced]
        if self._serials.notifier is not None:
            parts.append(self._serials.notifier.run)
        if self.snapshots is not None:
            parts.append(self.snapshots.run)
        pages = StatusPages(Status("kdns", self, [self.crew.merged]), self.config.status)
        await self.program.run(
            self,
            parts,
            fit=fit,
            has_begun=None if fit is None else self.has_begun,
            heeds_signals=heeds_signals,
            pages=pages,
            task_status=task_status,
        )

    async def has_begun(self) -> None:
        """Return once all workers have everything, and answer: together, where they have not begun by themselves."""
        while self.crew.unready:
            await self.crew.ask_and_wait()
            await trio.sleep(ASK_AGAIN_SECONDS)
        if not self._may_begin:
            self._may_begin = True
            self.crew.tell(self._moved())

    def _everything(self) -> Iterator[bytes]:
        if self._has_static:
            yield encode(Static(self._static.layers))
        yield from self.relay.everything()
        if self._may_begin:
            yield self._moved()

    def _moved(self) -> bytes:
        return encode(Moved({group.name: group.serial.value for group in self._zones.groups}))

    async def _tick(self) -> None:
        while True:
            self.crew.ask()
            await trio.sleep(TICK_SECONDS)
            for group in self._zones.groups:
                if group.name in self.crew.changed:
                    group.serial.changed()
            self.crew.changed.clear()
            if self.crew.has_lost_changes:
                self.crew.has_lost_changes = False
                self._all_changed()
            if (moved := self._serials.move()) and self._may_begin:
                self.crew.tell(self._moved())
                await self.crew.ask_and_wait()  # so that none still has the serial before when a secondary asks
                self._serials.tell(moved)

    def _all_changed(self) -> None:
        for group in self._zones.groups:
            group.serial.changed()

    def _static_changed(self, records: StaticRecords) -> None:
        self.crew.tell(encode(Static(self._static.layers)))

    async def _tell_when_synced(self) -> None:
        began = trio.current_time()
        await self.synced.wait()
        await self.crew.began.wait()
        await self.has_begun()
        self._all_changed()
        gc.collect()
        gc.freeze()
        workers = f"{self.crew.count} workers"
        self.program.announce(f"synced after {trio.current_time() - began:.2f} s: {counts_of(self.relay)}; {workers}")
