"""Keep the lease: ask ourselves at each of our addresses, as a client does; the answer itself renews it in the kernel.

The rules renew the lease when the answer to a question from ``PROBE_PORT`` leaves (``nodelocal.network.ruleset``). So
it runs as long as the loop that serves does, and nobody has to notice when that hangs. The question goes over UDP, and
only where one over TCP was answered within ``TCP_SECONDS``.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

import trio

from kdns.proto.message import make_question
from nodelocal.network.plan import DNS_PORT, PROBE_PORT
from zones.names import Name

log = logging.getLogger(__name__)

PROBE_SECONDS: Final = 1.0
TCP_SECONDS: Final = 10.0
"""TCP is asked each second, too, but one connection in ten that is late in a busy second ends no lease."""
TCP_WAIT_SECONDS: Final = 0.9

PROBE_NAME: Final = Name.from_text("alive.nodelocal")
CHAOS: Final = 3
"""The class of questions about the server itself (RFC 4892): no answer of an upstream can stand for it."""
QUESTION: Final = make_question(b"\0\0", PROBE_NAME, 16, edns=False)[2:-2] + bytes((0, CHAOS))


class Lease:
    """Renews the lease of each of *addresses* until cancelled, or until ``stop``."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._scope = trio.CancelScope()
        self.renewals = 0
        """Questions over UDP that went out."""

    def stop(self) -> None:
        """Let it run out: soon the cluster's DNS is asked."""
        self._scope.cancel()

    async def run(self) -> None:
        """Renew until stopped or cancelled."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                for address in self._addresses:
                    nursery.start_soon(self._renew, address)

    async def _renew(self, address: str) -> NoReturn:
        answered_at = float("-inf")
        at = trio.current_time()
        sock: socket.socket | None = None
        while True:
            with trio.move_on_after(TCP_WAIT_SECONDS), suppress(OSError):
                await _ask_over_tcp(address)
                answered_at = trio.current_time()
            if trio.current_time() - answered_at < TCP_SECONDS:
                try:
                    sock = sock or _asking(address)
                    _drain(sock)
                    sock.send(b"\0\1" + QUESTION)
                    self.renewals += 1
                except OSError as exc:
                    log.debug("the probe of %s: %s", address, exc)
            at = max(at + PROBE_SECONDS, trio.current_time())
            await trio.sleep_until(at)


def _asking(address: str) -> socket.socket:
    sock = _socket(address, socket.SOCK_DGRAM)
    sock.connect((address, DNS_PORT))
    return sock


def _drain(sock: socket.socket) -> None:
    """Read what has come: that an answer left is enough, so nobody looks at it. An error is told here, too."""
    with suppress(BlockingIOError):
        while True:
            sock.recv(512)


async def _ask_over_tcp(address: str) -> None:
    """Ask over a connection of its own, and wait for the answer. Raises OSError."""
    with _socket(address, socket.SOCK_STREAM) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # so the port is free again
        sock = trio.socket.from_stdlib_socket(plain)
        await sock.connect((address, DNS_PORT))
        wire = b"\0\1" + QUESTION
        await sock.send(len(wire).to_bytes(2, "big") + wire)
        if not await sock.recv(512):
            raise OSError("closed without an answer")


def _socket(address: str, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # at a hand-over there are two of us
        sock.bind((address, PROBE_PORT))
    except OSError:
        sock.close()
        raise
    return sock
