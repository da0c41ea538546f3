"""What both programs do with their sockets: bind them all or none, answer on them, stop without losing an answer."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import trio

from kdns.admin.endpoint import AdminEndpoint, Health
from kdns.admin.pages import StatusPages
from kdns.errors import ConfigError, Problem
from kdns.net.addresses import bind, Listen
from kdns.net.listeners import bind_sets, Sockets

log = logging.getLogger(__name__)


class Answering(Protocol):
    """What answers on a program's sockets: listeners of its own, or workers."""

    async def serve(
        self, sets: Sequence[Sockets], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer until cancelled."""

    def hold(self) -> None:
        """Take nothing more from the sockets, which somebody else answers on, too."""

    def retire(self) -> None:
        """Prepare for the end: ask those to go who would stay for long."""

    async def drain(self) -> None:
        """Wait until what is on its way is answered, for some seconds at most."""


HOLD_SECONDS: Final = 0.5
"""How long one that has been succeeded still answers on the connections that it has."""


class Program:
    """The sockets of *name*, *sets* of them, and what answers on them.

    *announce* is given the lines that a user sees on standard output.
    """

    def __init__(
        self,
        name: str,
        listen: Sequence[Listen],
        admin: Sequence[Listen],
        answering: Answering,
        *,
        lameduck: float,
        announce: Callable[[str], None],
        listen_tls: Sequence[Listen] = (),
        sets: int = 1,
    ) -> None:
        self.name = name
        self.is_stopping = False
        self._listen = listen
        self._admin_listen = admin
        self._answering = answering
        self._lameduck = lameduck
        self._announce = announce
        self._listen_tls = listen_tls
        self._count = sets
        self._sets: list[Sockets] = []
        self._admin: list[socket.socket] = []
        self.ended = trio.Event()
        """Set when everything that was on its way is answered, after ``end`` or a signal."""
        self._ending = trio.Event()
        self._held = trio.Event()
        self._hurry = trio.Event()

    def announce(self, line: str) -> None:
        """Tell the user; that nobody reads standard output any more must not end a DNS server."""
        with suppress(OSError, ValueError):
            self._announce(f"{self.name}: {line}")

    def bind(self) -> None:
        """Bind everything. Raises ConfigError; then nothing is bound."""
        self._sets, self._admin = bind_all(self._listen, self._listen_tls, self._admin_listen, self._count)

    def adopt(self, sets: Sequence[Sockets], admin: Sequence[socket.socket]) -> None:
        """Take sockets that somebody else has bound, and keeps open when this program ends."""
        self._sets = list(sets)
        self._admin = list(admin)

    def end(self, lameduck: float) -> None:
        """Stop in *lameduck* seconds: unready until then, and answering; told again, at once."""
        if self.is_stopping:
            self._hurry.set()
            return
        self.is_stopping = True
        self._lameduck = lameduck
        self._ending.set()

    def stop(self, seconds: float) -> None:
        """Stop in so many seconds, at once if told again, and say so."""
        if seconds and not self.is_stopping:
            self.announce(f"SIGTERM: unready, answering for {seconds:g} s more")
            self.end(seconds)
        else:
            self.end(0)

    @property
    def is_unready(self) -> bool:
        """Whether this is about to end; one that a successor has taken the place of has nobody to tell so."""
        return self.is_stopping and not self._held.is_set()

    def hold(self) -> None:
        """Take nothing more from the sockets, which a successor answers on; answer what has begun, and end."""
        self._answering.hold()
        self._held.set()
        self.end(HOLD_SECONDS)

    def close(self) -> None:
        """Close all sockets."""
        close_all(self._sets, self._admin)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses that are answered at."""
        return [sock.getsockname()[:2] for _, sock in self._sets[0].udp]

    async def run(
        self,
        health: Health,
        parts: Sequence[Callable[[], Awaitable[None]]],
        *,
        heeds_signals: bool = True,
        fit: Callable[[], Awaitable[None]] | None = None,
        has_begun: Callable[[], Awaitable[None]] | None = None,
        pages: StatusPages | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer, with *parts* beside, until a signal or ``end`` ends it or it is cancelled. Sockets are bound.

        With *fit* nothing is answered before that returns, and with *has_begun* no page is shown before that does:
        another one shows them. *pages* are shown beside the metrics.
        """
        has_started = False
        try:
            async with trio.open_nursery() as nursery:
                if heeds_signals:
                    nursery.start_soon(self._end_on_signals)
                nursery.start_soon(self._end_when_told, nursery.cancel_scope)
                if fit is not None:
                    for part in parts:
                        nursery.start_soon(part)
                    await fit()
                await nursery.start(self._answering.serve, self._sets)
                if has_begun is not None:
                    await has_begun()
                await nursery.start(AdminEndpoint(self._admin, health, self._held.wait, pages).serve)
                if pages is not None:
                    nursery.start_soon(pages.status.run)
                for address, port in self.addresses:
                    self.announce(f"answering on {Listen(address, port)} (udp, tcp)")
                for _, sock in self._sets[0].tls:
                    self.announce(f"answering on {Listen(*sock.getsockname()[:2])} (tls)")
                for sock in self._admin:
                    self.announce(f"status, metrics, health and readiness on http://{Listen(*sock.getsockname()[:2])}")
                if fit is None:
                    for part in parts:
                        nursery.start_soon(part)
                has_started = True
                task_status.started()
            if not has_started:
                task_status.started()  # told to end before it had begun: no error, and whoever waits for it goes on
        finally:
            self.close()

    async def _end_on_signals(self) -> None:
        heeded = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and not _is_on_a_terminal():
            heeded.append(signal.SIGHUP)
        with trio.open_signal_receiver(*heeded) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    log.info("SIGHUP: without --config there is nothing to read again")
                else:
                    self.stop(self._lameduck if number == signal.SIGTERM else 0)

    async def _end_when_told(self, scope: trio.CancelScope) -> None:
        await self._ending.wait()
        self._answering.retire()
        with trio.move_on_after(self._lameduck):
            await self._hurry.wait()
        await self._answering.drain()
        if not self._held.is_set():
            self.announce("stopped")
        self.ended.set()
        scope.cancel()


def bind_all(
    listen: Sequence[Listen], listen_tls: Sequence[Listen], admin: Sequence[Listen], count: int
) -> tuple[list[Sockets], list[socket.socket]]:
    """Bind *count* sets of sockets for DNS, and those for HTTP. Raises ConfigError; then nothing is bound."""
    problems: list[Problem] = []
    sets = bind_sets(listen, listen_tls, count, problems)
    pages: list[socket.socket] = []
    for at in admin:
        try:
            pages += [sock for _, sock in bind(at, socket.SOCK_STREAM, "--admin")]
        except ConfigError as exc:
            problems += exc.problems
    if problems:
        close_all(sets, pages)
        raise ConfigError(problems)
    return sets, pages


def close_all(sets: Iterable[Sockets], others: Iterable[socket.socket]) -> None:
    """Close sockets."""
    for sockets in sets:
        sockets.close()
    for sock in others:
        sock.close()


def _is_on_a_terminal() -> bool:
    """Tell whether SIGHUP means that the terminal is gone, by which a program ends."""
    try:
        return os.isatty(0)
    except OSError:
        return False


def raise_descriptor_limit() -> None:
    """Allow as many file descriptors as the system lets this process have: questions to upstreams take one each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
