"""Room for entries: bounded in octets; what nobody asked for goes first (the second-chance algorithm).

Entries stand in a queue in the order in which they came. Where room is needed the first of them goes, unless it was
asked for since it last stood there: then it goes to the end of the queue, and has to be asked for again. A flood of
names that are asked for once so passes by what is asked for often. An entry costs one place in a dictionary and one in
a queue; an order by use (OrderedDict) costs 184 octets more, and more time for each entry that comes and goes.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from nodelocal.entry import Entry

MAX_CHANCES: Final = 32
"""Entries passed over for one that comes: after so many one goes, asked for or not, for everybody waits meanwhile."""

SPARE_PLACES: Final = 1024
"""Places in the queue whose entries are gone are kept until there are so many, and more of them than of the others."""


class Room:
    """Holds entries, denials or answers, of *index*, which has all entries by key."""

    def __init__(self, max_octets: int, index: dict[bytes, Entry], *, of_denials: bool) -> None:
        self._max_octets = max_octets
        self._index = index
        self._of_denials = of_denials
        self._queue: deque[bytes] = deque()
        self.count = 0
        self.octets = 0
        self.evictions = 0

    def store(self, key: bytes, entry: Entry) -> None:
        """Keep *entry* under a key that there is none for; one larger than all the room is not kept."""
        octets = entry.octets
        if octets > self._max_octets:
            return
        self.octets += octets
        if self.octets > self._max_octets:
            self._make_room()
        self.count += 1
        self._index[key] = entry
        queue = self._queue
        queue.append(key)
        if len(queue) > 2 * self.count + SPARE_PLACES:
            self._queue = deque(key for key in dict.fromkeys(queue) if self._holds(key))

    def replace(self, key: bytes, known: Entry, entry: Entry) -> None:
        """Keep *entry* in the place of *known*; one larger than all the room is not kept, nor *known*."""
        if entry.octets > self._max_octets:
            self.forget(key)
            return
        entry.is_used = True  # somebody asked, or it would not have been renewed
        self._index[key] = entry
        self.octets += entry.octets - known.octets
        if self.octets > self._max_octets:
            self._make_room()

    def forget(self, key: bytes) -> None:
        """Drop the entry under *key*, which there is."""
        self.octets -= self._index.pop(key).octets
        self.count -= 1

    def _make_room(self) -> None:
        index, queue = self._index, self._queue
        chances = MAX_CHANCES
        while self.octets > self._max_octets:
            key = queue.popleft()
            entry = index.get(key)
            if entry is None or entry.is_denial is not self._of_denials:
                continue  # its entry went otherwise
            if entry.is_used and chances:
                chances -= 1
                entry.is_used = False
                queue.append(key)
                continue
            del index[key]
            self.octets -= entry.octets
            self.count -= 1
            self.evictions += 1

    def _holds(self, key: bytes) -> bool:
        entry = self._index.get(key)
        return entry is not None and entry.is_denial is self._of_denials
