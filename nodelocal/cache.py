"""Answers held until their TTL ends, and a while longer (RFC 2308, RFC 8767, RFC 9520, RFC 8020).

| an entry                        | is served                                                                    |
|---------------------------------|------------------------------------------------------------------------------|
| before ``expires_at``           | as it is, with what is left of its TTL                                       |
| in the ``max_stale`` after that | while no upstream answers, with a TTL of ``STALE_TTL`` and Extended Error 3;  |
|                                 | asking is tried again every ``RECHECK_SECONDS``                              |
| later, or when room is needed   | never again; what nobody asked for goes first (``nodelocal.room``)           |

Answers and denials have room of their own, so that a flood of names that do not exist pushes no answer out. Memory is
counted in octets. An NXDOMAIN is one entry for every type of the name, and stands for the names below it (RFC 8020)
where it is exact: for the name itself and not for what it is an alias of, from a server that knows names that exist
only through names below them. Whoever asks passes ``now``: seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import Final

import cachetools
import msgspec

from kdns.proto.query import NXDOMAIN
from nodelocal.entry import Entry, Limits
from nodelocal.room import Room
from zones.names import Name

ENTRY_OCTETS: Final = 510
"""What an entry costs beside its key, its body and its places of TTLs: measured when a million answers had come and
gone, which leaves the table that holds them half empty (400 before that)."""
PLACE_OCTETS: Final = 36
"""What the place of one TTL costs, an integer of its own."""

STALE_TTL: Final = 30
"""RFC 8767 section 4."""
RECHECK_SECONDS: Final = 30.0
"""RFC 8767 section 5: the failure recheck timer."""

FAILURE_SECONDS: Final = 1.0
"""How long a first failure is remembered; each further one doubles it (RFC 9520 section 3.2), until there was none of
any question for ``MAX_FAILURE_SECONDS``."""
MAX_FAILURE_SECONDS: Final = 30.0
MAX_FAILURES: Final = 4096

DENIAL_SHARE: Final = 4
"""Denials have one part in so many of the room."""

PREFETCH_HITS: Final = 2
"""Seconds in which an entry must have been asked for to be worth renewing before it ends."""
PREFETCH_SHARE: Final = 10
"""It is renewed in the last part in so many of its TTL, or in the last second and a half."""
PREFETCH_SECONDS: Final = 1.5


WHOLE: Final = 4
"""The flag, beside DO and CD, of a key that stands for every type of its name."""

_COMMON_TYPES: Final = 256
_ENDS: Final = tuple(bytes((0, qtype, flags)) for qtype in range(_COMMON_TYPES) for flags in range(4))
"""What follows the name in a key, by type and flags."""


def key_of(qname: Name, qtype: int, *, do: bool, cd: bool) -> bytes:
    """Return the key of a question: its name in lower case, its type, DO and CD. The class is always IN."""
    flags = do << 1 | cd
    if qtype < _COMMON_TYPES:
        return qname.key + _ENDS[qtype << 2 | flags]
    return qname.key + bytes((qtype >> 8, qtype & 255, flags))


_WHOLE_ENDS: Final = tuple(bytes((0, 0, flags | WHOLE)) for flags in range(4))
"""What follows the name in the key of a denial of all its types, by DO and CD: flags that no question has."""


def _whole_key(key: bytes) -> bytes:
    return key[:-3] + _WHOLE_ENDS[key[-1]]


class Cache:
    """The cache.

    *cuts(above, name, entry)* says whether the NXDOMAIN *entry* of the name *above* stands for *name* below it, too:
    whether whoever said it speaks for *name*, and knows empty non-terminals.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        cuts: Callable[[Name, Name, Entry], bool] = lambda above, name, entry: False,
    ) -> None:
        self.limits = limits or Limits()
        room = self.limits.max_octets
        self._index: dict[bytes, Entry] = {}  # of both: most questions miss, and a miss is one look-up here
        self._answers = Room(room - room // DENIAL_SHARE, self._index, of_denials=False)
        self._denials = Room(room // DENIAL_SHARE, self._index, of_denials=True)
        self._failures: cachetools.LRUCache[bytes, tuple[float, float]] = cachetools.LRUCache(MAX_FAILURES)
        self.fails_until = -inf
        """When the last failure ends that is remembered; there is no need to look for one after that."""
        self._may_cut = cuts
        self._depth_of_cuts = 0

    def find(self, key: bytes, now: float) -> Entry | None:
        """Return the entry that answers the question with that ``key_of``, fresh or stale; look at ``expires_at``."""
        index = self._index
        entry = index.get(key)
        whole = _whole_key(key)
        denial = index.get(whole)
        if denial is not None and (entry is None or denial.stored_at >= entry.stored_at):
            entry = denial  # what was said last counts, fresh or stale
        if entry is None or now >= entry.expires_at:
            cut = self._cut(key, now) if self._depth_of_cuts else None
            if cut is not None:
                return cut
            if entry is None or now >= entry.expires_at + self.limits.max_stale:
                return None
        entry.is_used = True
        return entry

    def get(self, key: bytes) -> Entry | None:
        """Return the entry under a key of the cache, whether or not its time is up; nobody asked for it by that."""
        return self._index.get(key)

    @staticmethod
    def place_of(key: bytes, entry: Entry) -> bytes:
        """Return the key that ``put`` keeps an entry under."""
        return _whole_key(key) if entry.is_denial and entry.is_nxdomain else key

    def forget(self, key: bytes) -> None:
        """Drop the entry under a key of the cache, which there is."""
        self._forget(key)

    def put(self, key: bytes, entry: Entry, now: float) -> None:
        """Keep *entry* in place of whatever was known of the question with that ``key_of``.

        What has TTL 0, or must not be kept, is not, but ends what was known; a failure ends nothing.
        """
        limits = self.limits
        ttl, most = entry.ttl, limits.max_negative_ttl if entry.is_denial else limits.max_ttl
        if ttl > most:
            ttl = most
        if ttl < limits.min_ttl:
            ttl = limits.min_ttl
        entry.ttl = ttl
        entry.stored_at = now
        entry.expires_at = now + ttl
        rcode = entry.rcode
        if rcode and rcode != NXDOMAIN:
            return
        whole = _whole_key(key)
        index = self._index
        if now < self.fails_until + MAX_FAILURE_SECONDS:
            self._failures.pop(key, None)
        is_whole = entry.is_denial and entry.is_nxdomain
        place, other = (whole, key) if is_whole else (key, whole)
        if other in index:
            self._forget(other)
        known = index.get(place)
        if not entry.is_kept or not ttl:
            if known is not None:
                self._forget(place)
            return
        self._store(place, known, entry)

    def restore(self, key: bytes, entry: Entry) -> None:
        """Keep what another cache kept under *key*, its times as they are; nothing else may be known under it."""
        if key not in self._index:
            self._store(key, None, entry)

    def _store(self, key: bytes, known: Entry | None, entry: Entry) -> None:
        """Keep *entry* in the place of *known*."""
        entry.octets = ENTRY_OCTETS + len(key) + len(entry.body) + PLACE_OCTETS * len(entry.ttl_at)
        room = self._answers
        if entry.is_denial:
            room = self._denials
            if entry.is_nxdomain:
                qname = Name.trusted(key[:-3])
                if self._may_cut(qname, qname, entry):
                    self._depth_of_cuts = max(self._depth_of_cuts, len(qname.labels))
        if known is None:
            room.store(key, entry)
        elif known.is_denial is entry.is_denial:
            room.replace(key, known, entry)
        else:
            self._forget(key)
            room.store(key, entry)

    def _forget(self, key: bytes) -> None:
        (self._denials if self._index[key].is_denial else self._answers).forget(key)

    def should_prefetch(self, entry: Entry, now: float) -> bool:
        """Note a hit on a fresh entry; tell whether it is worth renewing now."""
        entry.hits += 1
        left = entry.expires_at - now
        return entry.hits >= PREFETCH_HITS and left <= max(PREFETCH_SECONDS, entry.ttl / PREFETCH_SHARE)

    # -- failures -------------------------------------------------------------------------------------------------

    def fail(self, key: bytes, now: float) -> None:
        """Note that no upstream answered the question (RFC 9520)."""
        if now >= self.fails_until + MAX_FAILURE_SECONDS:
            self._failures.clear()  # they are too long ago to make a new one last longer
        last = self._failures.get(key)
        seconds = FAILURE_SECONDS if last is None else min(last[1] * 2, MAX_FAILURE_SECONDS)
        self._failures[key] = now + seconds, seconds  # when it ends, how long it lasts
        self.fails_until = max(self.fails_until, now + seconds)

    def has_failed(self, key: bytes, now: float) -> bool:
        """Tell whether the question failed so lately that it must not be asked again yet."""
        failure = self._failures.get(key)
        return failure is not None and now < failure[0]

    # -- for people -----------------------------------------------------------------------------------------------

    @property
    def counts(self) -> tuple[int, int]:
        """How many answers and denials there are."""
        return self._answers.count, self._denials.count

    @property
    def octets(self) -> tuple[int, int]:
        """What answers and denials hold, in octets, by the estimate that bounds them."""
        return self._answers.octets, self._denials.octets

    @property
    def evictions(self) -> tuple[int, int]:
        """Answers and denials that went before their time because room was needed."""
        return self._answers.evictions, self._denials.evictions

    def items(self) -> Iterator[tuple[bytes, Entry]]:
        """Yield every key and entry."""
        yield from list(self._index.items())

    def flush(self, name: Name | None = None) -> int:
        """Forget everything, or what is known of *name* and of the names below it; return how much."""
        keys = [key for key in self._index if name is None or Name.trusted(key[:-3]).is_under(name)]
        for key in keys:
            self._forget(key)
        self._failures.clear()
        self.fails_until = -inf
        return len(keys)

    # -- NXDOMAIN stands for what lies below (RFC 8020) -----------------------------------------------------------

    def _cut(self, key: bytes, now: float) -> Entry | None:
        """Return a fresh, exact NXDOMAIN of a name above the one in *key*."""
        index = self._index
        name, end = key[:-3], _WHOLE_ENDS[key[-1] & ~WHOLE]
        qname = Name.trusted(name)
        depth = len(qname.labels)
        at = 0
        while size := name[at]:
            at += 1 + size
            depth -= 1
            if not depth:
                return None
            if depth > self._depth_of_cuts:
                continue
            entry = index.get(name[at:] + end)
            if entry is not None and now < entry.expires_at and self._may_cut(Name.trusted(name[at:]), qname, entry):
                return _below(entry, at)
        return None


def _below(entry: Entry, octets: int) -> Entry:
    """Return the denial as it stands behind a question that is *octets* longer: its pointers lead further back."""
    body = bytearray(entry.body)
    at = 0
    for _ in range(entry.answers + entry.authorities):
        at = _shift(body, at, octets)
        end = at + 10 + (body[at + 8] << 8 | body[at + 9])
        if body[at] << 8 | body[at + 1] == _SOA:
            _shift(body, _shift(body, at + 10, octets), octets)
        at = end
    return msgspec.structs.replace(entry, body=bytes(body))


_SOA: Final = 6


def _shift(body: bytearray, at: int, octets: int) -> int:
    """Move the pointer that a name at *at* may end in; return where the octets behind the name begin."""
    while (size := body[at]) and size < 0xC0:
        at += 1 + size
    if size:
        target = ((size & 0x3F) << 8 | body[at + 1]) + octets
        body[at : at + 2] = (0xC000 | target).to_bytes(2, "big")
    return at + (2 if size else 1)
