"""Questions over UDP on their way: a fresh port and ID each, one reader for all of them (RFC 5452).

Every question has a source port of its own, chosen at random by the kernel, on a socket connected to the server, and an
ID from the system's random source. What does not match is ignored and waiting goes on, for one wrong datagram must not
end the wait (TuDoor). All sockets stand in one epoll set, which one task waits for, so a question costs no task.

A socket whose question was answered serves another: dissolving its connection (connect(2) to AF_UNSPEC) gives its port
back, and connecting it again takes a new one at random. That is two calls in place of making, registering and closing
one, and half their time. One that was given up on is closed: an error that is still on its way to it must not be taken
for the next question's.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
from os import urandom
from typing import Final, NoReturn

import trio

from kdns.upstream.attempt import Attempt
from kdns.upstream.question import is_reply
from kdns.upstream.servers import Server

RECEIVE_OCTETS: Final = 4096
"""We ask for 1232 at most; a longer reply than this is cut, cannot be read, and so is no reply."""

MAX_IDLE: Final = 512
"""Sockets kept for the next question of their family."""

_BATCH: Final = 256
_IDS: Final = 256
"""IDs taken from the system's random source at a time."""

_KIND: Final = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_UNSPECIFIED: Final = ctypes.create_string_buffer(bytes(16), 16)
_NOWHERE: Final = ctypes.addressof(_UNSPECIFIED)

_connect = ctypes.PyDLL(None, use_errno=True).connect
_connect.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)


class _Target:
    """A server's address as connect(2) takes it."""

    __slots__ = ("_buffer", "address", "family", "octets")

    def __init__(self, server: Server) -> None:
        info = socket.getaddrinfo(server.address, server.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
        self.family = int(info[0])
        port = server.port.to_bytes(2, "big")
        head = bytes(ctypes.c_uint16(self.family))
        host = str(info[4][0]).partition("%")[0]
        if self.family == socket.AF_INET:
            packed = head + port + socket.inet_pton(socket.AF_INET, host) + bytes(8)
        else:
            scope = int(info[4][3])  # type: ignore[misc]  # an IPv6 address has four parts
            packed = head + port + bytes(4) + socket.inet_pton(socket.AF_INET6, host) + _native(scope)
        self._buffer = ctypes.create_string_buffer(packed, len(packed))
        self.address = ctypes.addressof(self._buffer)
        self.octets = len(packed)


class UdpQuestions:
    """All questions over UDP of one program."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._by_fd: dict[int, Attempt] = {}
        self._idle: dict[int, list[int]] = {socket.AF_INET: [], socket.AF_INET6: []}
        self._families: dict[int, int] = {}
        self._targets: dict[Server, _Target] = {}
        self._ids = b""
        self._ids_at = 0
        self.mismatched = 0
        """Datagrams that were no reply to the question of their socket."""

    def __len__(self) -> int:
        return len(self._by_fd)

    async def run(self) -> NoReturn:
        """Read until cancelled."""
        by_fd, epoll, read = self._by_fd, self._epoll, os.read
        try:
            while True:
                await trio.lowlevel.wait_readable(epoll.fileno())
                for fd, _ in epoll.poll(0, _BATCH):
                    attempt = by_fd.get(fd)
                    try:
                        wire = read(fd, RECEIVE_OCTETS)
                    except BlockingIOError:
                        continue
                    except OSError as exc:
                        if attempt is not None:
                            self.close(attempt)
                            attempt.lost(exc.strerror or str(exc))
                        elif fd in self._families:
                            self._discard(fd)
                        continue
                    if attempt is None:
                        continue  # late, for a question that is answered
                    if not is_reply(wire, attempt.message_id, attempt.section):
                        self.mismatched += 1
                    elif attempt.received(wire) and attempt.fd == fd:
                        self._release(attempt)
        finally:
            for fd in list(self._families):
                self._discard(fd)
            by_fd.clear()
            epoll.close()

    def ask(self, attempt: Attempt, server: Server, wire: bytes) -> bool:
        """Send *wire*, a message without its ID; *attempt* is given what comes back.

        False when the system cannot even send; nothing is called then.
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
            fd = idle.pop()
            is_ready = not _connect(fd, _NOWHERE, 16) and not _connect(fd, target.address, target.octets)
        else:
            fd = self._make(target.family)
            if fd < 0:
                return False
            is_ready = not _connect(fd, target.address, target.octets)
        if is_ready:
            try:
                os.write(fd, message_id + wire)
            except OSError:
                is_ready = False
        if not is_ready:
            self._discard(fd)
            return False
        attempt.fd = fd
        self._by_fd[fd] = attempt
        return True

    def close(self, attempt: Attempt) -> None:
        """Give up on a question."""
        fd, attempt.fd = attempt.fd, -1
        if fd >= 0:
            self._discard(fd)

    def _release(self, attempt: Attempt) -> None:
        fd, attempt.fd = attempt.fd, -1
        del self._by_fd[fd]
        idle = self._idle[self._families[fd]]
        if len(idle) < MAX_IDLE:
            idle.append(fd)
        else:
            self._discard(fd)

    def _make(self, family: int) -> int:
        try:
            fd = socket.SocketType(family, _KIND).detach()
        except OSError:
            return -1
        self._families[fd] = family
        self._epoll.register(fd, select.EPOLLIN)
        return fd

    def _discard(self, fd: int) -> None:
        """Close a socket, which takes it out of the epoll set."""
        self._by_fd.pop(fd, None)
        family = self._families.pop(fd)
        if fd in (idle := self._idle[family]):
            idle.remove(fd)
        os.close(fd)


def _native(number: int) -> bytes:
    return bytes(ctypes.c_uint32(number))
