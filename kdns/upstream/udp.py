"""Questions over UDP on their way: a fresh port and ID each, one reader for all of them (RFC 5452).

Every question has a source port of its own, chosen at random by the kernel, and an ID from the system's random source.
What does not match, the server's address included, is ignored and waiting goes on, for one wrong datagram must not end
the wait (TuDoor). All sockets stand in one epoll set, which one task waits for, so a question costs no task.

A socket whose question was answered serves another: connecting it to AF_UNSPEC gives its port back, and sending from
it takes a new one at random. Making, registering and closing one costs twice that. That the kernel tells of a refusal
(ICMP) all the same is asked for by IP_RECVERR; sockets that are connected to the server, which would have it so by
themselves, cost a call more. A socket whose question was given up on is closed: an error that is still on its way to it
must not be taken for the next question's.

Questions asked in one turn of the loop are sent together at its end: a server on this machine is woken once for them.
"""

from __future__ import annotations

import ctypes
import select
import socket
from os import urandom
from typing import Final, NoReturn

import trio

from kdns.upstream.attempt import Attempt
from kdns.upstream.servers import Server
from kdns.upstream.wire import is_reply

RECEIVE_OCTETS: Final = 4096
"""We ask for 1232 at most; a longer reply than this is cut, cannot be read, and so is no reply."""

MAX_IDLE: Final = 512
"""Sockets kept for the next question of their family."""

_BATCH: Final = 32
_IDS: Final = 256
"""IDs taken from the system's random source at a time."""

_KIND: Final = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_NOWHERE: Final = ctypes.create_string_buffer(bytes(16), 16)
"""An address of family AF_UNSPEC."""

_RECVERR: Final[dict[int, tuple[int, int]]] = {
    socket.AF_INET: (socket.IPPROTO_IP, 11),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 25),
}
"""IP_RECVERR and IPV6_RECVERR of Linux, which Python has no names for."""

_connect = ctypes.PyDLL(None).connect
"""connect(2). That it is told no types of arguments, and keeps no errno, makes a call cost half."""


class _Target:
    """A server's address: where to send to, and what a reply comes from."""

    __slots__ = ("address", "family", "sender")

    def __init__(self, server: Server) -> None:
        info = socket.getaddrinfo(server.address, server.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
        self.family = int(info[0])
        self.address = info[4]
        host, *rest = info[4]
        packed = socket.inet_pton(self.family, str(host).partition("%")[0])
        self.sender = (socket.inet_ntop(self.family, packed), *rest)


class Port:
    """A socket, and the question that it waits for a reply to."""

    __slots__ = ("attempt", "close", "fd", "is_bound", "recvfrom", "sendto", "target")

    def __init__(self, target: _Target) -> None:
        sock = socket.SocketType(target.family, _KIND)
        sock.setsockopt(*_RECVERR[target.family], 1)
        self.fd = sock.fileno()
        self.sendto, self.recvfrom, self.close = sock.sendto, sock.recvfrom, sock.close
        self.target = target
        self.attempt: Attempt | None = None
        self.is_bound = False


class UdpQuestions:
    """All questions over UDP of one program."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ports: dict[int, Port] = {}
        self._waiting = 0
        self._idle: dict[int, list[Port]] = {socket.AF_INET: [], socket.AF_INET6: []}
        self._unsent: list[tuple[Port, Attempt, bytes]] = []
        self._asked = trio.lowlevel.ParkingLot()
        self._targets: dict[Server, _Target] = {}
        self._ids = b""
        self._ids_at = 0
        self.mismatched = 0
        """Datagrams that were no reply to the question of their socket."""

    def __len__(self) -> int:
        return self._waiting

    async def run(self) -> None:
        """Send and read until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send)
                nursery.start_soon(self._read)
        finally:
            for port in list(self._ports.values()):
                self._discard(port)
            self._epoll.close()

    def ask(self, attempt: Attempt, server: Server, wire: bytes) -> bool:
        """Send *wire*, a message without its ID; *attempt* is given what comes back, or told that it is lost.

        False when there is nothing to send it from; nothing is called then.
        """
        target = self._targets.get(server)
        if target is None:
            try:
                target = self._targets[server] = _Target(server)
            except OSError:  # the interface that a link-local address names is not there
                return False
        at = self._ids_at
        if at >= len(self._ids):
            self._ids = urandom(2 * _IDS)
            at = 0
        message_id = attempt.message_id = self._ids[at : at + 2]
        self._ids_at = at + 2
        idle = self._idle[target.family]
        if idle:
            port = idle.pop()
            port.target = target
        else:
            try:
                port = Port(target)
            except OSError:
                return False
            self._ports[port.fd] = port
            self._epoll.register(port.fd, select.EPOLLIN)
        port.attempt = attempt
        attempt.port = port
        self._waiting += 1
        unsent = self._unsent
        unsent.append((port, attempt, message_id + wire))
        if len(unsent) == 1:
            self._asked.unpark()
        return True

    def close(self, attempt: Attempt) -> None:
        """Give up on a question."""
        port, attempt.port = attempt.port, None
        if port is not None:
            self._discard(port)

    async def _send(self) -> NoReturn:
        while True:
            if not self._unsent:
                await self._asked.park()
            unsent, self._unsent = self._unsent, []
            for port, attempt, wire in unsent:
                if port.attempt is not attempt:
                    continue  # given up meanwhile
                if port.is_bound:
                    _connect(port.fd, _NOWHERE, 16)
                port.is_bound = True
                try:
                    port.sendto(wire, port.target.address)
                except OSError as exc:
                    self.close(attempt)
                    attempt.lost(exc.strerror or str(exc))

    async def _read(self) -> NoReturn:
        ports, epoll = self._ports, self._epoll
        while True:
            await trio.lowlevel.wait_readable(epoll.fileno())
            for fd, event in epoll.poll(0, _BATCH):
                port = ports.get(fd)
                if port is None:
                    continue  # given up by what came before in this batch
                attempt = port.attempt
                try:
                    wire, sender = port.recvfrom(RECEIVE_OCTETS)
                except OSError as exc:
                    if isinstance(exc, BlockingIOError) and not event & select.EPOLLERR:
                        continue
                    if attempt is None:
                        self._discard(port)
                    else:
                        self.close(attempt)
                        attempt.lost(exc.strerror or str(exc))
                    continue
                if attempt is None:
                    continue  # late, for a question that is answered
                if sender != port.target.sender or not is_reply(wire, attempt.message_id, attempt.section):
                    self.mismatched += 1
                elif attempt.received(wire) and attempt.port is port:
                    self._release(port, attempt)

    def _release(self, port: Port, attempt: Attempt) -> None:
        port.attempt = attempt.port = None
        self._waiting -= 1
        idle = self._idle[port.target.family]
        if len(idle) < MAX_IDLE:
            idle.append(port)
        else:
            self._discard(port)

    def _discard(self, port: Port) -> None:
        """Close a socket, which takes it out of the epoll set."""
        if port.attempt is not None:
            port.attempt = None
            self._waiting -= 1
        elif port in (idle := self._idle[port.target.family]):
            idle.remove(port)
        del self._ports[port.fd]
        port.close()
