"""The worker: answers on sockets that the supervisor owns; no capability, no credentials, no API server.

It ends when the supervisor says so, or is gone.
"""

from __future__ import annotations

import logging
import pickle
import socket
from collections.abc import Sequence
from pathlib import Path

import trio

from kdns.admin import logs
from kdns.clock import SystemClock
from kdns.lines import encode, lines
from kdns.net.listeners import Sockets
from kdns.options import LogFormat
from kdns.privileges import give_up
from nodelocal import warm
from nodelocal.config import Config
from nodelocal.lease import Lease
from nodelocal.network.plan import LEASE_SECONDS, Rules
from nodelocal.serve import Server

log = logging.getLogger(__name__)

LET_OUT_SECONDS = LEASE_SECONDS + 0.3
"""How long an orderly stop goes on answering without renewing the lease: until nothing comes here any more."""


def run_worker(number: int, link: socket.socket, sockets: Sockets, others: Sequence[socket.socket]) -> None:
    """Work until the supervisor ends it; the whole of the process. *number* is not used: there is one."""
    give_up()
    config = _read_configuration(link)
    logs.set_up(as_json=config.log_format is LogFormat.JSON)
    trio.run(_run, config, link, sockets, others, clock=SystemClock())


def configured(config: Config) -> bytes:
    """Return what a worker is told first: its configuration, after the octets that say how long that is."""
    octets = pickle.dumps(config)
    return len(octets).to_bytes(4, "big") + octets


def _read_configuration(link: socket.socket) -> Config:
    """Read what ``configured`` returned. The supervisor alone has the other end of *link*."""
    size = int.from_bytes(_exactly(link, 4), "big")
    config = pickle.loads(_exactly(link, size))
    assert isinstance(config, Config)
    return config


def _exactly(link: socket.socket, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        if not (some := link.recv(count - len(octets))):
            raise EOFError("the supervisor is gone")
        octets += some
    return octets


async def _run(config: Config, link: socket.socket, sockets: Sockets, others: Sequence[socket.socket]) -> None:
    control, *admin = others
    server = Server(config, announce=lambda line: None)
    server.load()
    server.adopt(sockets, admin, control)
    await Worker(config, server, link).run()


class Worker:
    """The worker's end of the link."""

    def __init__(self, config: Config, server: Server, link: socket.socket) -> None:
        self._server = server
        self._is_up = False
        self._link = trio.SocketStream(trio.socket.from_stdlib_socket(link))
        self._telling = trio.Lock()
        self._warm = config.control.parent / warm.FILE
        plan = config.plan
        self._lease = Lease(plan.ours) if plan is not None and plan.rules is Rules.NFT else None

    async def run(self) -> None:
        """Answer until told to stop, or until the supervisor is gone."""
        server = self._server
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, nursery)
            count = await warm.read(server.resolver.cache, self._warm, server.resolver.now())
            if count:
                log.info("%d entries of the cache were handed over", count)
            await nursery.start(server.run)
            self._is_up = True
            if self._lease is not None:
                nursery.start_soon(self._lease.run)
            await server.program.ended.wait()
            nursery.cancel_scope.cancel()

    async def _follow(self, nursery: trio.Nursery) -> None:
        async for said in lines(self._link):
            match said:
                case {"ask": number}:
                    is_ready = self._is_up and not self._server.not_ready()
                    await self._tell(told=number, up=self._is_up, ready=is_ready)
                case {"watch": dict() as said_by_watcher}:
                    self._server.watched(said_by_watcher)
                case {"facts": facts}:
                    self._server.counted.update(facts)
                case {"reloads": reloads}:
                    self._server.reloads.take(reloads)
                case {"dump": path}:
                    nursery.start_soon(self._dump, Path(path))
                case {"hold": _}:
                    self._server.control.hold()
                    self._server.program.hold()
                case {"end": seconds}:
                    self._end(seconds)
        nursery.cancel_scope.cancel()

    async def _tell(self, **said: object) -> None:
        try:
            async with self._telling:  # what was written of the cache is told by a task of its own
                await self._link.send_all(encode(said))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("nobody reads the link any more")

    async def _dump(self, path: Path) -> None:
        server = self._server
        try:
            count = await warm.write(server.resolver.cache, path, server.resolver.now())
        except OSError as exc:
            log.warning("the cache is not handed over: %s", exc)
            count = 0
        await self._tell(dumped=count)

    def _end(self, seconds: float) -> None:
        if self._lease is not None and seconds:
            self._lease.stop()
            seconds = max(seconds, LET_OUT_SECONDS)
        self._server.program.end(seconds)
