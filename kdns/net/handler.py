"""What a listener is handed: who decides what to answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from kdns.proto.table import Entry

Later = Callable[[], Awaitable[bytes | None]]
"""A response that takes time: call it in a task; None means to stay silent after all."""


Client = Callable[[], tuple[str, int]]
"""Tells the address and port that a message came from; to be called, if at all, before the handler returns."""


class Handler(Protocol):
    """Decides about messages of one transport and address family. A *tail* is a response without its ID."""

    find: Callable[[bytes], Entry | None]
    """The hot path: the finished answer to a query's octets behind the ID, if there is one."""

    def respond(self, wire: bytes, client: Client) -> bytes | Later | None:
        """Return the tail for a message that ``find`` lacks (*client* is who sent it); never raises."""

    def count(self, hits: Sequence[Entry], seconds: float) -> None:
        """Note what ``find`` answered in one batch, and how long the batch took."""
