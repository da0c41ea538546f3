"""The answer table: the same octets in, but for the ID, get the same octets out, but for the ID.

The key is a query from its third octet on: flags, question as spelled, EDNS. So nothing about case, size or flags
can be got wrong on a hit, and nothing is parsed. There is one table for each transport.

An answer earns its place: the first time it is asked for only a hash of the question is noted, the second time it
is stored: in the *kept* part while that has room, else on *probation*, from where a third asking moves it to the
kept part. A flood of names seen once, or twice, does not push out what is asked for often. Both parts and the notes
are bounded; when one is full its oldest entry goes (of the kept part: back to probation, so that one more question
brings it back).
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle

ENTRY_OCTETS = 510
"""What an entry costs beside its key and its responses: measured over 100,000 entries with one owner name each."""

NOTES = 1 << 19
"""Places for notes of a first asking, two octets each. A question's hash picks two places (with one, two questions that
share it would wipe out each other's note for ever), so a flood wears notes away slowly and holds no memory. One note
in 65,535 is another question's, which then is stored one asking early. (With notes of one octet ten million names
asked once left 27 MB of answers that nobody asked for again.)"""

MAX_SORTS = 4096
"""Sorts of answers kept to be shared."""


class Sort:
    """What many entries have in common, one object for all of them, so that hits can be counted by it.

    ``request`` and ``response`` are sizes in octets, ``label`` is whatever the maker of the answers counts by.
    """

    __slots__ = ("is_truncated", "label", "request", "response")

    def __init__(self, label: object, request: int, response: int, *, is_truncated: bool) -> None:
        self.label = label
        self.request = request
        self.response = response
        self.is_truncated = is_truncated


class Entry:
    """A finished answer: its ``tail``, or None where it rotates. ``next()`` gives that, or another order each time.

    ``is_used`` is for whoever counts what was sent, and for whoever wants to know.
    """

    __slots__ = ("_orders", "is_used", "key", "octets", "owners", "sort", "tail")

    def __init__(
        self, key: bytes, tails: tuple[bytes, ...], owners: tuple[bytes, ...], sort: Sort, octets: int
    ) -> None:
        self.key = key
        self.owners = owners
        self.sort = sort
        self.octets = octets
        self.is_used = False
        self.say(tails)

    def say(self, tails: tuple[bytes, ...]) -> None:
        """Say *tails* from now on, each in its turn."""
        is_one = len(tails) == 1
        self.tail: bytes | None = tails[0] if is_one else None
        self._orders: Iterator[bytes] | None = None if is_one else cycle(tails)

    def next(self) -> bytes:
        """Return the tail, or the next order of it."""
        if self._orders is None:
            assert self.tail is not None  # one of the two is there
            return self.tail
        return next(self._orders)


class AnswerTable:
    """Finished answers by query octets; forgotten by owner name. *max_octets* bounds the memory of its entries."""

    def __init__(self, *, max_octets: int = 48 * 2**20) -> None:
        # The oldest of a plain dict is found behind the places of all that went before it, one by one.
        self._kept: OrderedDict[bytes, Entry] = OrderedDict()
        self._probation: OrderedDict[bytes, Entry] = OrderedDict()
        self._notes = array("H", bytes(2 * NOTES))
        self._by_owner: dict[bytes, Entry | set[Entry]] = {}  # a set of one costs 200 octets more than the one
        self._sorts: dict[tuple[object, int, int, int], Sort] = {}
        self._max_kept = max_octets - max_octets // 4
        self._max_probation = max_octets // 4
        self._kept_octets = 0
        self._probation_octets = 0
        self.evictions = 0
        self.find: Callable[[bytes], Entry | None] = self._kept.get
        """Return the kept answer to a query's octets; the whole of the hot path."""

    def __len__(self) -> int:
        return len(self._kept) + len(self._probation)

    @property
    def octets(self) -> int:
        """What the entries hold, in octets, by the estimate that bounds them."""
        return self._kept_octets + self._probation_octets

    def find_again(self, key: bytes) -> Entry | None:
        """Look where ``find`` does not: an answer asked for a third time moves to where ``find`` sees it."""
        entry = self._probation.pop(key, None)
        if entry is None:
            return None
        self._probation_octets -= entry.octets
        if entry.octets > self._max_kept // 8:
            self._add_on_probation(entry)  # one huge answer must not displace many
            return entry
        self._kept[key] = entry
        self._kept_octets += entry.octets
        while self._kept_octets > self._max_kept:
            _, oldest = self._kept.popitem(last=False)
            self._kept_octets -= oldest.octets
            self._add_on_probation(oldest)
        return entry

    def wants(self, key: bytes) -> bool:
        """Tell whether an answer to *key*, which ``find`` and ``find_again`` lacked, should be stored now."""
        mark = hash(key)
        notes, note = self._notes, mark >> 40 & 0xFFFF or 1
        one, other = mark & (NOTES - 1), mark >> 19 & (NOTES - 1)
        if notes[one] == note or notes[other] == note:
            return True
        notes[one] = notes[other] = note
        return False

    def store(
        self,
        key: bytes,
        tails: tuple[bytes, ...],
        owners: Iterable[bytes],
        label: object = None,
        *,
        more_octets: int = 0,
    ) -> Entry | None:
        """Store an answer; it is forgotten when one of *owners* changes (their ``key``).

        *more_octets* is what it costs elsewhere. Return None for one that is too large to be stored.
        """
        octets = ENTRY_OCTETS + len(key) + sum(map(len, tails)) + more_octets
        entry = Entry(key, tails, tuple(dict.fromkeys(owners)), self._sort_of(key, tails[0], label), octets)
        self._drop(key)
        if octets > self._max_probation:
            return None
        by_owner = self._by_owner
        for owner in entry.owners:
            others = by_owner.setdefault(owner, entry)
            if isinstance(others, set):
                others.add(entry)
            elif others is not entry:
                by_owner[owner] = {others, entry}
        if self._kept_octets + entry.octets <= self._max_kept and entry.octets <= self._max_kept // 8:
            self._kept[key] = entry
            self._kept_octets += entry.octets
        else:
            self._add_on_probation(entry)
        return entry

    def holds(self, entry: Entry) -> bool:
        """Tell whether *entry* is still the answer to its query."""
        return (self._kept.get(entry.key) or self._probation.get(entry.key)) is entry

    def renew(self, entry: Entry, tails: tuple[bytes, ...], label: object) -> bool:
        """Have *entry*, which is held, say something else from now on; False where that is not of the same sort."""
        if self._sort_of(entry.key, tails[0], label) is not entry.sort:
            return False
        entry.say(tails)
        entry.is_used = False
        return True

    def drop(self, entry: Entry) -> None:
        """Drop one that is held."""
        self._drop(entry.key)

    def forget(self, owner: bytes) -> int:
        """Drop every answer that was made from the owner name with that ``key``; return how many."""
        entries = self._by_owner.get(owner)
        if entries is None:
            return 0
        some = [*entries] if isinstance(entries, set) else [entries]
        for entry in some:
            self._drop(entry.key)
        return len(some)

    def clear(self) -> None:
        """Drop every answer. What is noted of first askings stays: what is asked for often is stored again at once."""
        self._kept.clear()
        self._probation.clear()
        self._by_owner.clear()
        self._kept_octets = self._probation_octets = 0

    def _sort_of(self, key: bytes, tail: bytes, label: object) -> Sort:
        traits = label, len(key) + 2, len(tail) + 2, tail[0] & 0x02
        sort = self._sorts.get(traits)
        if sort is None:
            if len(self._sorts) >= MAX_SORTS:
                self._sorts.clear()
            sort = self._sorts[traits] = Sort(label, traits[1], traits[2], is_truncated=bool(traits[3]))
        return sort

    def _add_on_probation(self, entry: Entry) -> None:
        self._probation[entry.key] = entry
        self._probation_octets += entry.octets
        while self._probation_octets > self._max_probation:
            self.evictions += 1
            self._drop(next(iter(self._probation)))

    def _drop(self, key: bytes) -> None:
        if (entry := self._kept.pop(key, None)) is not None:
            self._kept_octets -= entry.octets
        elif (entry := self._probation.pop(key, None)) is not None:
            self._probation_octets -= entry.octets
        else:
            return
        for owner in entry.owners:
            entries = self._by_owner[owner]
            if isinstance(entries, set) and len(entries) > 1:
                entries.discard(entry)
            else:
                del self._by_owner[owner]
