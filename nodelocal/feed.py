"""The connection on which kdns tells of changes (RFC 8765, RFC 8490): one, to the kdns that offered it last.

| what happens                                        | what follows                                               |
|-----------------------------------------------------|------------------------------------------------------------|
| a reply of kdns says that it pushes changes         | a connection to it, of the kind that it is asked by (TCP    |
|                                                     | where it is asked by UDP)                                  |
| an entry comes into the cache from kdns             | it is subscribed for; many at once in one go               |
| something is pushed                                 | the entries that it makes untrue are dropped               |
| no answer for ``ANSWER_SECONDS``, a cut, nonsense   | a new connection, after a back-off                         |
| the server asks us to go                            | a new connection, after the time that it says              |
| the server knows no sessions                        | none is asked for of it for ``REFUSED_SECONDS``            |
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from kdns.errors import WireError
from kdns.proto import dso
from kdns.proto.query import HEADER_OCTETS, NOERROR, NOTIMP, RCODE_TEXT
from kdns.upstream.servers import Protocol, Server
from kdns.upstream.stream import CONNECT_SECONDS, open_stream, StreamQuestions
from nodelocal.subscriptions import Subscriptions

log = logging.getLogger(__name__)

READ_OCTETS: Final = 65_536
GATHER_SECONDS: Final = 0.001
"""Entries that come this close together are subscribed for in one go."""
BATCH: Final = 500
"""Subscriptions asked for between two answers."""

KEEPALIVE_SECONDS: Final = 15.0
ANSWER_SECONDS: Final = 5.0
SWEEP_SECONDS: Final = 30.0
FIRST_BACKOFF: Final = 0.1
MAX_BACKOFF: Final = 10.0
REFUSED_SECONDS: Final = 3600.0


class FeedClient:
    """Keeps the connection; *dropped* is called after entries went."""

    def __init__(self, subscriptions: Subscriptions, questions: StreamQuestions, dropped: Callable[[], None]) -> None:
        self.subscriptions = subscriptions
        self._questions = questions
        self._dropped = dropped
        self._server: Server | None = None
        self._refused: dict[Server, float] = {}
        self._offered = trio.Event()
        self._wake = trio.Event()
        self._heard_at = 0.0
        self._asked_at = 0.0
        self.is_connected = False
        self.lost = 0
        """Connections that ended."""

    @property
    def server(self) -> Server | None:
        """Whom the connection is to, or will be."""
        return self._server

    def offered(self, server: Server) -> None:
        """Take notice that *server* says that it pushes changes."""
        if self._server is not None:
            return
        if server.protocol is Protocol.UDP:
            server = msgspec.structs.replace(server, protocol=Protocol.TCP)
        if self._refused.get(server, 0.0) <= trio.current_time():
            self._server = server
            self._offered.set()

    def wake(self) -> None:
        """Take notice that there is something to subscribe to."""
        if self.is_connected and not self._wake.is_set():
            self._wake.set()

    async def run(self) -> None:
        """Keep it until cancelled."""
        backoff = FIRST_BACKOFF
        while True:
            await self._offered.wait()
            server = self._server
            assert server is not None  # whoever sets the event sets it
            began = trio.current_time()
            wait = 0.0
            try:
                await self._connect(server)
            except* _Ended as group:
                ended = next(exc for exc in group.exceptions if isinstance(exc, _Ended))
                wait = ended.seconds
                log.info("push from %s: %s", server, ended)
            except* (OSError, ValueError, trio.BrokenResourceError, trio.ClosedResourceError) as some:
                log.info("push from %s: %s", server, _leaf(some))
            finally:
                self.lost += self.is_connected
                self.is_connected = False
                self.subscriptions.lost()
            # The one that answers now offers it again: this one may be gone for good.
            self._server = None
            self._offered = trio.Event()
            if wait >= REFUSED_SECONDS:
                self._refused[server] = trio.current_time() + wait
            else:
                backoff = FIRST_BACKOFF if trio.current_time() - began > MAX_BACKOFF else min(backoff * 2, MAX_BACKOFF)
                await trio.sleep(max(wait, backoff * random.uniform(0.5, 1.0)))
                if self._server is None:
                    self.offered(server)

    async def _connect(self, server: Server) -> None:
        with trio.move_on_after(CONNECT_SECONDS) as scope:
            stream = await open_stream(server, self._questions)
        if scope.cancelled_caught:
            raise _Ended(f"no connection within {CONNECT_SECONDS:g} s")
        try:
            self._heard_at = self._asked_at = trio.current_time()
            self.subscriptions.connected()
            self.is_connected = True
            self._wake = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream)
                nursery.start_soon(self._watch)
                await self._read(stream)
        finally:
            with trio.move_on_after(0.1, shield=True):
                await trio.aclose_forcefully(stream)

    async def _write(self, stream: trio.abc.Stream) -> None:
        subscriptions = self.subscriptions
        self._asked_at = trio.current_time()
        await self._send(stream, [subscriptions.barrier()])
        swept_at = trio.current_time()
        while True:
            with trio.move_on_after(KEEPALIVE_SECONDS) as scope:
                if not subscriptions.has_requests:
                    await self._wake.wait()
                await trio.sleep(GATHER_SECONDS)
            self._wake = trio.Event()
            if trio.current_time() - swept_at >= SWEEP_SECONDS:
                swept_at = trio.current_time()
                subscriptions.sweep()
            if scope.cancelled_caught or subscriptions.has_requests:
                if not subscriptions.is_waiting:
                    self._asked_at = trio.current_time()
                await self._send(stream, subscriptions.requests(BATCH))

    async def _send(self, stream: trio.abc.Stream, wires: list[bytes]) -> None:
        await stream.send_all(b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires))

    async def _watch(self) -> None:
        while True:
            await trio.sleep(ANSWER_SECONDS / 5)
            self.subscriptions.retry()
            if self.subscriptions.has_requests:
                self._wake.set()
            waited_since = max(self._heard_at, self._asked_at)  # since the oldest question without an answer
            if self.subscriptions.is_waiting and trio.current_time() - waited_since > ANSWER_SECONDS:
                raise _Ended(f"no answer for {ANSWER_SECONDS:g} s")

    async def _read(self, stream: trio.abc.Stream) -> None:
        buffer = bytearray()
        while True:
            chunk = await stream.receive_some(READ_OCTETS)
            if not chunk:
                raise _Ended("closed by the server")
            self._heard_at = trio.current_time()
            buffer += chunk
            before = self.subscriptions.dropped
            at = 0
            try:
                while len(buffer) - at >= 2 and (end := at + 2 + (buffer[at] << 8 | buffer[at + 1])) <= len(buffer):
                    self._take(bytes(buffer[at + 2 : end]))
                    at = end
            except WireError as exc:
                raise _Ended(f"what no server sends ({exc})") from exc
            finally:
                if self.subscriptions.dropped != before:
                    self._dropped()
            del buffer[:at]
            if self.subscriptions.has_requests:
                self._wake.set()

    def _take(self, wire: bytes) -> None:
        if len(wire) < HEADER_OCTETS or not dso.is_dso(wire):
            raise WireError("no DSO message")
        message = dso.read_dso(wire)
        if message.is_response:
            if message.rcode == NOTIMP:
                raise _Ended("it takes no sessions on this kind of connection", REFUSED_SECONDS)
            if message.rcode != NOERROR and self.subscriptions.is_barrier(message.message_id):
                raise _Ended(f"it takes no session now ({RCODE_TEXT.get(message.rcode, message.rcode)})", MAX_BACKOFF)
            if not self.subscriptions.answered(message.message_id, message.rcode):
                raise WireError("an answer to nothing")
            return
        if message.message_id:
            raise WireError("a request")  # servers ask nothing of us
        kind, data = message.tlvs[0]
        if kind == dso.PUSH:
            self.subscriptions.told(dso.read_push(wire))
        elif kind == dso.RETRY_DELAY and len(data) == 4:
            raise _Ended("asked to go", int.from_bytes(data, "big") / 1000)


class _Ended(Exception):
    """The connection is over; ``seconds``: not to be tried again for so long."""

    def __init__(self, text: str, seconds: float = 0.0) -> None:
        super().__init__(text)
        self.seconds = seconds


def _leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    exc: BaseException = group
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc
