"""Sends what is asked and answered to a collector, as dnstap (``kdns.proto.dnstap``): by a Unix socket or over TCP.

The collector must never hold up an answer: what it does not take in time waits in a buffer of fixed size, and what has
no room there is counted and forgotten.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from kdns.net.handler import Client, Deliver, Handler, Later, Several
from kdns.proto.dnstap import (
    CONTENT_TYPE,
    Control,
    control_frame,
    data_frame,
    head_of,
    MAX_CONTROL_OCTETS,
    payload,
    peer_of,
    read_control,
    Socket,
    Sort,
)
from kdns.proto.query import Transport
from kdns.proto.table import Entry
from kdns.upstream.servers import Protocol, Server

log = logging.getLogger(__name__)

MAX_WAITING_OCTETS: Final = 8 * 2**20
GATHER_SECONDS: Final = 0.05
"""Messages are sent together, and so a little later."""
HANDSHAKE_SECONDS: Final = 5.0
FIRST_WAIT_SECONDS: Final = 0.5
MAX_WAIT_SECONDS: Final = 15.0
FINISH_SECONDS: Final = 1.0
STUCK_SECONDS: Final = 10.0
"""A collector that takes nothing for this long is connected to anew."""

_GONE: Final = (OSError, ValueError, EOFError, trio.BrokenResourceError, trio.ClosedResourceError)

_SOCKETS: Final = {Protocol.UDP: Socket.UDP, Protocol.TCP: Socket.TCP, Protocol.TLS: Socket.DOT}


class Collector(msgspec.Struct, frozen=True):
    """Where dnstap goes: a Unix socket's ``path``, or an address and port."""

    path: Path | None = None
    address: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"tcp://[{self.address}]:{self.port}" if ":" in self.address else f"tcp://{self.address}:{self.port}"


class Tap:
    """Messages on their way to *collector*; *program* and *version* are what they say they come from."""

    def __init__(
        self, collector: Collector, program: str, version: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.collector = collector
        self.sent = 0
        """Frames that were written."""
        self.dropped = 0
        """Frames for which there was no room."""
        self.trouble = ""
        self._head = head_of(socket.gethostname(), f"{program} {version}")
        self._clock = clock
        self._waiting = bytearray()
        self._is_cut = False
        """Whether sending has ended in the middle of a frame."""
        self._frames = 0
        self._news = trio.Event()

    # -- what happens -----------------------------------------------------------------------------------------------

    def queried(self, wire: bytes, client: bytes, over: Socket) -> float:
        """Note the query of a client (``proto.dnstap.peer_of``); return when it came."""
        now = self._clock()
        self._put(payload(self._head, Sort.CLIENT_QUERY, over, client, query_at=now, query=wire))
        return now

    def answered(self, query_at: float, reply: bytes, client: bytes, over: Socket) -> None:
        """Note the response to the query that came then."""
        now = self._clock()
        head, sort = self._head, Sort.CLIENT_RESPONSE
        self._put(payload(head, sort, over, client, query_at=query_at, response_at=now, response=reply))

    def asked(self, server: Server, wire: bytes) -> None:
        """Note a question to an upstream."""
        peer, over = peer_of(server.address, server.port, is_upstream=True), _SOCKETS[server.protocol]
        self._put(payload(self._head, Sort.FORWARDER_QUERY, over, peer, query_at=self._clock(), query=wire))

    def replied(self, server: Server, wire: bytes, seconds: float) -> None:
        """Note an upstream's reply, which took that long."""
        now = self._clock()
        peer, over = peer_of(server.address, server.port, is_upstream=True), _SOCKETS[server.protocol]
        head, sort = self._head, Sort.FORWARDER_RESPONSE
        self._put(payload(head, sort, over, peer, query_at=now - seconds, response_at=now, response=wire))

    def _put(self, octets: bytes) -> None:
        if len(self._waiting) + len(octets) > MAX_WAITING_OCTETS:
            self.dropped += 1
            return
        self._waiting += data_frame(octets)
        self._frames += 1
        self._news.set()

    # -- the collector ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until cancelled; connect again and again while there is no collector."""
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                began = trio.current_time()
                await self._serve()
            except (OSError, ValueError, EOFError, trio.BrokenResourceError, trio.TooSlowError) as exc:
                why = str(exc) or type(exc).__name__
                if trio.current_time() - began > MAX_WAIT_SECONDS:
                    wait = FIRST_WAIT_SECONDS
                if not self.trouble:
                    log.warning("dnstap: %s: %s; trying again", self.collector, why)
                self.trouble = f"dnstap: {self.collector}: {why}"
            await trio.sleep(wait)
            wait = min(2 * wait, MAX_WAIT_SECONDS)

    async def _serve(self) -> None:
        with trio.fail_after(HANDSHAKE_SECONDS):
            stream = await self._connect()
        async with stream:
            with trio.fail_after(HANDSHAKE_SECONDS):
                await stream.send_all(control_frame(Control.READY))
                kind, contents = await _receive_control(stream)
                if kind is not Control.ACCEPT or (contents and CONTENT_TYPE not in contents):
                    raise ValueError(f"{kind.name} in place of ACCEPT for {CONTENT_TYPE.decode()}")
                await stream.send_all(control_frame(Control.START))
            self._is_cut = False
            if self.trouble:
                log.info("dnstap: %s takes messages again", self.collector)
            self.trouble = ""
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._notice_end, stream)
                    await self._send(stream)
            except* trio.TooSlowError:
                raise OSError(f"takes nothing for {STUCK_SECONDS:g} s") from None
            except* (OSError, EOFError, trio.BrokenResourceError) as group:
                raise OSError(str(group.exceptions[0]) or "gone") from None
            finally:
                with trio.move_on_after(FINISH_SECONDS, shield=True), suppress(*_GONE):
                    if not self._is_cut:  # else what follows would be read as the rest of a frame
                        await self._flush(stream)
                        await stream.send_all(control_frame(Control.STOP))
                        await _receive_control(stream)

    async def _connect(self) -> trio.SocketStream:
        if self.collector.path is not None:
            return await trio.open_unix_socket(self.collector.path)
        return await trio.open_tcp_stream(self.collector.address, self.collector.port)

    async def _send(self, stream: trio.SocketStream) -> None:
        while True:
            await self._news.wait()
            await trio.sleep(GATHER_SECONDS)
            await self._flush(stream)

    async def _flush(self, stream: trio.SocketStream) -> None:
        self._news = trio.Event()
        octets, self._waiting = self._waiting, bytearray()
        frames, self._frames = self._frames, 0
        if octets:
            self._is_cut = True
            try:
                with trio.fail_after(STUCK_SECONDS):
                    await stream.send_all(octets)
            except BaseException:
                self.dropped += frames
                raise
            self._is_cut = False
            self.sent += frames

    async def _notice_end(self, stream: trio.SocketStream) -> None:
        """A collector says nothing while all is well: what it says, or that it ends, is the end."""
        await stream.receive_some(1)
        raise EOFError("the collector has ended the stream")


async def _receive_control(stream: trio.SocketStream) -> tuple[Control, list[bytes]]:
    head = await _exactly(stream, 8)
    size = int.from_bytes(head[4:], "big")
    if head[:4] != bytes(4) or not 4 <= size <= MAX_CONTROL_OCTETS:
        raise ValueError("what a reader of frame streams does not say")
    return read_control(await _exactly(stream, size))


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        if not (some := await stream.receive_some(count - len(octets))):
            raise EOFError("the collector has ended the stream")
        octets += some
    return octets


class WithTap:
    """A handler in front of another (``net.handler.Handler``): *tap* is told of what comes and goes."""

    def __init__(self, handler: Handler, tap: Tap, transport: Transport) -> None:
        self._handler = handler
        self._tap = tap
        self._over = Socket.UDP if transport is Transport.UDP else Socket.TCP
        self.find: Callable[[bytes], Entry | None] = _nothing
        self.count: Callable[[Sequence[Entry], float], None] = handler.count

    def respond(self, wire: bytes, client: Client) -> bytes | Later | Several | None:
        """Have a query answered, and tell of both."""
        tap, over = self._tap, self._over
        who = peer_of(*client())
        query_at = tap.queried(wire, who, over)
        entry = self._handler.find(wire[2:])
        if entry is not None:
            answer: bytes | Later | Several | None = entry.next()
            self._handler.count([entry], 0.0)
        else:
            answer = self._handler.respond(wire, client)

        def told(tail: bytes) -> bytes:
            tap.answered(query_at, wire[:2] + tail, who, over)
            return tail

        if isinstance(answer, bytes):
            return told(answer)
        if answer is None:
            return None
        if isinstance(answer, Iterator):
            return map(told, answer)
        later = answer

        def resolve(deliver: Deliver) -> None:
            later(lambda tail: deliver(None if tail is None else told(tail)))

        return resolve


def _nothing(_: bytes) -> None:
    return None
