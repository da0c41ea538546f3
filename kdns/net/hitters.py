"""Who asks most, and for what: sketches of a fixed size, fed with a few queries out of all.

A sample of the queries is taken, at most some hundred a second however many there are, so the hot path pays for a
number counted down. The sketch is Space-Saving (Metwally, Agrawal, El Abbadi 2005): it has room for a fixed number of
keys; a new one takes the place of the least, and inherits its count. Counts fade, so that what is shown is of the last
half minute or so.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from time import perf_counter
from typing import Final

HEADER_OCTETS: Final = 12

FADE_SECONDS: Final = 30.0
"""What happened this long ago counts a third of what happens now."""

KEYS: Final = 128
"""Room of a sketch. What makes up more than a 128th of all is always in it."""

SAMPLES_A_SECOND: Final = 250
MAX_STRIDE: Final = 4096
MAX_QUESTION_OCTETS: Final = 259
"""A name and a type."""


class HeavyHitters:
    """The keys with the largest counts, about."""

    def __init__(self, *, keys: int = KEYS) -> None:
        self._keys = keys
        self._counts: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, key: bytes, weight: float) -> None:
        """Count *key*."""
        counts = self._counts
        if key in counts:
            counts[key] += weight
        elif len(counts) < self._keys:
            counts[key] = weight
        else:
            fewest = min(counts.values())
            least = next(other for other, count in counts.items() if count == fewest)
            del counts[least]
            counts[key] = fewest + weight

    def fade(self, factor: float) -> None:
        """Have all counts be less; what counts for nothing any more goes."""
        self._counts = {key: faded for key, count in self._counts.items() if (faded := count * factor) > 0.01}

    def top(self, count: int = KEYS) -> list[tuple[bytes, float]]:
        """Return the *count* largest, the largest first."""
        return sorted(self._counts.items(), key=lambda item: -item[1])[:count]


class Sampler:
    """Samples of what one process is asked.

    A listener counts ``stride`` batches down to its next sample, and then says how many queries that one stands for.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.names = HeavyHitters()
        """By the question's octets, in lower case: the name as on the wire, then the type."""
        self.clients = HeavyHitters()
        """By address, as text."""
        self._clock = clock
        self._began = self._faded_at = clock()
        self._sampled_at = 0.0

    def take(self, wire: bytes, client: str, queries: int, stride: int) -> int:
        """Take a sample that stands for that many *queries*; return how many batches to let pass before the next."""
        now = self._clock()
        end = _end_of_question(wire)
        if end:
            self.names.add(wire[HEADER_OCTETS:end].lower(), queries)
        self.clients.add(client.encode(), queries)
        is_early = now - self._sampled_at < 1 / SAMPLES_A_SECOND
        self._sampled_at = now
        return min(stride * 2, MAX_STRIDE) if is_early else max(stride // 2, 1)

    def fade(self) -> None:
        """To be called about once a second."""
        now = self._clock()
        factor = exp((self._faded_at - now) / FADE_SECONDS)
        self._faded_at = now
        self.names.fade(factor)
        self.clients.fade(factor)

    def rates(self, count: int) -> tuple[list[tuple[bytes, float]], list[tuple[bytes, float]]]:
        """Return the *count* first names and clients, each with its queries a second, about."""
        seconds = FADE_SECONDS * (1 - exp((self._began - self._clock()) / FADE_SECONDS)) or 1.0
        names, clients = self.names.top(count), self.clients.top(count)
        return [(key, seen / seconds) for key, seen in names], [(key, seen / seconds) for key, seen in clients]


def _end_of_question(wire: bytes) -> int:
    """Return where the first question's type ends; 0 where there is none that can be read."""
    at = HEADER_OCTETS
    if len(wire) < at or not wire[4] | wire[5]:
        return 0
    while at < len(wire) and (size := wire[at]):
        if size > 63:
            return 0
        at += size + 1
    at += 3
    return at if at <= len(wire) and at <= HEADER_OCTETS + MAX_QUESTION_OCTETS else 0
