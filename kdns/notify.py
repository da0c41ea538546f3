"""NOTIFY: secondaries told that zones have changed, until they answer (RFC 1996)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

import trio

from kdns.net.addresses import Listen
from kdns.proto.message import make_notify
from kdns.proto.query import RCODE_TEXT
from zones.names import Name
from zones.records import RRset

log = logging.getLogger(__name__)

FIRST_SECONDS: Final = 1.0
"""How long answers may take at first; each further time twice as long, up to ``MAX_SECONDS``."""
MAX_SECONDS: Final = 60.0
SILENT_AFTER: Final = 5
"""Times told without an answer before it is a trouble."""


class Notifier:
    """Tells *secondaries* of changes. *soa* gives the SOA of a zone as of now."""

    def __init__(self, secondaries: Sequence[Listen], soa: Callable[[Name], RRset]) -> None:
        self._secondaries = [_Secondary(secondary, soa) for secondary in secondaries]

    @property
    def sent(self) -> int:
        """How many messages were sent."""
        return sum(secondary.sent for secondary in self._secondaries)

    def changed(self, origins: Sequence[Name]) -> None:
        """Tell every secondary of these zones."""
        for secondary in self._secondaries:
            secondary.changed(origins)

    def troubles(self) -> list[str]:
        """List the secondaries that do not answer."""
        return [trouble for secondary in self._secondaries for trouble in secondary.troubles()]

    async def run(self) -> None:
        """Tell until cancelled."""
        async with trio.open_nursery() as nursery:
            for secondary in self._secondaries:
                nursery.start_soon(secondary.run)


class _Secondary:
    """One secondary: what it has not been told of, or has not said that it heard."""

    def __init__(self, address: Listen, soa: Callable[[Name], RRset]) -> None:
        self._address = address
        self._soa = soa
        self._open: dict[Name, bytes] = {}
        """The zones to tell of, with the ID of the message that was sent last, empty before the first."""
        self._news = trio.Event()
        self.sent = 0
        self.trouble = ""
        self._refused: dict[Name, int] = {}
        """The zones that it answered with an error for."""

    def changed(self, origins: Sequence[Name]) -> None:
        """Tell of these zones, at once, and of the others with them."""
        self._open.update(dict.fromkeys(origins, b""))
        self._news.set()

    def troubles(self) -> list[str]:
        """List what is wrong with it."""
        refused = [
            f"--notify {self._address}: {RCODE_TEXT.get(rcode, rcode)} to NOTIFY for {zone}"
            for zone, rcode in self._refused.items()
        ]
        return [self.trouble, *refused] if self.trouble else refused

    def _note(self, origin: Name, rcode: int) -> None:
        if not rcode:
            self._refused.pop(origin, None)
        elif self._refused.get(origin) != rcode:
            self._refused[origin] = rcode
            text = RCODE_TEXT.get(rcode, rcode)
            log.warning("--notify %s: %s to NOTIFY for %s", self._address, text, origin)

    async def run(self) -> None:
        """Tell until cancelled."""
        rounds = 0
        while True:
            if self._news.is_set():
                self._news = trio.Event()
                rounds = 0
            elif not self._open:
                await self._news.wait()
                continue
            seconds = min(FIRST_SECONDS * 2**rounds, MAX_SECONDS)
            await self._tell(trio.current_time() + seconds)
            rounds += 1
            if not self._open and self.trouble:
                log.info("--notify %s: answers again", self._address)
                self.trouble = ""
            elif self._open and rounds == SILENT_AFTER and not self.trouble:
                zones = ", ".join(map(str, self._open))
                self.trouble = f"--notify {self._address}: no answer to NOTIFY for {zones}"
                log.warning("%s", self.trouble)

    async def _tell(self, deadline: float) -> None:
        """Tell of all zones once, and wait for answers until *deadline*, or until there is something new to tell."""
        with trio.move_on_at(deadline):
            try:
                await self._tell_and_hear()
            except* OSError:  # nobody listens there now, or there is no socket to be had
                await self._news.wait()

    async def _tell_and_hear(self) -> None:
        address = self._address
        family = socket.AF_INET6 if ":" in address.address else socket.AF_INET
        with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
            await sock.connect((address.address, address.port))
            for origin in list(self._open):
                self._open[origin] = os.urandom(2)
                self.sent += 1
                await sock.send(make_notify(self._open[origin], self._soa(origin)))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, sock, nursery.cancel_scope)
                await self._news.wait()
                nursery.cancel_scope.cancel()

    async def _hear(self, sock: trio.socket.SocketType, scope: trio.CancelScope) -> None:
        while any(self._open.values()):
            reply = await sock.recv(4096)
            if len(reply) < 12 or reply[2] & 0xF8 != 0xA0:
                continue
            for origin, message_id in list(self._open.items()):
                if message_id and message_id == reply[:2]:
                    del self._open[origin]
                    self._note(origin, reply[3] & 15)
        scope.cancel()
