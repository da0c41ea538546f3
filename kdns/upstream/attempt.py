"""One question on its way to one server: what the sockets know of whoever waits for the reply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, TYPE_CHECKING

if TYPE_CHECKING:
    from kdns.upstream.servers import Server
    from kdns.upstream.stream import Connection
    from kdns.upstream.udp import Port


class Attempt(ABC):
    """A try to have a server answer; ``section`` is its question section in wire form, as it was sent.

    The rest belongs to the sockets: the ID it was sent with, the port or the connection that it waits on, and
    how often it was moved to another connection.
    """

    __slots__ = ("connection", "message_id", "moves", "port", "section")

    section: bytes

    def __init__(self) -> None:
        self.message_id = b""
        self.port: Port | None = None
        self.connection: Connection | None = None
        self.moves = 0

    @abstractmethod
    def received(self, wire: bytes) -> bool:
        """Take a matching reply; True when nothing more is waited for where it came from.

        False over UDP: it could not be read, and the true one may still come; or the socket was given up meanwhile.
        """

    @abstractmethod
    def lost(self, reason: str) -> None:
        """Note that no reply comes: the system or the connection says so."""


class Carrier(Protocol):
    """What carries attempts to servers and replies back."""

    def ask(self, attempt: Attempt, server: Server, wire: bytes) -> bool:
        """Send *wire*, a message without its ID; *attempt* is given what comes back, or told that it is lost.

        False when it cannot even be tried; nothing is called then.
        """

    def close(self, attempt: Attempt) -> None:
        """Give up on a question."""


class UpstreamTap(Protocol):
    """Somebody who is told what upstreams are asked and reply."""

    def asked(self, server: Server, wire: bytes) -> None:
        """Note a question."""

    def replied(self, server: Server, wire: bytes, seconds: float) -> None:
        """Note a reply, which took that long."""
