"""Finished answers, ready to be sent again, each made anew once a second so that its TTL falls.

They are renewed a few at a time, all over the second, also those that were first made together: were a thousand made
anew at once, everybody would wait for that.

| an answer whose second is over                    | what becomes of it                                       |
|---------------------------------------------------|----------------------------------------------------------|
| asked for in that second, what it says still good | made anew from the cache, which counts that as one hit   |
| any other                                         | dropped: whoever asks next has it made                   |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

import trio

from kdns.proto.label import Label
from kdns.proto.query import MAX_UDP_OCTETS, Transport
from kdns.proto.table import AnswerTable, Entry

MAX_OCTETS: Final = {Transport.UDP: 12 * 2**20, Transport.TCP: 4 * 2**20}
"""Memory for the finished answers of one transport."""
RENEWAL_OCTETS: Final = 650
"""What it takes to renew one: the query that it answers, taken apart (measured over 10,000)."""

MAX_OWN_OCTETS: Final = 8 * 2**20
"""Memory for the finished answers that are for the clients of one namespace alone."""
OWN_OCTETS: Final = 400
"""What one of them costs beside its key and its responses."""

TURNS: Final = 20
"""Parts of a second: as many answers as were stored in one are renewed together."""
TURN_SECONDS: Final = 1 / TURNS

Made = tuple[tuple[bytes, ...], Label]
"""The tails of a response, one or several orders of it, and what it is counted by."""

Renew = Callable[[], Made | None]
"""Makes an answer anew; None where it cannot be had at once, or is not good for another second."""

_OwnKey = tuple[bytes, Transport, bytes]
"""The namespace, the transport, the query behind its ID."""


_Stored = tuple[AnswerTable, Entry, Renew, int]
"""Where an answer is stored, how it is renewed, and the turn with which its second ends."""


class FinishedAnswers:
    """The finished answers of one program; *was_hit* tells of one whether it was sent since it was made."""

    def __init__(self, was_hit: Callable[[Entry], bool]) -> None:
        self.tables = {transport: AnswerTable(max_octets=octets) for transport, octets in MAX_OCTETS.items()}
        self._was_hit = was_hit
        self._due: list[list[_Stored]] = [[] for _ in range(TURNS)]
        self._turn = 0
        self._next = 0
        self._own: dict[_OwnKey, Made] = {}
        self._own_octets = 0
        self._stored = trio.Event()

    def store(self, transport: Transport, key: bytes, made: Made, renew: Renew) -> None:
        """Store an answer to the query that is *key* behind its ID, if such a one was asked for before."""
        table = self.tables[transport]
        if len(key) > MAX_UDP_OCTETS or not table.wants(key):
            return
        tails, label = made
        entry = table.store(key, tails, (), label, more_octets=RENEWAL_OCTETS)
        if entry is not None:
            self._next = (self._next + 1) % TURNS
            self._due[self._next].append((table, entry, renew, self._turn + TURNS))
            self._stored.set()

    def find_own(self, namespace: bytes, transport: Transport, key: bytes) -> Made | None:
        """Return the answer for the clients of one namespace."""
        return self._own.get((namespace, transport, key))

    def store_own(self, namespace: bytes, transport: Transport, key: bytes, made: Made) -> None:
        """Store an answer for the clients of one namespace until the second is over, where there is room."""
        octets = len(key) + sum(map(len, made[0])) + OWN_OCTETS
        if len(key) <= MAX_UDP_OCTETS and self._own_octets + octets <= MAX_OWN_OCTETS:
            self._own[namespace, transport, key] = made
            self._own_octets += octets
            self._stored.set()

    def forget(self) -> None:
        """Drop them all: what they were made of has changed."""
        for table in self.tables.values():
            table.clear()
        for due in self._due:
            due.clear()
        self._forget_own()

    def turn(self) -> None:
        """Renew those whose turn it is: to be called ``TURNS`` times a second."""
        self._turn = turn = self._turn + 1
        at = turn % TURNS
        due, self._due[at] = self._due[at], []
        for table, entry, renew, ends in due:
            if not table.holds(entry):
                continue
            if self._was_hit(entry):
                made = renew()
                if made is not None and table.renew(entry, *made):
                    self._due[at].append((table, entry, renew, turn + TURNS))
                    continue
            elif turn < ends:
                self._due[ends % TURNS].append((table, entry, renew, ends))
                continue
            table.drop(entry)
        if not at:
            self._forget_own()

    async def run(self) -> NoReturn:
        """Renew until cancelled."""
        while True:
            if not self._own and not any(self._due):
                self._stored = trio.Event()
                await self._stored.wait()
            at = trio.current_time()
            while self._own or any(self._due):
                at += TURN_SECONDS
                await trio.sleep_until(at)
                self.turn()

    def _forget_own(self) -> None:
        self._own.clear()
        self._own_octets = 0
