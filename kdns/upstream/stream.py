"""Questions over TCP and TLS: a few connections a server, kept open, pipelined, answered in any order (RFC 7766, 7858).

| what happens                                   | what follows                                                        |
|------------------------------------------------|---------------------------------------------------------------------|
| a question, and no connection                  | one is opened; the question waits for it                            |
| ``BUSY`` questions without reply on each       | another is opened, up to ``MAX_CONNECTIONS``                        |
| the server closes, and had answered before     | its questions are asked again, on another connection                |
| the server closes, and never answered          | its questions fail                                                  |
| questions, and nothing for ``STUCK_SECONDS``   | it is closed; its questions fail                                    |
| no question for ``IDLE_SECONDS``               | it is closed                                                        |
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from os import urandom
from typing import Final, NoReturn

import trio

from kdns.upstream.attempt import Attempt
from kdns.upstream.servers import Protocol, Server
from kdns.upstream.wire import is_reply

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 4
MAX_MOVES: Final = 64
"""Connections that one question may be moved to, each of which had answered something before it was closed: some
servers close after every few answers. The question's own deadline ends it earlier where that takes long."""
BUSY: Final = 64
CONNECT_SECONDS: Final = 2.0
STUCK_SECONDS: Final = 2.5
IDLE_SECONDS: Final = 30.0
READ_OCTETS: Final = 65_536
REPLIES_A_TURN: Final = 16
"""Replies that are taken before other tasks get their turn: a millisecond's work."""
MAX_PENDING: Final = 8192
"""Questions without reply on one connection: an eighth of the IDs, so that a free one is found at once."""


class StreamQuestions:
    """All questions over streams of one program. *tls* makes the context for ``tls://`` servers when one is needed."""

    def __init__(self, tls: Callable[[], ssl.SSLContext] = ssl.create_default_context) -> None:
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._connections: dict[Server, list[Connection]] = {}
        self._nursery: trio.Nursery | None = None
        self.reused: Counter[Server] = Counter()
        self.opened: Counter[Server] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._connections.values()))

    @property
    def tls(self) -> ssl.SSLContext:
        """The context of all TLS connections."""
        if self._tls is None:
            self._tls = self._make_tls()
        return self._tls

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Own the connections until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # whoever asks while all ends has no connection to ask on
        raise AssertionError("unreachable: it ends by cancellation alone")

    def ask(self, attempt: Attempt, server: Server, wire: bytes) -> bool:
        """Ask as ``UdpQuestions.ask`` does; False where there is no room left on any connection."""
        connections = self._connections.setdefault(server, [])
        chosen = min(connections, key=lambda connection: len(connection.pending), default=None)
        if chosen is None or (len(chosen.pending) >= BUSY and len(connections) < MAX_CONNECTIONS):
            if self._nursery is None:
                return False
            chosen = Connection(server, self)
            connections.append(chosen)
            self.opened[server] += 1
            self._nursery.start_soon(chosen.run)
        else:
            self.reused[server] += 1
        return chosen.put(attempt, wire)

    def close(self, attempt: Attempt) -> None:
        """Give up on a question: its reply is then passed over."""
        if attempt.connection is not None:
            attempt.connection.pending.pop(attempt.message_id, None)
            attempt.connection = None

    def gone(self, connection: Connection, reason: str) -> None:
        """Take back the questions of a connection that has ended."""
        connections = self._connections.get(connection.server, [])
        if connection in connections:
            connections.remove(connection)
        if not connections:
            self._connections.pop(connection.server, None)
        pending = list(connection.pending.values())
        connection.pending.clear()
        for attempt, wire in pending:
            attempt.connection = None
            if connection.has_answered and attempt.moves < MAX_MOVES:
                attempt.moves += 1
                if self.ask(attempt, connection.server, wire):
                    continue
            attempt.lost(reason)


class Connection:
    """One connection, and the questions on it by ID, each with the message that asks it."""

    def __init__(self, server: Server, owner: StreamQuestions) -> None:
        self.server = server
        self.pending: dict[bytes, tuple[Attempt, bytes]] = {}
        self.has_answered = False
        self._owner = owner
        self._unsent = bytearray()
        self._wake = trio.Event()
        self._heard_at = trio.current_time()

    def put(self, attempt: Attempt, wire: bytes) -> bool:
        """Take a question, a message without its ID; False where there is no room."""
        pending = self.pending
        if len(pending) >= MAX_PENDING:
            return False
        if not pending:
            self._heard_at = trio.current_time()
        while (message_id := urandom(2)) in pending:
            pass
        attempt.message_id = message_id
        attempt.connection = self
        pending[message_id] = attempt, wire
        self._unsent += (len(wire) + 2).to_bytes(2, "big") + message_id + wire
        self._wake.set()
        return True

    async def run(self) -> None:
        """Connect, then write and read until it ends."""
        reason = "idle"
        try:
            with trio.move_on_after(CONNECT_SECONDS) as connecting:
                stream = await open_stream(self.server, self._owner)
            if connecting.cancelled_caught:
                reason = f"no connection within {CONNECT_SECONDS:g} s"
                return
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, stream)
                    nursery.start_soon(self._read, stream)
                    reason = await self._watch()
                    nursery.cancel_scope.cancel()
            finally:
                with trio.move_on_after(0.1, shield=True):
                    await trio.aclose_forcefully(stream)
        except* _Ended as group:
            reason = str(group.exceptions[0])
        except* (OSError, ValueError, trio.BrokenResourceError, trio.ClosedResourceError) as some:
            reason = _reason(some)  # ValueError: a name that TLS cannot send
            if "certificate" in reason.lower():
                log.warning("%s: %s", self.server, reason)
        finally:
            self._owner.gone(self, f"{self.server}: {reason}")

    async def _write(self, stream: trio.abc.Stream) -> None:
        while True:
            while not self._unsent:
                self._wake = trio.Event()
                await self._wake.wait()
            chunk, self._unsent = self._unsent, bytearray()
            await stream.send_all(chunk)

    async def _read(self, stream: trio.abc.Stream) -> None:
        buffer = bytearray()
        while True:
            chunk = await stream.receive_some(READ_OCTETS)
            if not chunk:
                raise _Ended("closed by the server")
            buffer += chunk
            at = taken = 0
            while len(buffer) - at >= 2 and (end := at + 2 + (buffer[at] << 8 | buffer[at + 1])) <= len(buffer):
                self._take(bytes(buffer[at + 2 : end]))
                at = end
                taken += 1
                if not taken % REPLIES_A_TURN:
                    await trio.lowlevel.checkpoint()
            del buffer[:at]

    def _take(self, wire: bytes) -> None:
        asked = self.pending.get(wire[:2])
        if asked is None or not is_reply(wire, wire[:2], asked[0].section):
            return  # given up on meanwhile, or nonsense
        attempt = asked[0]
        self._heard_at = trio.current_time()
        self.has_answered = True
        del self.pending[wire[:2]]
        attempt.connection = None
        if not attempt.received(wire):
            attempt.lost("a reply that cannot be read")

    async def _watch(self) -> str:
        """Return why to end."""
        while True:
            await trio.sleep(0.5)
            silence = trio.current_time() - self._heard_at
            if self.pending and silence > STUCK_SECONDS:
                return f"no reply for {STUCK_SECONDS:g} s"
            if not self.pending and silence > IDLE_SECONDS:
                return "idle"


async def open_stream(server: Server, questions: StreamQuestions) -> trio.abc.Stream:
    """Return a connection to *server*, over TLS if it is asked so, by the context that all *questions* have.

    Raises OSError, trio.BrokenResourceError, or ValueError for a name that TLS cannot send.
    """
    stream = await trio.open_tcp_stream(server.address, server.port)
    if server.protocol is not Protocol.TLS:
        return stream
    secured = trio.SSLStream(
        stream, questions.tls, server_hostname=server.name or server.address, https_compatible=True
    )
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secured


class _Ended(Exception):
    """The server closed the connection."""


def _reason(group: BaseExceptionGroup[BaseException]) -> str:
    exc: BaseException = group
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    cause = exc.__cause__ if isinstance(exc, trio.BrokenResourceError) and exc.__cause__ is not None else exc
    with suppress(AttributeError):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate does not verify: {cause.verify_message}"
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
