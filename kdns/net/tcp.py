"""TCP listeners: messages behind two-octet lengths, pipelined, answered as they are ready (RFC 7766, RFC 9210).

| limit                                   | when it is reached                                                       |
|-----------------------------------------|--------------------------------------------------------------------------|
| no message for ``IDLE_SECONDS``         | closed                                                                   |
| a message not whole in ``MESSAGE_SECONDS`` | closed                                                                |
| replies not taken in ``WRITE_SECONDS``  | closed                                                                   |
| ``MAX_PENDING`` messages without answer | nothing more is read from the connection until one is answered           |
| connections in total, or of one client  | the one of them that has gone longest without a whole message is closed  |

A connection that becomes a session (RFC 8490) has rules of its own: its session says when it has been quiet for too
long, it is closed for nobody, and cut when more than ``MAX_SESSION_OCTETS`` wait for its client to read them.

Closing the quietest rather than refusing the newest is what keeps a good client served beside two thousand
connections that send an octet a second.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from time import perf_counter, perf_counter_ns
from typing import Final, NoReturn

import trio

from kdns.net.connections import Connections
from kdns.net.handler import Handler, OpenSession, Session, Several
from kdns.proto.dso import is_dso
from kdns.proto.query import HEADER_OCTETS, REFUSED
from kdns.proto.response import make_bare
from kdns.proto.table import Entry

log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 10.0
MESSAGE_SECONDS: Final = 5.0
WRITE_SECONDS: Final = 5.0
MESSAGES_A_TURN: Final = 16
MAX_PENDING: Final = 64
READ_OCTETS: Final = 16_384
MAX_UNSENT_OCTETS: Final = 131_072
"""Replies that wait for one client to read: two of the largest."""

MAX_UNSENT_OCTETS_IN_ALL: Final = 64 * 2**20
"""Replies that wait for all clients together; past that each gets one at a time."""

MAX_SESSION_OCTETS: Final = 4 * 2**20

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class TcpListener:
    """Answers streams accepted from a listening socket; *connections* is shared by all listeners of a program.

    With *tls* they are secured; with *sessions* their clients may ask for one.
    """

    def __init__(
        self,
        listener: trio.SocketListener,
        handler: Handler,
        connections: Connections,
        *,
        tls: ssl.SSLContext | None = None,
        sessions: OpenSession | None = None,
    ) -> None:
        self.listener = listener
        self._tls = tls
        self._sessions = sessions
        self._handler = handler
        self._connections = connections
        self._accepting = trio.CancelScope()

    def hold(self) -> None:
        """Accept no more connections: whoever has the socket, too, does. Those that are open stay."""
        self._accepting.cancel()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Accept and answer until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._connections.turns.run)
            task_status.started()
            with self._accepting:
                await self._accept(nursery)
            await trio.sleep_forever()
        raise AssertionError("unreachable: it ends by cancellation alone")

    async def _accept(self, nursery: trio.Nursery) -> NoReturn:
        is_short = False
        while True:
            try:
                stream = await self.listener.accept()
            except OSError as exc:
                if exc.errno in _NO_DESCRIPTORS:
                    if not is_short:
                        log.warning("tcp accept: %s; connections wait until there is room again", exc.strerror)
                    is_short = True
                    await trio.sleep(0.1)
                    continue
                raise
            is_short = False
            nursery.start_soon(self._serve_one, stream)
            await self._connections.turns.take()

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        try:
            client = stream.socket.getpeername()[:2]
        except OSError:
            stream.socket.close()  # gone before it was accepted
            return
        secured: trio.abc.Stream = stream
        if self._tls is not None:
            secured = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
        connection = _Connection(secured, stream.socket, client, self._handler, self._connections, self._sessions)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)


class _Connection:
    """One stream: a task that reads, and one that writes while there is something."""

    __slots__ = (
        "_connections", "_handler", "_in_write", "_is_over", "_is_secured", "_is_taking", "_is_writing", "_nursery",
        "_open_session", "_peer", "_pending", "_progress", "_session", "_sock", "_stream", "_unsent", "client", "scope",
    )  # fmt: skip

    def __init__(
        self,
        stream: trio.abc.Stream,
        sock: trio.socket.SocketType,
        client: tuple[str, int],
        handler: Handler,
        connections: Connections,
        sessions: OpenSession | None,
    ) -> None:
        self.client = client[0]
        self._sock = sock
        self._is_secured = isinstance(stream, trio.SSLStream)
        self._open_session = sessions
        self._session: Session | None = None
        self._nursery: trio.Nursery | None = None
        self._peer = client
        self.scope = trio.CancelScope()
        self._stream = stream
        self._handler = handler
        self._connections = connections
        self._unsent = bytearray()
        self._in_write = 0
        self._is_writing = False
        self._is_taking = False
        self._pending = 0
        self._is_over = False
        self._progress: trio.Event | None = None  # while somebody waits for it

    @property
    def is_quiet(self) -> bool:
        """Whether nothing waits for an answer or to be written."""
        return not (self._pending or self._unsent or self._is_writing)

    async def run(self) -> None:
        """Serve until the client is done, a limit is reached, or the connection is closed for another."""
        with self.scope:
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    try:
                        await self._shake_hands()
                        await self._read(nursery)
                        # The client has sent all it will; what it waits for it still gets, within the usual bound.
                        with trio.move_on_after(IDLE_SECONDS):
                            while not self.is_quiet:
                                await self._wait_for_progress()
                    finally:
                        self._is_over = True  # answers that come from here on find no task to write them
                    nursery.cancel_scope.cancel()
            except* (trio.BrokenResourceError, trio.ClosedResourceError, _Hopeless):
                pass
            finally:
                if self._session is not None:
                    self._session.end()
                self._connections.unsent -= len(self._unsent) + self._in_write
                self._unsent.clear()
                self._in_write = 0
        with suppress(OSError, trio.BrokenResourceError):
            self._sock.close()

    async def _shake_hands(self) -> None:
        if isinstance(self._stream, trio.SSLStream):
            with trio.move_on_after(MESSAGE_SECONDS) as scope:
                await self._stream.do_handshake()
            if scope.cancelled_caught:
                raise _Hopeless

    async def _read(self, nursery: trio.Nursery) -> None:
        buffer = bytearray()
        deadline = trio.current_time() + IDLE_SECONDS
        while True:
            while self._is_full():
                await self._wait_for_progress()
                await self._take_in_turns(buffer, nursery)
                deadline = trio.current_time() + IDLE_SECONDS
            if self._session is not None and not buffer:
                deadline = self._session.deadline
            with trio.move_on_at(deadline):
                chunk = await self._stream.receive_some(READ_OCTETS)
                if not chunk:
                    return
                was_empty = not buffer
                buffer += chunk
                if await self._take_in_turns(buffer, nursery):
                    self._connections.heard(self)
                    deadline = trio.current_time() + (MESSAGE_SECONDS if buffer else IDLE_SECONDS)
                elif was_empty and buffer:
                    deadline = min(deadline, trio.current_time() + MESSAGE_SECONDS)
                continue
            if self._session is not None and not buffer:
                if trio.current_time() >= self._session.deadline:
                    return
                continue
            if self._pending or self._unsent or self._in_write:  # it is we who are slow
                await self._wait_for_progress()
                deadline = trio.current_time() + IDLE_SECONDS
                continue
            return

    def _is_full(self) -> bool:
        """Tell whether nothing more may be taken: too much waits for its answer, or for the client to read it."""
        unsent = len(self._unsent) + self._in_write
        return (
            self._pending >= MAX_PENDING
            or unsent >= MAX_UNSENT_OCTETS
            or (unsent > 0 and self._connections.unsent >= MAX_UNSENT_OCTETS_IN_ALL)
        )

    async def _take_in_turns(self, buffer: bytearray, nursery: trio.Nursery) -> bool:
        """Answer whole messages in *buffer* and remove them, while there is room; tell whether there was one."""
        was_one = False
        while len(buffer) >= 2 and len(buffer) - 2 >= buffer[0] << 8 | buffer[1] and not self._is_full():
            await self._connections.turns.take()
            was_one |= self._take_messages(buffer, nursery)
        return was_one

    def _take_messages(self, buffer: bytearray, nursery: trio.Nursery) -> bool:
        """Answer the next messages in *buffer*, as many as one turn is for; tell whether there was one.

        What is too short for a header is passed over like over UDP, and keeps no connection open.
        """
        connections, handler, unsent = self._connections, self._handler, self._unsent
        find = handler.find
        data = bytes(buffer)
        octets = len(data)
        # One at a time where too much waits for all clients together.
        most = 1 if connections.unsent >= MAX_UNSENT_OCTETS_IN_ALL else MAX_UNSENT_OCTETS - self._in_write
        hits: list[Entry] = []
        spans: list[tuple[int, int]] = []
        at = 0
        self._is_taking = True
        began = perf_counter()
        for _ in range(MESSAGES_A_TURN):
            if octets - at < 2 or len(unsent) >= most or self._pending >= MAX_PENDING:
                break
            start = at + 2
            end = start + (data[at] << 8 | data[at + 1])
            if end > octets:
                break
            at = end
            if end - start < HEADER_OCTETS:
                continue
            spans.append((start, end))
            entry = find(data[start + 2 : end])
            if entry is None:
                self._take(data[start:end], nursery)
                continue
            hits.append(entry)
            tail = entry.tail or entry.next()
            size = len(tail) + 2
            unsent += b"%c%c%b%b" % (size >> 8, size & 255, data[start : start + 2], tail)
            connections.unsent += size + 2
        del buffer[:at]
        self._is_taking = False
        if hits:
            handler.count(hits, perf_counter() - began)
        if spans:
            if self._session is not None:
                self._session.heard(trio.current_time())
            connections.until_sample -= len(spans)
            if connections.until_sample <= 0:
                start, end = spans[perf_counter_ns() // 1000 % len(spans)]
                connections.sample(data[start:end], self.client)
        if unsent:
            self._start_writing(nursery)
        return bool(spans)

    def _take(self, wire: bytes, nursery: trio.Nursery) -> None:
        """Answer a message that is not finished, now or later."""
        if self._open_session is not None and is_dso(wire):
            self._take_of_session(wire)
            return
        answer = self._handler.respond(wire, self._tell_peer)
        if isinstance(answer, bytes):
            self._queue(wire[:2], answer)
        elif isinstance(answer, Iterator):
            self._pending += 1
            nursery.start_soon(self._send_several, wire[:2], answer, nursery)
        elif answer is not None:
            self._pending += 1
            self._connections.pending += 1
            answer(partial(self._finish, wire[:2], nursery))

    def _take_of_session(self, wire: bytes) -> None:
        session = self._session
        if session is None:
            assert self._open_session is not None  # the caller has looked
            session = self._open_session(self.send, self.cut)
            if not self._connections.keep(self, session):
                self._queue(wire[:2], make_bare(wire, REFUSED, ra=False))
                return
            self._session = session
        try:
            session.receive(wire, trio.current_time())
        except Exception:
            log.exception("a message of a session of %d octets: %s", len(wire), wire[:512].hex())
            self.cut()

    def send(self, wire: bytes) -> None:
        """Queue a message of the session; cut it if its client does not read."""
        if self._is_over or self._nursery is None:
            return
        self._queue(wire[:2], wire[2:])
        if len(self._unsent) + self._in_write > MAX_SESSION_OCTETS:
            self.cut()
        elif not self._is_taking:  # else all that was said to what came is written together
            self._start_writing(self._nursery)

    def cut(self) -> None:
        """End the connection at once, by a reset (RFC 8490 section 5.3)."""
        self._connections.cut += 1
        self._is_over = True
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.scope.cancel()

    def _tell_peer(self) -> tuple[str, int]:
        return self._peer

    def _queue(self, message_id: bytes, tail: bytes) -> None:
        self._connections.unsent += len(tail) + 4
        self._unsent += (len(tail) + 2).to_bytes(2, "big")
        self._unsent += message_id
        self._unsent += tail

    def _finish(self, message_id: bytes, nursery: trio.Nursery, tail: bytes | None) -> None:
        self._pending -= 1
        self._connections.pending -= 1
        self._wake()
        if tail is None or self._is_over:
            return
        self._queue(message_id, tail)
        self._start_writing(nursery)

    async def _send_several(self, message_id: bytes, tails: Several, nursery: trio.Nursery) -> None:
        """Queue responses one by one, no faster than the client takes them."""
        try:
            for tail in tails:
                self._queue(message_id, tail)
                self._start_writing(nursery)
                await trio.lowlevel.checkpoint()
                while len(self._unsent) + self._in_write >= MAX_UNSENT_OCTETS:
                    await self._wait_for_progress()
        except Exception:
            log.exception("several responses to one message")  # which costs its connection, and nothing else
            raise _Hopeless from None
        finally:
            self._pending -= 1
            self._wake()

    def _start_writing(self, nursery: trio.Nursery) -> None:
        if self._is_writing:
            return
        if not self._is_secured:
            self._write_nowait()
        if self._unsent:
            self._is_writing = True
            nursery.start_soon(self._write)

    def _write_nowait(self) -> None:
        """Write what the system takes at once, which mostly is all: a task for each reply costs more than the reply."""
        try:
            written = os.write(self._sock.fileno(), self._unsent)
        except OSError:
            return  # full, or gone: whoever waits for room finds out
        self._connections.unsent -= written
        del self._unsent[:written]
        self._wake()

    async def _write(self) -> None:
        try:
            while self._unsent:
                chunk, self._unsent = self._unsent, bytearray()
                self._in_write = len(chunk)
                try:
                    with trio.move_on_after(WRITE_SECONDS) as scope:
                        await self._stream.send_all(chunk)
                finally:
                    self._connections.unsent -= self._in_write
                    self._in_write = 0
                if scope.cancelled_caught:
                    raise _Hopeless
                self._wake()
        except BaseException:
            self._is_over = True
            raise
        finally:
            self._is_writing = False
            self._wake()

    async def _wait_for_progress(self) -> None:
        if self._progress is None:
            self._progress = trio.Event()
        await self._progress.wait()

    def _wake(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None


class _Hopeless(Exception):
    """The client does not take its replies: the connection is closed."""
