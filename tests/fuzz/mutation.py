"""Inputs made from good ones by a seed: the same seed makes the same inputs, wherever it runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

MAX_OCTETS: Final = 4096
_ODD_OCTETS: Final = (
    0,
    1,
    0x3F,
    0x40,
    0x7F,
    0x80,
    0xBF,
    0xC0,
    0xC1,
    0xFF,
    ord("."),
    ord("-"),
    ord("{"),
    ord('"'),
    ord("\n"),
)
_ODD_PAIRS: Final = (0, 1, 11, 12, 0x29, 0xFF, 0x100, 0x200, 0x4D0, 0x7FFF, 0x8000, 0xC00C, 0xC000, 0xFFFF)


class Mutator:
    """Makes inputs from *seeds*, none of which is empty."""

    def __init__(self, seeds: Sequence[bytes], seed: int) -> None:
        self._seeds = [one for one in seeds if one]
        self._random = random.Random(seed)
        self._ways: Sequence[Callable[[bytearray], None]] = (
            self._flip, self._flip, self._set, self._set_pair, self._cut, self._drop, self._repeat, self._insert,
            self._splice, self._digits,
        )  # fmt: skip

    def next(self) -> bytes:
        """Return another input: a seed, changed one to six times."""
        data = bytearray(self._random.choice(self._seeds))
        for _ in range(min(1 + int(self._random.expovariate(0.7)), 6)):
            if not data:
                break
            self._random.choice(self._ways)(data)
        return bytes(data[:MAX_OCTETS])

    def _place(self, data: bytearray) -> int:
        return self._random.randrange(len(data))

    def _flip(self, data: bytearray) -> None:
        data[self._place(data)] ^= 1 << self._random.randrange(8)

    def _set(self, data: bytearray) -> None:
        data[self._place(data)] = self._random.choice((*_ODD_OCTETS, self._random.randrange(256)))

    def _set_pair(self, data: bytearray) -> None:
        at = self._place(data)
        data[at : at + 2] = self._random.choice(_ODD_PAIRS).to_bytes(2, "big")

    def _cut(self, data: bytearray) -> None:
        del data[self._place(data) :]

    def _drop(self, data: bytearray) -> None:
        at = self._place(data)
        del data[at : at + self._random.randrange(1, 9)]

    def _repeat(self, data: bytearray) -> None:
        at = self._place(data)
        some = data[at : at + self._random.randrange(1, 33)]
        data[at:at] = some * self._random.choice((1, 1, 2, 8))

    def _insert(self, data: bytearray) -> None:
        at = self._place(data)
        data[at:at] = self._random.randbytes(self._random.randrange(1, 9))

    def _splice(self, data: bytearray) -> None:
        other = self._random.choice(self._seeds)
        data[self._place(data) :] = other[self._random.randrange(len(other)) :]

    def _digits(self, data: bytearray) -> None:
        """Numbers in text: far too large, negative, no number at all."""
        places = [at for at, octet in enumerate(data) if 0x30 <= octet <= 0x39]
        if places:
            at = self._random.choice(places)
            data[at : at + 1] = self._random.choice((b"-1", b"99999999999999999999", b"1e9", b"null", b"65536", b"0"))
