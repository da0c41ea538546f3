"""Which connections are open, whose, and which of them is closed for a newcomer."""

from __future__ import annotations

import resource
from collections import Counter, OrderedDict
from typing import Final, Protocol

import trio

from kdns.net.handler import Session
from kdns.net.hitters import Sampler
from kdns.net.turns import Turns

MAX_CONNECTIONS: Final = 8192
MAX_CONNECTIONS_A_CLIENT: Final = 256
MAX_SESSIONS: Final = 2048
MAX_SESSIONS_A_CLIENT: Final = 64


class Connection(Protocol):
    """What is known of a connection here."""

    client: str
    scope: trio.CancelScope


class Connections:
    """The open connections of a program, by client, the quietest first; decides whom to close for a newcomer."""

    def __init__(
        self,
        *,
        max_total: int = MAX_CONNECTIONS,
        max_a_client: int = MAX_CONNECTIONS_A_CLIENT,
        reserve: int = 128,
        sampler: Sampler | None = None,
    ) -> None:
        self._sampler = Sampler() if sampler is None else sampler
        self._stride = 1
        self.until_sample = 1
        """Messages until ``sample`` is to be called."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = soft - reserve if soft != resource.RLIM_INFINITY else max_total
        self._max_total = max(1, min(max_total, room))
        self._max_a_client = max_a_client
        self._all: OrderedDict[Connection, None] = OrderedDict()
        self._by_client: dict[str, OrderedDict[Connection, None]] = {}
        self.turns = Turns()
        self.closed_for_others = 0
        self.unsent = 0
        """Octets of replies that clients have not read yet."""
        self.pending = 0
        """Messages whose answers are on their way through upstreams."""
        self.sessions: dict[Connection, Session] = {}
        self._sessions_of: Counter[str] = Counter()
        self.is_stopping = False
        self.cut = 0
        """Sessions cut because their clients broke the rules or did not read."""

    def __len__(self) -> int:
        return len(self._all) + len(self.sessions)

    def sample(self, wire: bytes, client: str) -> None:
        """Have a message stand for all since the last sample."""
        queries = self._stride - self.until_sample
        self._stride = self.until_sample = self._sampler.take(wire, client, queries, self._stride)

    def keep(self, connection: Connection, session: Session) -> bool:
        """Take a connection that became a session out of the ranks.

        False where there are too many of them, in all or of one client, or the program stops.
        """
        of_client = self._sessions_of[connection.client]
        if (
            self.is_stopping
            or len(self.sessions) >= min(MAX_SESSIONS, self._max_total // 2)
            or of_client >= MAX_SESSIONS_A_CLIENT
        ):
            return False
        self.remove(connection)
        self.sessions[connection] = session
        self._sessions_of[connection.client] += 1
        return True

    def retire_sessions(self, seconds: float) -> None:
        """Ask the clients of all sessions to go, and take no new ones."""
        self.is_stopping = True
        for session in list(self.sessions.values()):
            session.retire(seconds)

    def add(self, connection: Connection) -> None:
        """Take in a newcomer; the quietest of its client, or of all, goes where a limit is reached."""
        of_client = self._by_client.setdefault(connection.client, OrderedDict())
        if len(of_client) >= self._max_a_client:
            self._close_first(of_client)
        if len(self) >= self._max_total and self._all:
            self._close_first(self._all)
        self._all[connection] = None
        self._by_client.setdefault(connection.client, OrderedDict())[connection] = None

    def heard(self, connection: Connection) -> None:
        """Note that a whole message came."""
        if connection in self._all:
            self._all.move_to_end(connection)
            self._by_client[connection.client].move_to_end(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        if self.sessions.pop(connection, None) is not None:
            self._sessions_of[connection.client] -= 1
            if not self._sessions_of[connection.client]:
                del self._sessions_of[connection.client]
        if connection not in self._all:
            return
        del self._all[connection]
        of_client = self._by_client[connection.client]
        del of_client[connection]
        if not of_client:
            del self._by_client[connection.client]

    def _close_first(self, some: OrderedDict[Connection, None]) -> None:
        quietest = next(iter(some))
        self.remove(quietest)
        self.closed_for_others += 1
        quietest.scope.cancel()
