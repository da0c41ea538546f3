"""The supervisor: owns addresses, rules and sockets, starts the worker and the watcher, and starts them again.

It parses no packet and talks to no API. What it holds outlives every worker: while there is none, what arrives waits in
the sockets, and once the lease runs out the kernel leaves new queries to the cluster.

| what happens                                   | what follows                                                        |
|------------------------------------------------|---------------------------------------------------------------------|
| the worker ends                                | another is forked, at once; its cache is empty                      |
| it does not say that it lives for ``HUNG``     | it is killed, and so the same                                       |
| the watcher ends                               | it is started again; what it said counts until then                 |
| an address or the rules are gone, or changed   | they are put up again, within ``REPAIR_SECONDS``                    |
| another supervisor asks for the sockets        | it is given them, and the cache; when it is ready, this one ends    |
| SIGTERM                                        | the worker lets the lease run out, and answers until then           |
| the configuration file changes, or SIGHUP      | it is checked; a worker with it takes the place of the one there is |
| that one ends before it answers                | one with the configuration of before takes its place                |
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import trio

from kdns.errors import ConfigError
from kdns.lines import encode, lines
from kdns.net.addresses import Listen
from kdns.net.listeners import DRAIN_SECONDS
from kdns.reload import ConfigFile
from kdns.workers.spawner import Ended, Failed, Spawned, Spawner
from nodelocal import warm
from nodelocal.config import Config
from nodelocal.follow import follow, Json, Snapshot, watcher_command
from nodelocal.network.plan import AddressError
from nodelocal.network.setup import Network
from nodelocal.supervise import handover
from nodelocal.supervise.sockets import NodeSockets
from nodelocal.supervise.worker import configured, run_worker
from nodelocal.unix import bind_unix

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 0.25
HUNG: Final = 5
"""Askings in a row that a worker leaves unanswered before it is killed: they are counted, not timed, so that a machine
that stands still for a while does not cost a worker."""
FIRST_HUNG: Final = 8
"""The same for one that has only just been forked, and reads the cache that was handed over."""
REPAIR_SECONDS: Final = 2.0
SHORT_LIFE_SECONDS: Final = 0.3
"""One that lives for less is not replaced at once: each time a little later."""
MAX_PAUSE_SECONDS: Final = 1.0
"""Less than a lease runs on, so that what waits in the sockets meanwhile is still wanted."""
DUMP_SECONDS: Final = 20.0
READY_SECONDS: Final = 120.0
HOLD_SECONDS: Final = 0.5
"""How long a worker that has been succeeded still answers on the connections that it has."""


LOOK_SECONDS: Final = 0.5
"""Between two looks at the configuration file; it is read once two are alike."""


def make_spawner() -> Spawner:
    """Start the process that forks workers; before trio runs, and before there are threads."""
    spawner = Spawner(run_worker)
    spawner.start()
    return spawner


class Supervisor:
    """The program. *announce* is given the lines that a user sees on standard output.

    *file* is where the configuration is from, if it is to be followed; *check* raises ConfigError for what is wrong
    with one and cannot be seen by reading it.
    """

    def __init__(
        self,
        config: Config,
        spawner: Spawner,
        *,
        file: ConfigFile[Config] | None = None,
        check: Callable[[Config], None] = lambda config: None,
        announce: Callable[[str], None] = print,
    ) -> None:
        self._config = config
        self._file = file
        self._check = check
        self._must_read = False
        self._before: Config | None = None
        """The configuration to go back to, while the worker with the one that is new does not answer yet."""
        self._watching = trio.CancelScope()
        self._spawner = spawner
        self._announce = announce
        self._network = Network(config.plan, log.info) if config.plan is not None else None
        self._snapshot = Snapshot()
        self._facts: dict[str, float] = {}
        self._sockets: NodeSockets | None = None
        self._link: trio.SocketStream | None = None
        self._unsent = bytearray()
        self._news = trio.Event()
        self._pid = 0
        self._is_starting = False
        """Whether a worker is being made to succeed one, which is to end like any other."""
        self._is_succeeding = False
        self._asked = self._told = 0
        self._began = 0.0
        self._pause = 0.0
        self._stopping = trio.Event()
        self._was_ready = trio.Event()
        self._has_dumped = trio.Event()
        self._gone = trio.Event()
        self._is_broken = False
        self._is_in_charge = False
        self._is_lending = False
        """Whether another one has the sockets, too, and its own idea of the rules."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until a signal or a successor ends it. Raises ConfigError where it cannot begin."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_on_signals)
                nursery.start_soon(self._read_again_on_signals)
                await self._serve(nursery, task_status)
                nursery.cancel_scope.cancel()
        finally:
            self._spawner.close()
            if self._sockets is not None:
                handover.close(list(self._sockets.all().values()))
            if self._is_in_charge and not self._is_lending:  # else they are somebody else's now
                for path in (self._config.control, self._config.control.parent / handover.FILE):
                    with suppress(OSError):
                        path.unlink()

    async def _serve(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        path = self._config.control.parent / handover.FILE
        given = await trio.to_thread.run_sync(handover.ask, path)
        try:
            if self._network is not None:
                await trio.to_thread.run_sync(self._network.up)
            self._sockets = NodeSockets(self._config, {} if given is None else given.sockets)
            if given is not None:
                self._say(f"{self._sockets.taken} sockets taken over from the nodelocal that was here")
            nursery.start_soon(self._notice, nursery)
            if self._stopping.is_set():
                return
            await self._start(nursery)
            nursery.start_soon(self._ask_again_and_again)
            nursery.start_soon(self._watch)
            await self._was_ready.wait()
            if self._stopping.is_set():
                await self._gone.wait()
                return
            if given is not None and not await trio.to_thread.run_sync(given.ready):
                raise OSError("the nodelocal that was here did not wait, and goes on: start again")
            given = None
        finally:
            if given is not None:
                given.close()
        self._is_in_charge = True
        if self._network is not None:
            nursery.start_soon(self._repair, self._network)
        self._tell_addresses(self._sockets)
        try:
            nursery.start_soon(self._hand_over, bind_unix(path, "hand-over"))
        except ConfigError as exc:
            log.error("no hand-over to the next nodelocal: %s", exc)  # noqa: TRY400 - its words are enough
        if self._file is not None:
            nursery.start_soon(self._follow_file, self._file, nursery)
        task_status.started()
        await self._gone.wait()

    # -- the worker -------------------------------------------------------------------------------------------------

    async def _start(self, nursery: trio.Nursery) -> None:
        assert self._sockets is not None  # open since before the first worker
        ours, theirs = socket.socketpair()
        with theirs:
            await self._spawner.spawn(0, theirs, self._sockets.dns, self._sockets.others)
        link = self._link = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._began = trio.current_time()
        self._asked = self._told = 0
        self._unsent = bytearray(configured(self._config))
        self._unsent += b"".join(encode({"watch": said}) for said in self._snapshot)
        self._tell(facts=self._facts)
        self._tell_reloads()
        if self._stopping.is_set():
            self._tell(end=0)
        nursery.start_soon(self._write, link)
        nursery.start_soon(self._read, link)

    def _tell(self, **said: object) -> None:
        self._unsent += encode(said)
        self._news.set()

    async def _write(self, link: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while self._link is link:
                await self._news.wait()
                self._news = trio.Event()
                while self._unsent and self._link is link:
                    chunk = bytes(self._unsent[:65_536])
                    del self._unsent[: len(chunk)]
                    await link.send_all(chunk)

    async def _read(self, link: trio.SocketStream) -> None:
        try:
            async for said in lines(link):
                match said:
                    case {"told": int(number), "up": is_up, "ready": ready} if link is self._link:
                        self._told = number
                        if ready:
                            self._was_ready.set()
                        if is_up and self._before is not None and self._file is not None:
                            self._before = None
                            self._file.use(self._config)
                            self._tell_reloads()
                    case {"dumped": int()}:
                        self._has_dumped.set()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        except (ValueError, TypeError) as exc:
            log.error("the worker says what makes no sense (%s); killed", exc)  # noqa: TRY400 - its words are enough
            self._kill()

    async def _ask_again_and_again(self) -> None:
        while True:
            await trio.sleep(ASK_SECONDS)
            if self._pid and self._asked - self._told >= (HUNG if self._told else FIRST_HUNG):
                log.error("the worker has not answered for %g s; killed", (self._asked - self._told) * ASK_SECONDS)
                self._kill()
            elif self._link is not None:
                self._asked += 1
                self._tell(ask=self._asked)

    def _kill(self) -> None:
        if self._pid:
            with suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)

    async def _notice(self, nursery: trio.Nursery) -> None:
        """Note that the worker runs, and that it has ended."""
        while True:
            match await self._spawner.next():
                case None:
                    raise OSError("the process that forks workers is gone; to be started anew as a whole")
                case Spawned(pid=pid):
                    self._pid, self._is_starting = pid, False
                case Failed(reason=reason):
                    self._is_starting = False
                    if self._stopping.is_set():
                        self._leave()
                        continue
                    log.error("the worker cannot be started: %s", reason)
                    nursery.start_soon(self._replace, nursery)
                case Ended(pid=pid, status=status) if pid == self._pid:
                    self._pid = 0
                    self._has_dumped.set()  # nobody is left to write anything
                    if self._stopping.is_set():
                        self._leave()
                        continue
                    code = os.waitstatus_to_exitcode(status)
                    why = f"by signal {-code}" if code < 0 else f"with status {code}"
                    log.error("the worker ended %s; another takes its place", why)
                    if self._before is not None and self._file is not None:
                        self._file.refuse([f"a worker with the new configuration has ended {why}"])
                        self._use(self._before)
                        self._before = None
                    self._count("nodelocal_worker_deaths")
                    nursery.start_soon(self._replace, nursery)

    async def _replace(self, nursery: trio.Nursery) -> None:
        if self._link is not None:
            await trio.aclose_forcefully(self._link)
            self._link = None
            self._news.set()
        if trio.current_time() - self._began < SHORT_LIFE_SECONDS:
            await trio.sleep(self._pause)
            self._pause = min(max(2 * self._pause, 0.1), MAX_PAUSE_SECONDS)
        else:
            self._pause = 0.0
        if not self._stopping.is_set():
            await self._start(nursery)

    # -- another configuration ----------------------------------------------------------------------------------------

    async def _read_again_on_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                if self._file is None:
                    log.info("SIGHUP: without --config there is nothing to read again")
                else:
                    log.info("SIGHUP: reading %s again", self._file.file)
                    self._must_read = True

    async def _follow_file(self, file: ConfigFile[Config], nursery: trio.Nursery) -> None:
        while True:
            await trio.sleep(LOOK_SECONDS)
            is_busy = self._is_lending or self._stopping.is_set() or self._before is not None or not self._pid
            if is_busy or not (self._must_read or file.has_changed()):
                continue
            self._must_read = False
            if (config := await trio.to_thread.run_sync(file.read)) is not None:
                try:
                    self._check(config)
                except ConfigError as exc:
                    file.refuse(map(str, exc.problems))
                else:
                    self._is_succeeding = True
                    try:
                        await self._succeed(config, nursery)
                    finally:
                        self._is_succeeding = False
            self._tell_reloads()

    async def _succeed(self, config: Config, nursery: trio.Nursery) -> None:
        """Have a worker with another configuration take the place of the one there is, and its cache.

        Where other servers are asked for some names than before, what was cached of them may be wrong: none is taken.
        """
        pid, self._has_dumped = self._pid, trio.Event()
        if _routes(config) == _routes(self._config):
            self._tell(dump=str(self._config.control.parent / warm.FILE))
            with trio.move_on_after(DUMP_SECONDS):
                await self._has_dumped.wait()
        if self._pid != pid or self._stopping.is_set() or self._is_lending:  # it has ended meanwhile, and is replaced
            self._must_read = True
            return
        self._tell(hold=HOLD_SECONDS)
        with trio.move_on_after(HOLD_SECONDS):
            while self._unsent:  # noqa: ASYNC110 - a few octets on their way
                await trio.sleep(0.001)
        nursery.start_soon(self._end_in_time, pid)
        self._pid, self._link = 0, None  # it ends by itself, and has nothing more to say
        self._is_starting = True
        self._before = self._config
        self._use(config)
        await self._start(nursery)

    async def _end_in_time(self, pid: int) -> None:
        """Have a worker that was succeeded end, whatever it does."""
        with suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                with trio.move_on_after(HOLD_SECONDS + DRAIN_SECONDS + 2.0):
                    await trio.lowlevel.wait_readable(pidfd)
                    return
                log.error("the worker that was succeeded does not end; killed")
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)

    def _use(self, config: Config) -> None:
        """Have the next worker, and the watcher, be as *config* says."""
        before, self._config = self._config, config
        if watcher_command(before) != watcher_command(config):
            self._snapshot = Snapshot()
            self._watching.cancel()

    def _tell_reloads(self) -> None:
        if self._file is not None:
            self._tell(reloads=self._file.reloads.said())

    # -- the others -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            with trio.CancelScope() as self._watching:
                if self._config.is_watching:
                    await follow(self._watched, watcher_command(self._config))
                await trio.sleep_forever()

    def _watched(self, said: Json) -> None:
        self._snapshot.take(said)
        self._tell(watch=said)

    async def _repair(self, network: Network) -> None:
        """Put up again what is gone; told once, until it is all there again."""
        while True:
            await trio.sleep(REPAIR_SECONDS)
            if self._is_lending:
                continue
            try:
                if await trio.to_thread.run_sync(network.up):
                    log.warning("the node's addresses or rules were not as they should be; repaired")
                    self._count("nodelocal_network_repairs")
                if self._is_broken:
                    log.info("the node's network is as it should be again")
                    self._is_broken = False
            except ConfigError as exc:
                self._count("interface_check" if isinstance(exc, AddressError) else "iptables")
                if not self._is_broken:
                    log.error("the node's network cannot be repaired: %s", exc)  # noqa: TRY400 - its words are enough
                self._is_broken = True

    def _count(self, fact: str) -> None:
        self._facts[fact] = self._facts.get(fact, 0) + 1
        self._tell(facts=self._facts)

    async def _hand_over(self, listener: socket.socket) -> None:
        async with trio.open_nursery() as nursery:
            listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
            nursery.start_soon(partial(trio.serve_listeners, self._hand_over_to, [listening], handler_nursery=nursery))

    async def _hand_over_to(self, stream: trio.SocketStream) -> None:
        assert self._sockets is not None  # open as long as this runs
        path = self._config.control.parent / warm.FILE
        is_lender = False
        try:
            async with stream:
                link = _plain(stream.socket)
                if (user := handover.peer_of(link)) != os.geteuid():
                    log.warning("somebody else asks for the sockets: user %d", user)
                    return
                with trio.move_on_after(READY_SECONDS):
                    async for said in lines(stream):
                        match said:
                            case {"nodelocal": _} if self._is_lending or self._is_succeeding:
                                await stream.send_all(encode({"busy": True}))
                                return
                            case {"nodelocal": version}:
                                self._is_lending = is_lender = True
                                if version == handover.VERSION:
                                    self._has_dumped = trio.Event()
                                    self._tell(dump=str(path))
                                    with trio.move_on_after(DUMP_SECONDS):
                                        await self._has_dumped.wait()
                                handover.give(link, self._sockets.all())
                            case {"ready": True}:
                                self._say("another nodelocal has taken the sockets over")
                                with suppress(OSError):  # it makes one of its own, while this still listens
                                    (self._config.control.parent / handover.FILE).unlink()
                                self._stopping.set()
                                await stream.send_all(encode({"going": True}))
                                self._tell(hold=HOLD_SECONDS)
                                if not self._pid and not self._is_starting:
                                    self._leave()
                                await self._gone.wait()
                                return
        except (OSError, ValueError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            log.warning("a hand-over came to nothing: %s", exc)
        finally:
            if is_lender and not self._stopping.is_set():
                self._is_lending = False
                with suppress(OSError):
                    path.unlink()

    # -- the end ----------------------------------------------------------------------------------------------------

    async def _end_on_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                lameduck = self._config.lameduck if number == signal.SIGTERM and not self._stopping.is_set() else 0
                if lameduck and self._network is None:
                    self._say(f"SIGTERM: unready, answering for {lameduck:g} s more")
                elif lameduck:
                    self._say(f"SIGTERM: answering until the lease has run out, for {lameduck:g} s at least")
                self._end(lameduck)

    def _end(self, lameduck: float) -> None:
        self._stopping.set()
        self._tell(end=lameduck)
        if not self._pid and not self._is_starting:
            self._leave()

    def _leave(self) -> None:
        """Have ``run`` end, whatever it waits for."""
        self._gone.set()
        self._was_ready.set()

    def _say(self, line: str) -> None:
        with suppress(OSError, ValueError):
            self._announce(f"nodelocal: {line}")

    def _tell_addresses(self, sockets: NodeSockets) -> None:
        for _, sock in sockets.dns.udp:
            self._say(f"answering on {Listen(*sock.getsockname()[:2])} (udp, tcp)")
        for sock in sockets.admin:
            self._say(f"status, metrics, health and readiness on http://{Listen(*sock.getsockname()[:2])}")


def _routes(config: Config) -> object:
    """Return what decides who is asked for a name."""
    return config.cluster_zones, config.cluster, config.cluster_service, config.stubs, config.upstreams


def _plain(sock: object) -> socket.socket:
    """Return the standard library's socket in trio's."""
    plain = sock._sock  # type: ignore[attr-defined]
    assert isinstance(plain, socket.socket)
    return plain
