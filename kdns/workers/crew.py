"""The workers of a program: started, fed, asked how they are, and replaced when they die.

| a worker                            | what follows                                                                   |
|-------------------------------------|--------------------------------------------------------------------------------|
| ends, whatever the reason           | another takes its place and its sockets, in which what came meanwhile waits    |
| has ended often of late             | the same after a pause that doubles, up to ``MAX_PAUSE_SECONDS``               |
| does not answer in ``HUNG_SECONDS`` | it is killed                                                                   |
| does not read what it is told       | the same, once ``MAX_UNREAD_OCTETS`` wait                                      |
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec
import trio

from kdns.admin.metrics import Gauges
from kdns.admin.status import Rates
from kdns.control.framing import encode, Messages
from kdns.net.listeners import DRAIN_SECONDS, Sockets
from kdns.workers.merged import Merged
from kdns.workers.spawner import Ended, Failed, Spawned, Spawner
from kdns.workers.wire import Asked, Drain, Explain, Explained, Hold, read_telling, Retire, Telling, Told

log = logging.getLogger(__name__)

HUNG_SECONDS: Final = 10.0
"""Twice the longest that a look at a thousand zones or a table being emptied may take."""

MAX_UNREAD_OCTETS: Final = 256 * 2**20
"""More than a whole cluster of 100,000 Services."""

FIRST_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 10.0
LONG_LIFE_SECONDS: Final = 30.0
"""A worker that lived for this long did not die of how it starts."""

ASK_SECONDS: Final = 1.0
"""``Crew.ask`` is called so often."""

END_SECONDS: Final = 1.0
"""A worker that has nothing to do ends at once; one that does not by then is killed."""

CHUNK_OCTETS: Final = 262_144

ANSWER_SECONDS: Final = 0.5
"""How long somebody who looks at the metrics waits for what workers say; then what they said last is shown."""


class SpawnerGone(OSError):
    """The process that forks workers is gone: no worker could be replaced, so the program ends with a line."""


class Worker:
    """One worker's place: its sockets outlive it."""

    def __init__(self, number: int, sockets: Sockets) -> None:
        self.number = number
        self.sockets = sockets
        self.link: trio.SocketStream | None = None
        self.pid = 0
        self.pidfd = -1
        self.unsent = bytearray()
        self.news = trio.Event()
        self.told: Told | None = None
        self.asked = 0
        self.asked_at: float | None = None
        self.has_told = trio.Event()
        self.began = 0.0
        self.pause = 0.0
        self.deaths = 0
        self.was_synced = False

    @property
    def is_drained(self) -> bool:
        """Whether nothing is on its way that it would have to answer."""
        return self.link is None or (self.told is not None and self.told.is_drained)

    def tell(self, octets: bytes) -> None:
        """Say something, as soon as the worker listens."""
        self.unsent += octets
        self.news.set()


class Explanation:
    """What a worker is waited for to say."""

    def __init__(self) -> None:
        self.is_there = trio.Event()
        self.lines: Sequence[str] = ()
        self.error = ""


class Crew:
    """*count* workers (``program.Answering``). *everything* yields what a new one must be told before it answers."""

    def __init__(self, count: int, spawner: Spawner, everything: Callable[[], Iterable[bytes]]) -> None:
        self._spawner = spawner
        self._everything = everything
        self.count = count
        self.workers: list[Worker] = []
        self.began = trio.Event()
        """Set once all workers have been started for the first time."""
        self.merged = Merged()
        self._explained = 0
        self._explanations: dict[int, Explanation] = {}
        self._nursery: trio.Nursery | None = None
        self._is_stopping = False
        self._is_retired = False
        self._asked_at = 0.0
        self._all_gone = trio.Event()
        self.changed: set[str] = set()
        """The zones whose serials workers want moved, by the first of those that share one."""
        self.has_lost_changes = False
        """Whether a worker has died, which may have known of changes and not told of them."""

    async def serve(
        self, sets: Sequence[Sockets], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Have workers answer on *sets*, one each, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.workers = [Worker(number, sockets) for number, sockets in enumerate(sets)]
                for worker in self.workers:
                    await self._start(worker)
                self.began.set()
                nursery.start_soon(self._notice)
                task_status.started()
        finally:
            for worker in self.workers:
                if worker.link is not None:
                    worker.link.socket.close()
                self._kill(worker)  # if it has not ended by itself, it hangs
            self._spawner.close()

    def tell(self, octets: bytes) -> None:
        """Say something to all workers."""
        for worker in self.workers:
            if worker.link is not None:
                worker.tell(octets)

    def hold(self) -> None:
        """Have workers take nothing more from their sockets."""
        self.tell(encode(Hold()))

    def retire(self) -> None:
        """Have workers ask sessions to go."""
        self._is_retired = True
        self.tell(encode(Retire()))

    async def drain(self) -> None:
        """Have workers answer what is on its way, all of them until none has anything, and end."""
        self._is_stopping = True
        self.tell(encode(Drain()))
        with trio.move_on_after(DRAIN_SECONDS + 1.0):
            while not all(worker.is_drained for worker in self.workers):
                await self.ask_and_wait()
                await trio.sleep(0.05)
        with trio.move_on_after(END_SECONDS):
            for worker in self.workers:
                if worker.link is not None:
                    with contextlib.suppress(OSError):
                        worker.link.socket.shutdown(socket.SHUT_WR)  # which ends it
            if any(worker.link is not None for worker in self.workers):
                await self._all_gone.wait()

    def ask(self) -> None:
        """Ask every worker how it is; kill those that have not said so for too long. To be called once a second."""
        now = trio.current_time()
        was_away = now - self._asked_at > 3 * ASK_SECONDS
        self._asked_at = now
        for worker in self.workers:
            if worker.link is None:
                continue
            if was_away:  # it was this process that hung: what they said meanwhile is still to be read
                worker.asked_at = None
            if worker.asked_at is not None and now - worker.asked_at > HUNG_SECONDS:
                log.error("worker %d has not answered for %g s; killed", worker.number, HUNG_SECONDS)
                self._kill(worker)
            elif len(worker.unsent) > MAX_UNREAD_OCTETS:
                log.error("worker %d does not read what it is told; killed", worker.number)
                self._kill(worker)
            else:
                self._ask(worker)

    async def ask_and_wait(self) -> None:
        """Ask every worker how it is, and wait a moment for what they say."""
        waiting = []
        for worker in self.workers:
            if worker.link is not None:
                if worker.has_told.is_set():
                    worker.has_told = trio.Event()
                waiting.append(worker.has_told)
                self._ask(worker)
        with trio.move_on_after(ANSWER_SECONDS):
            for event in waiting:
                await event.wait()

    @property
    def unready(self) -> list[int]:
        """The numbers of the workers that have never had all objects."""
        return [worker.number for worker in self.workers if not worker.was_synced]

    def troubles(self) -> list[str]:
        """List what is wrong with workers, and what they say is wrong."""
        gone = [f"worker {worker.number}: being replaced" for worker in self.workers if worker.link is None]
        said = dict.fromkeys(
            line for worker in self.workers if worker.told is not None for line in worker.told.troubles
        )
        return [*gone, *said]

    def gauges(self) -> Gauges:
        """Return what there is to know of the workers themselves."""
        gauges = Gauges()

        def rows(value: Callable[[Told], float]) -> Iterator[tuple[tuple[str, ...], float]]:
            for worker in self.workers:
                if worker.told is not None:
                    yield (str(worker.number),), value(worker.told)

        gauges.add(
            "kdns_workers", "Workers that answer.", lambda: [((), sum(w.link is not None for w in self.workers))]
        )
        gauges.add(
            "kdns_worker_deaths",
            "Workers that ended and were replaced.",
            lambda: [((str(worker.number),), worker.deaths) for worker in self.workers],
            labels=("worker",),
            is_counter=True,
        )
        gauges.add(
            "kdns_worker_cpu_seconds",
            "CPU of the worker that there is now, user and system.",
            lambda: rows(lambda told: told.cpu_seconds),
            labels=("worker",),
        )
        gauges.add(
            "kdns_worker_memory_bytes",
            "Memory of a worker, pages that it shares with others divided by who shares them.",
            lambda: rows(lambda told: told.octets),
            labels=("worker",),
        )
        gauges.add(
            "kdns_worker_queries",
            "Queries that the worker that there is now has answered.",
            lambda: rows(_queries_of),
            labels=("worker",),
        )
        return gauges

    # -- one worker -------------------------------------------------------------------------------------------------

    def _ask(self, worker: Worker) -> None:
        worker.asked += 1
        if worker.asked_at is None:
            worker.asked_at = trio.current_time()
        worker.tell(encode(Asked(worker.asked)))

    async def _start(self, worker: Worker) -> None:
        assert self._nursery is not None  # workers are started while it is open
        ours, theirs = socket.socketpair()
        with theirs:
            await self._spawner.spawn(worker.number, theirs, worker.sockets)
        worker.link = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        worker.began = trio.current_time()
        worker.told, worker.asked_at = None, None
        late = encode(Retire()) * self._is_retired + encode(Drain()) * self._is_stopping
        worker.unsent = bytearray(b"".join(self._everything()) + late)
        worker.news = trio.Event()
        worker.news.set()
        self._nursery.start_soon(self._write, worker, worker.link)
        self._nursery.start_soon(self._read, worker, worker.link)

    async def _write(self, worker: Worker, link: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while worker.link is link:
                await worker.news.wait()
                worker.news = trio.Event()
                while worker.unsent and worker.link is link:
                    chunk = bytes(worker.unsent[:CHUNK_OCTETS])
                    del worker.unsent[: len(chunk)]
                    await link.send_all(chunk)

    async def _read(self, worker: Worker, link: trio.SocketStream) -> None:
        messages = Messages()
        try:
            while chunk := await link.receive_some(CHUNK_OCTETS):
                for body in messages.take(chunk):
                    if worker.link is link:
                        self._take(worker, read_telling(body))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        except (ValueError, msgspec.MsgspecError) as exc:
            log.error("worker %d says what makes no sense (%s); killed", worker.number, exc)  # noqa: TRY400
            self._kill(worker)

    def rates(self, count: int) -> Rates:
        """Return who asks most and for what, of all workers; see ``kdns.net.hitters``."""
        told = [worker.told for worker in self.workers if worker.told is not None]
        return _added(count, (one.names for one in told)), _added(count, (one.clients for one in told))

    async def explain(self, name: str, rrtype: str, asker: str) -> list[str]:
        """Have a worker explain a question. Raises ValueError."""
        worker = next((worker for worker in self.workers if worker.link is not None and worker.told is not None), None)
        if worker is None:
            raise ValueError("no worker is there to be asked")
        number, self._explained = self._explained, self._explained + 1
        said = self._explanations[number] = Explanation()
        try:
            worker.tell(encode(Explain(number, name, rrtype, asker)))
            with trio.move_on_after(ANSWER_SECONDS):
                await said.is_there.wait()
        finally:
            del self._explanations[number]
        if said.error:
            raise ValueError(said.error)
        return list(said.lines) or [f"worker {worker.number} did not answer in {ANSWER_SECONDS:g} s"]

    def _take(self, worker: Worker, told: Telling) -> None:
        if isinstance(told, Explained):
            if (said := self._explanations.get(told.number)) is not None:
                said.lines, said.error = told.lines, told.error
                said.is_there.set()
            return
        worker.told = told
        worker.was_synced |= told.is_synced
        worker.asked_at = None if told.number == worker.asked else trio.current_time()
        self.changed.update(told.changed)
        self.merged.take(worker.number, told.metrics)
        worker.has_told.set()

    def _kill(self, worker: Worker) -> None:
        if worker.pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)

    async def _notice(self) -> None:
        """Note who runs and who has ended."""
        while True:
            event = await self._spawner.next()
            match event:
                case None:
                    raise SpawnerGone("the process that forks workers is gone; to be started anew as a whole")
                case Spawned():
                    worker = self.workers[event.number]
                    worker.pid = event.pid
                    with contextlib.suppress(OSError):  # it has ended already
                        worker.pidfd = os.pidfd_open(event.pid)
                case Failed():
                    worker = self.workers[event.number]
                    log.error("worker %d cannot be started: %s", worker.number, event.reason)
                    await self._ended(worker)
                case Ended():
                    for worker in self.workers:
                        if worker.pid == event.pid:
                            code = os.waitstatus_to_exitcode(event.status)
                            why = f"by signal {-code}" if code < 0 else f"with status {code}"
                            if not self._is_stopping:
                                log.error("worker %d ended %s; another takes its place", worker.number, why)
                            await self._ended(worker)

    async def _ended(self, worker: Worker) -> None:
        assert self._nursery is not None  # as above
        if worker.link is not None:
            await trio.aclose_forcefully(worker.link)
        if worker.pidfd >= 0:
            os.close(worker.pidfd)
        worker.link, worker.pid, worker.pidfd, worker.told = None, 0, -1, None
        worker.news.set()
        self.merged.end(worker.number)
        if self._is_stopping:
            if all(other.link is None for other in self.workers):
                self._all_gone.set()
            return
        worker.deaths += 1
        self.has_lost_changes = True
        self._nursery.start_soon(self._replace, worker)

    async def _replace(self, worker: Worker) -> None:
        if trio.current_time() - worker.began > LONG_LIFE_SECONDS:
            worker.pause = 0.0
        else:
            await trio.sleep(worker.pause)
            worker.pause = min(max(2 * worker.pause, FIRST_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
        if not self._is_stopping:
            await self._start(worker)


def _added(count: int, rows: Iterable[Iterable[tuple[bytes, float]]]) -> list[tuple[bytes, float]]:
    total: dict[bytes, float] = {}
    for some in rows:
        for key, rate in some:
            total[key] = total.get(key, 0.0) + rate
    return sorted(total.items(), key=lambda item: -item[1])[:count]


def _queries_of(told: Told) -> float:
    return sum(
        sample.value
        for family in told.metrics
        for sample in family.samples
        if sample.name == "coredns_dns_requests_total"
    )
