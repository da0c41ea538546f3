"""What a listener is handed: who decides what to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from kdns.proto.table import Entry

Deliver = Callable[[bytes | None], None]
"""Takes the tail of a response that took time; to be called once. None means to stay silent after all."""

Later = Callable[[Deliver], None]
"""A response that takes time: call it, once, with what takes the response. It may be there before the call returns.
No task waits for it: a task for each question on its way costs more than the question."""


Several = Iterator[bytes]
"""The tails of several responses to one message, made one after the other as the client takes them; over TCP alone."""


Client = Callable[[], tuple[str, int]]
"""Tells the address and port that a message came from; to be called, if at all, before the handler returns."""


class Session(Protocol):
    """What a connection becomes whose client asks for a session (RFC 8490)."""

    @property
    def deadline(self) -> float:
        """When the connection is cut unless something is heard before, by trio's clock."""

    def receive(self, wire: bytes, now: float) -> None:
        """Take a message of the session."""

    def heard(self, now: float) -> None:
        """Take notice of another message of the client's."""

    def retire(self, seconds: float) -> None:
        """Ask the client to go, and to come back after some time."""

    def end(self) -> None:
        """Take notice that the connection is gone."""


OpenSession = Callable[[Callable[[bytes], None], Callable[[], None]], Session]
"""Makes a session, given what sends a message to the client and what cuts the connection."""


class Handler(Protocol):
    """Decides about messages of one transport and address family. A *tail* is a response without its ID."""

    find: Callable[[bytes], Entry | None]
    """The hot path: the finished answer to a query's octets behind the ID, if there is one."""

    def respond(self, wire: bytes, client: Client) -> bytes | Later | Several | None:
        """Return the tail for a message that ``find`` lacks (*client* is who sent it); never raises."""

    def count(self, hits: Sequence[Entry], seconds: float) -> None:
        """Note what ``find`` answered in one batch, and how long the batch took."""
