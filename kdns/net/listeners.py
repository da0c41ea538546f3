"""The sockets of a program, bound all or none, and what answers on one set of them."""

from __future__ import annotations

import ctypes
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import msgspec
import trio

from kdns.errors import ConfigError, Problem
from kdns.net.addresses import bind, bind_pair, Listen
from kdns.net.connections import Connections
from kdns.net.handler import Handler, OpenSession
from kdns.net.hitters import Sampler
from kdns.net.tcp import TcpListener
from kdns.net.udp import UdpListener
from kdns.proto.query import Transport

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0
"""When clients of sessions may come back to a program that stops: to the next one, or to another replica."""

DRAIN_SECONDS: Final = 4.5
"""Responses on their way through upstreams have at most 4 s to go when the listeners stop."""

Bound = list[tuple[int, socket.socket]]
"""Bound sockets, each with its family (4 or 6)."""


class Sockets(msgspec.Struct):
    """One set of sockets: one for each address that is answered at."""

    udp: Bound
    tcp: Bound
    tls: Bound

    def all(self) -> Iterator[socket.socket]:
        """Yield every socket."""
        for some in (self.udp, self.tcp, self.tls):
            for _, sock in some:
                yield sock

    def close(self) -> None:
        """Close all."""
        for sock in self.all():
            sock.close()


def bind_sets(
    listen: Sequence[Listen], listen_tls: Sequence[Listen], count: int, problems: list[Problem]
) -> list[Sockets]:
    """Bind *count* sets of sockets to the same addresses, between which the kernel shares what comes.

    What is wrong is appended to *problems*.
    """
    sets = [Sockets([], [], []) for _ in range(count)]
    for at in listen:
        try:
            udp, tcp = bind_pair(at, "--listen")
            if count > 1:
                port = udp[0][1].getsockname()[1]
                for _, sock in (*udp, *tcp):  # bound alone, they have shown that nobody else has the port
                    sock.close()
                for some in sets:
                    udp, tcp = bind_pair(Listen(at.address, port), "--listen", is_shared=True)
                    some.udp += udp
                    some.tcp += tcp
            else:
                sets[0].udp += udp
                sets[0].tcp += tcp
        except ConfigError as exc:
            problems += exc.problems
    for at in listen_tls:
        try:
            tls = bind(at, socket.SOCK_STREAM, "--listen-tls")
            if count > 1:
                port = tls[0][1].getsockname()[1]
                for _, sock in tls:
                    sock.close()
                for some in sets:
                    some.tls += bind(Listen(at.address, port), socket.SOCK_STREAM, "--listen-tls", is_shared=True)
            else:
                sets[0].tls += tls
        except ConfigError as exc:
            problems += exc.problems
    if count > 1:
        for sock in sets[0].all():
            share_evenly(sock, count)
    return sets


_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_LOAD_RANDOM: Final = (0x20, 0xFFFFF000 + 56)
_MODULO: Final = 0x94
_RETURN: Final = 0x16


def share_evenly(sock: socket.socket, count: int) -> None:
    """Have the kernel choose one of the *count* sockets that share an address at random for each datagram and each
    connection.

    By itself it chooses by the client's address and port, so that a few busy clients may all meet the same one. The
    program is classic BPF of three instructions, which needs no privilege. Where the system has no such thing, its own
    way stays.
    """
    code = b"".join(
        ctypes.c_uint16(op).value.to_bytes(2, "little") + bytes(2) + number.to_bytes(4, "little")
        for op, number in (_LOAD_RANDOM, (_MODULO, count), (_RETURN, 0))
    )
    buffer = ctypes.create_string_buffer(code, len(code))
    program = (3).to_bytes(8, "little") + ctypes.addressof(buffer).to_bytes(8, "little")
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
    except OSError as exc:
        log.info("workers share what comes by client, not evenly: %s", exc.strerror)


class Listeners:
    """What answers on one set of sockets; *handler* makes it of a transport and a family (4 or 6).

    *sessions* are opened over TLS, and with *has_plain_sessions* over plain TCP as well. Nobody is answered over TLS
    before *wait_for_tls* returns. *gathers* is as for ``UdpListener``.
    """

    def __init__(
        self,
        handler: Callable[[Transport, int], Handler],
        *,
        gathers: bool = False,
        tls: ssl.SSLContext | None = None,
        wait_for_tls: Callable[[], Awaitable[None]] | None = None,
        sessions: OpenSession | None = None,
        has_plain_sessions: bool = False,
    ) -> None:
        self.sampler = Sampler()
        self.connections = Connections(sampler=self.sampler)
        self._udp: list[UdpListener] = []
        self._tcp: list[TcpListener] = []
        self._is_held = False
        self._handler = handler
        self._gathers = gathers
        self._wait_for_tls = wait_for_tls
        self._tls = tls
        self._sessions = sessions
        self._has_plain_sessions = has_plain_sessions

    @property
    def shed(self) -> int:
        """Queries dropped because too many were waiting for upstreams."""
        return sum(udp.shed for udp in self._udp)

    @property
    def lost(self) -> int:
        """Replies that the system would not send."""
        return sum(udp.lost for udp in self._udp)

    @property
    def crowded_out(self) -> int:
        """Queries over UDP of clients that asked for more than there was time for."""
        return sum(udp.crowded_out for udp in self._udp)

    async def serve(
        self, sets: Sequence[Sockets], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer on the one set until cancelled."""
        (sockets,) = sets
        plain = self._sessions if self._has_plain_sessions else None
        async with trio.open_nursery() as nursery:
            for family, sock in sockets.udp:
                handler = self._handler(Transport.UDP, family)
                listener = UdpListener(sock, handler, gathers=self._gathers, sampler=self.sampler)
                self._udp.append(listener)
                await nursery.start(listener.serve)
            for family, sock in sockets.tcp:
                stream = self._stream_listener(family, sock, None, plain)
                self._tcp.append(stream)
                await nursery.start(stream.serve)
            for family, sock in sockets.tls:
                nursery.start_soon(self._serve_secured, family, sock)
            task_status.started()

    async def _serve_secured(self, family: int, sock: socket.socket) -> None:
        if self._wait_for_tls is not None:
            await self._wait_for_tls()
        listener = self._stream_listener(family, sock, self._tls, self._sessions)
        self._tcp.append(listener)
        if self._is_held:
            listener.hold()
        await listener.serve()

    def _stream_listener(
        self, family: int, sock: socket.socket, tls: ssl.SSLContext | None, sessions: OpenSession | None
    ) -> TcpListener:
        stream = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        handler = self._handler(Transport.TCP, family)
        return TcpListener(stream, handler, self.connections, tls=tls, sessions=sessions)

    def hold(self) -> None:
        """Take nothing new from the sockets, which somebody else answers on, too; what was begun is finished."""
        self._is_held = True
        for udp in self._udp:
            udp.hold()
        for tcp in self._tcp:
            tcp.hold()

    def retire(self) -> None:
        """Ask the clients of all sessions to go, and take no new ones."""
        self.connections.retire_sessions(RETRY_SECONDS)

    async def drain(self) -> None:
        """Wait until no response is on its way through upstreams, for ``DRAIN_SECONDS`` at most."""
        with trio.move_on_after(DRAIN_SECONDS):
            for udp in self._udp:
                await udp.drained()
            while self.connections.pending:  # noqa: ASYNC110 - for seconds at most, once in a life
                await trio.sleep(0.05)
