"""A worker: answers from the objects that its controller tells it of, and knows neither API server nor credentials.

It reads its sockets once it has been told everything that the controller knows; what comes before waits in the kernel.
It ends when the controller says so, or is gone.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Final

import psutil
import trio

from kdns.admin.metrics import Collector
from kdns.admin.status import TOP
from kdns.answers import Answers
from kdns.clock import SystemClock
from kdns.cluster import Cluster
from kdns.config import Config
from kdns.control.framing import encode, Messages
from kdns.net.listeners import Sockets
from kdns.overview import explained
from kdns.privileges import keep_only, READING
from kdns.program import raise_descriptor_limit
from kdns.serve import GC_THRESHOLDS, TICK_SECONDS
from kdns.workers.wire import (
    Asked,
    Completed,
    Deleted,
    Drain,
    Explain,
    Explained,
    Family,
    Hold,
    Moved,
    Order,
    read_order,
    Restored,
    Retire,
    Sample,
    Static,
    Told,
)
from zones.fields import share
from zones.objects import kind_of
from zones.static import StaticRecords

STEP_SECONDS: Final = 0.001
"""Objects are applied for this long between two looks at the network."""

READ_OCTETS: Final = 65_536


def run_worker(
    config: Config, number: int, link: socket.socket, sockets: Sockets, others: Sequence[socket.socket] = ()
) -> None:
    """Work until the controller ends it; the whole of the process."""
    if number:  # what all of them would tell, the first tells
        for name in ("kdns.cluster", "kdns.static", "kdns.certificate"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    raise_descriptor_limit()
    keep_only(READING, tells=False)
    gc.set_threshold(*GC_THRESHOLDS)
    trio.run(_run, config, link, sockets, clock=SystemClock())


async def _run(config: Config, link: socket.socket, sockets: Sockets) -> None:
    worker = Worker(config, link)
    await worker.run(sockets)


class Fed:
    """A source (``control.cluster.Source``) whose objects come from elsewhere."""

    async def run(self) -> None:
        """Do nothing: the link brings them."""


class Worker:
    """The parts of a worker, and its end of the link."""

    def __init__(self, config: Config, link: socket.socket) -> None:
        self._link = trio.SocketStream(trio.socket.from_stdlib_socket(link))
        self.cluster = Cluster(config, lambda sink: Fed(), reads_hosts=False)
        self.answers = Answers(config, self.cluster)
        if self.answers.certificate is not None:
            self.answers.certificate.load_or_note()
        self._is_drained = False
        self._groups = {group.name: group for group in self.cluster.zones.groups}
        self._has_caught_up = trio.Event()
        self._process = psutil.Process()

    async def run(self, sockets: Sockets) -> None:
        """Answer until told to stop, or until the controller is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, nursery)
            await self._has_caught_up.wait()
            await nursery.start(self.answers.listeners.serve, [sockets])
            nursery.start_soon(self._tick)
            for part in self.answers.parts():
                nursery.start_soon(part)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_SECONDS)
            self.answers.tick()

    async def _drain(self) -> None:
        await self.answers.listeners.drain()
        self._is_drained = True

    async def _follow(self, nursery: trio.Nursery) -> None:
        messages = Messages()
        while chunk := await self._link.receive_some(READ_OCTETS):
            began = trio.current_time()
            for body in messages.take(chunk):
                order = read_order(body)
                if isinstance(order, Asked):
                    await self._link.send_all(encode(self._told(order.number)))
                elif isinstance(order, Explain):
                    await self._link.send_all(encode(self._explain(order)))
                elif isinstance(order, Drain):
                    nursery.start_soon(self._drain)
                elif isinstance(order, Static):
                    # In a thread: there may be a hundred thousand of them.
                    self.cluster.static_changed(await trio.to_thread.run_sync(StaticRecords, order.layers))
                else:
                    self._take(order)
                if trio.current_time() - began > STEP_SECONDS:
                    await trio.lowlevel.checkpoint()
                    began = trio.current_time()
        nursery.cancel_scope.cancel()

    def _take(self, order: Order) -> None:
        sink = self.cluster.sink
        match order:
            case Deleted():
                sink.apply((), [(order.kind, order.key)])
            case Completed():
                sink.complete(order.kind)
            case Restored():
                sink.restore(())
            case Moved():
                groups = [self._groups[name] for name in order.serials]
                if not self._has_caught_up.is_set():
                    for group in groups:
                        group.serial.take()  # what was told before this is in the serials already
                    self._has_caught_up.set()
                moved = [group for group in groups if group.serial.value != order.serials[group.name]]
                for group in moved:
                    group.serial.value = order.serials[group.name]
                self.cluster.moved(moved)
            case Hold():
                self.answers.listeners.hold()
            case Retire():
                self.answers.listeners.retire()
            case Asked() | Drain() | Explain() | Static():
                raise AssertionError("taken by the caller")
            case _:
                sink.apply((share(order),), is_first=sink.is_loading(kind_of(order)))

    def _explain(self, order: Explain) -> Explained:
        try:
            return Explained(order.number, tuple(explained(self.cluster, order.name, order.rrtype, order.asker)), "")
        except ValueError as exc:
            return Explained(order.number, (), str(exc) or "no question")

    def _told(self, number: int) -> Told:
        cluster = self.cluster
        times = os.times()
        names, clients = self.answers.listeners.sampler.rates(TOP)
        return Told(
            number,
            cluster.sink.is_synced,
            self._is_drained,
            tuple(group.name for group in cluster.zones.groups if group.serial.take()),
            tuple(self.answers.troubles()),
            times.user + times.system,
            _proportional_octets(self._process),
            tuple(families_of(self.answers.collectors)),
            tuple(names),
            tuple(clients),
        )


def families_of(collectors: Iterable[Collector]) -> Iterable[Family]:
    """Yield the metrics of *collectors* as they are told."""
    for collector in collectors:
        for metric in collector.collect():
            samples = tuple(
                Sample(sample.name, tuple(sample.labels.items()), float(sample.value)) for sample in metric.samples
            )
            yield Family(metric.name, metric.documentation, metric.type, samples)


def _proportional_octets(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, OSError):
        return 0
