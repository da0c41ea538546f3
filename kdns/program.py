"""What both programs do with their sockets: bind them all or none, answer on them, stop without losing an answer."""

from __future__ import annotations

import resource
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from kdns.admin.endpoint import AdminEndpoint, Health
from kdns.errors import ConfigError, Problem
from kdns.net.addresses import bind, bind_pair, Listen
from kdns.net.handler import Handler, OpenSession
from kdns.net.tcp import Connections, TcpListener
from kdns.net.udp import UdpListener
from kdns.proto.query import Transport

RETRY_SECONDS: Final = 1.0
"""When clients of sessions may come back to a program that stops: to the next one, or to another replica."""

DRAIN_SECONDS: Final = 4.5
"""Responses on their way through upstreams have at most 4 s to go when the listeners stop."""


class Program:
    """The listeners of *name*; *handler* makes what answers on one of them, of its transport and family (4 or 6).

    *announce* is given the lines that a user sees on standard output. *sessions* are opened over TLS, and with
    *has_plain_sessions* over plain TCP as well.
    """

    def __init__(
        self,
        name: str,
        listen: Sequence[Listen],
        admin: Sequence[Listen],
        *,
        lameduck: float,
        handler: Callable[[Transport, int], Handler],
        announce: Callable[[str], None],
        listen_tls: Sequence[Listen] = (),
        tls: ssl.SSLContext | None = None,
        sessions: OpenSession | None = None,
        has_plain_sessions: bool = False,
    ) -> None:
        self.name = name
        self.is_stopping = False
        self.connections = Connections()
        self.udp: list[UdpListener] = []
        self._listen = listen
        self._admin_listen = admin
        self._lameduck = lameduck
        self._handler = handler
        self._announce = announce
        self._tcp: list[tuple[int, socket.socket]] = []
        self._listen_tls = listen_tls
        self._tls_context = tls
        self._sessions = sessions
        self._has_plain_sessions = has_plain_sessions
        self._tls: list[tuple[int, socket.socket]] = []
        self._admin: list[socket.socket] = []

    def announce(self, line: str) -> None:
        """Tell the user; that nobody reads standard output any more must not end a DNS server."""
        with suppress(OSError, ValueError):
            self._announce(f"{self.name}: {line}")

    def bind(self) -> None:
        """Bind everything. Raises ConfigError; then nothing is bound."""
        problems: list[Problem] = []
        for listen in self._listen:
            try:
                udp, tcp = bind_pair(listen, "--listen")
            except ConfigError as exc:
                problems += exc.problems
                continue
            for family, sock in udp:
                self.udp.append(UdpListener(sock, self._handler(Transport.UDP, family)))
            self._tcp += tcp
        for listen in self._listen_tls:
            try:
                self._tls += bind(listen, socket.SOCK_STREAM, "--listen-tls")
            except ConfigError as exc:
                problems += exc.problems
        for admin in self._admin_listen:
            try:
                self._admin += [sock for _, sock in bind(admin, socket.SOCK_STREAM, "--admin")]
            except ConfigError as exc:
                problems += exc.problems
        if problems:
            self.close()
            raise ConfigError(problems)

    def close(self) -> None:
        """Close all sockets."""
        streams = (sock for _, sock in (*self._tcp, *self._tls))
        for sock in (*(udp.sock for udp in self.udp), *streams, *self._admin):
            sock.close()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses that are answered at."""
        return [udp.sock.getsockname()[:2] for udp in self.udp]

    @property
    def shed(self) -> int:
        """Queries dropped because too many were waiting for upstreams."""
        return sum(udp.shed for udp in self.udp)

    @property
    def lost(self) -> int:
        """Replies that the system would not send."""
        return sum(udp.lost for udp in self.udp)

    async def run(
        self,
        health: Health,
        parts: Sequence[Callable[[], Awaitable[None]]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer, with *parts* beside, until a signal ends it or it is cancelled. Sockets are bound already."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_on_signals, nursery.cancel_scope)
                for listener in self.udp:
                    await nursery.start(listener.serve)
                plain = self._sessions if self._has_plain_sessions else None
                for family, sock in self._tcp:
                    await nursery.start(self._listener(family, sock, None, plain).serve)
                for family, sock in self._tls:
                    await nursery.start(self._listener(family, sock, self._tls_context, self._sessions).serve)
                await nursery.start(AdminEndpoint(self._admin, health).serve)
                for address, port in self.addresses:
                    self.announce(f"answering on {Listen(address, port)} (udp, tcp)")
                for _, sock in self._tls:
                    self.announce(f"answering on {Listen(*sock.getsockname()[:2])} (tls)")
                for sock in self._admin:
                    self.announce(f"metrics, health and readiness on http://{Listen(*sock.getsockname()[:2])}")
                for part in parts:
                    nursery.start_soon(part)
                task_status.started()
        finally:
            self.close()

    def _listener(
        self, family: int, sock: socket.socket, tls: ssl.SSLContext | None, sessions: OpenSession | None
    ) -> TcpListener:
        stream = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        handler = self._handler(Transport.TCP, family)
        return TcpListener(stream, handler, self.connections, tls=tls, sessions=sessions)

    async def _end_on_signals(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            first = await anext(aiter(signals))
            self.is_stopping = True
            self.connections.retire_sessions(RETRY_SECONDS)
            if first == signal.SIGTERM and self._lameduck:
                self.announce(f"SIGTERM: unready, answering for {self._lameduck:g} s more")
                with trio.move_on_after(self._lameduck):
                    await anext(aiter(signals))
            with trio.move_on_after(DRAIN_SECONDS):
                for udp in self.udp:
                    await udp.drained()
                while self.connections.pending:  # noqa: ASYNC110 - for seconds at most, once in a life
                    await trio.sleep(0.05)
            self.announce("stopped")
            scope.cancel()


def raise_descriptor_limit() -> None:
    """Allow as many file descriptors as the system lets this process have: questions to upstreams take one each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
