"""Queries over UDP that wait because more come than can be answered: a queue for each client, answered in turns.

The system's own queue knows no clients: one that asks for more than there is time for fills it, and everybody's
queries wait behind, or are lost. So where that queue grows long, it is emptied into this one. What the table of
finished answers has is answered on the spot, which costs little more than to leave it; the rest waits here, where a
client that asks much displaces its own queries alone.
"""

from __future__ import annotations

from collections import Counter, deque, OrderedDict
from typing import Final, Generic, TypeVar

ROOM: Final = 4096
"""Queries that wait, of all clients."""
ROOM_A_CLIENT: Final = 512
"""Of one client: some ten milliseconds' work."""

MAX_ON_THEIR_WAY: Final = 128
"""Answers of one client that are on their way through upstreams: with more, an upstream that is slow keeps others
waiting as well."""

T = TypeVar("T")


class Backlog(Generic[T]):
    """What waits, by client. ``dropped`` counts what was not let in, or had to go for others."""

    def __init__(self, room: int = ROOM, room_a_client: int = ROOM_A_CLIENT) -> None:
        self._room = room
        self._room_a_client = room_a_client
        self._queues: OrderedDict[bytes, deque[T]] = OrderedDict()
        self._count = 0
        self._on_their_way: Counter[bytes] = Counter()
        self.max_on_their_way = MAX_ON_THEIR_WAY
        self.is_stuck = False
        """Whether all that waits is of clients with as much on its way as they may have."""
        self.dropped = 0

    def __len__(self) -> int:
        return self._count

    def has_room(self, client: bytes) -> bool:
        """Tell whether a query of *client* may be put; one that may not is counted as dropped.

        Where there is no room at all, the oldest query of whoever has most waiting makes some, unless that is *client*.
        """
        queue = self._queues.get(client)
        mine = len(queue) if queue is not None else 0
        if mine >= self._room_a_client:
            self.dropped += 1
            return False
        if self._count >= self._room:
            self.dropped += 1
            longest = max(self._queues.values(), key=len)
            if mine + 1 >= len(longest):
                return False
            longest.popleft()
            self._count -= 1
        return True

    def put(self, client: bytes, query: T) -> None:
        """Have a query wait that there is room for."""
        queue = self._queues.get(client)
        if queue is None:
            queue = self._queues[client] = deque()
        queue.append(query)
        self._count += 1

    def take(self) -> tuple[bytes, T] | None:
        """Return the oldest query of the client whose turn it is, and the client."""
        for _ in range(len(self._queues)):
            client, queue = self._queues.popitem(last=False)
            if not queue:  # all of it made room for others
                continue
            if self._on_their_way and self._on_their_way[client] >= self.max_on_their_way:
                self._queues[client] = queue
                continue
            query = queue.popleft()
            self._count -= 1
            if queue:
                self._queues[client] = queue
            self.is_stuck = False
            return client, query
        self.is_stuck = bool(self._count)
        return None

    def begins(self, client: bytes) -> None:
        """Note that an answer of *client* is on its way."""
        self._on_their_way[client] += 1

    def ends(self, client: bytes) -> None:
        """Note that it is there, or will never be."""
        self._on_their_way[client] -= 1
        if self._on_their_way[client] <= 0:
            del self._on_their_way[client]
