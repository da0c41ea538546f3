"""Questions over UDP on their way: a fresh connected socket each, one reader for all of them (RFC 5452).

Every question has a source port of its own, chosen at random by the kernel, and an ID from the system's random source.
What does not match is ignored and waiting goes on, for one wrong datagram must not end the wait (TuDoor). All sockets
stand in one epoll set, which one task waits for, so a question costs no task.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from os import urandom
from typing import Final, NoReturn

import trio

from kdns.upstream.question import is_reply
from kdns.upstream.servers import Server

RECEIVE_OCTETS: Final = 4096
"""We ask for 1232 at most; a longer reply than this is cut, cannot be read, and so is no reply."""

_BATCH: Final = 256
_IDS: Final = 256
"""IDs taken from the system's random source at a time."""


class UdpQuestion:
    """One question on its way. ``close`` forgets it."""

    __slots__ = ("_by_fd", "_fd", "_sock", "message_id", "on_error", "on_reply", "question")

    def __init__(
        self,
        by_fd: dict[int, UdpQuestion],
        sock: socket.SocketType,
        message_id: bytes,
        question: bytes,
        on_reply: Callable[[bytes], bool],
        on_error: Callable[[str], None],
    ) -> None:
        self._by_fd = by_fd
        self._sock = sock
        self._fd = sock.fileno()
        self.message_id = message_id
        self.question = question
        self.on_reply = on_reply
        self.on_error = on_error
        by_fd[self._fd] = self

    def receive(self) -> None:
        """Take what came."""
        try:
            wire = self._sock.recv(RECEIVE_OCTETS)
        except BlockingIOError:
            return
        except OSError as exc:
            self.close()
            self.on_error(exc.strerror or str(exc))
            return
        if is_reply(wire, self.message_id, self.question) and self.on_reply(wire):
            self.close()

    def close(self) -> None:
        """Forget the question; its socket leaves the epoll set by being closed."""
        if self._by_fd.pop(self._fd, None) is not None:
            self._sock.close()
            self._fd = -1


class UdpQuestions:
    """All questions over UDP of one program."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._by_fd: dict[int, UdpQuestion] = {}
        self._addresses: dict[Server, tuple[int, tuple[object, ...]]] = {}
        self._ids = b""
        self.mismatched = 0

    def __len__(self) -> int:
        return len(self._by_fd)

    async def run(self) -> NoReturn:
        """Read until cancelled."""
        by_fd, epoll = self._by_fd, self._epoll
        try:
            while True:
                await trio.lowlevel.wait_readable(epoll.fileno())
                for fd, _ in epoll.poll(0, _BATCH):
                    if (question := by_fd.get(fd)) is not None:
                        question.receive()
        finally:
            for question in list(by_fd.values()):
                question.close()
            epoll.close()

    def ask(
        self,
        server: Server,
        wire: bytes,
        question: bytes,
        on_reply: Callable[[bytes], bool],
        on_error: Callable[[str], None],
    ) -> UdpQuestion | None:
        """Send *wire*, a message without its ID whose question section is *question*.

        *on_reply* is given matching replies until it takes one by returning True; *on_error* is told, in place of a
        reply, that the system says that none can come. Returns None when the system cannot even send; nothing is
        called then.
        """
        family, address = self._addresses.get(server) or self._look_up(server)
        ids = self._ids
        if not ids:
            ids = urandom(2 * _IDS)
        message_id, self._ids = ids[:2], ids[2:]
        sock = None
        try:
            sock = socket.SocketType(family, _KIND)
            sock.connect(address)
            sock.send(message_id + wire)
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        except OSError:
            if sock is not None:
                sock.close()
            return None
        return UdpQuestion(self._by_fd, sock, message_id, question, on_reply, on_error)

    def _look_up(self, server: Server) -> tuple[int, tuple[object, ...]]:
        info = socket.getaddrinfo(server.address, server.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
        self._addresses[server] = found = int(info[0]), info[4]
        return found


_KIND: Final = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
