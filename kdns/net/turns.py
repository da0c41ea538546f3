"""Turns: what all connections together do between two looks at everything else is bounded.

Each of five hundred connections may have a buffer full of questions; one after the other they would keep a datagram
waiting for a second. A turn begins with the first who works in a pass of the scheduler. When its time is used up,
whoever comes waits in a queue, and some of those go on in the next pass, after all else has had its own.
"""

from __future__ import annotations

from time import perf_counter
from typing import Final, NoReturn

import trio

TURN_SECONDS: Final = 0.002
FEW: Final = 16
"""Of those who wait, so many go on in a pass."""


class Turns:
    """Shared by all connections of a program; ``run`` must run while anybody waits."""

    def __init__(self) -> None:
        self._until = 0.0
        """When the time of this pass is used up; 0: nobody has begun yet."""
        self._waiting = trio.lowlevel.ParkingLot()
        self._manager = trio.lowlevel.ParkingLot()

    async def take(self) -> None:
        """Go on at once, or when it is the caller's turn."""
        while (until := self._until) and perf_counter() >= until:
            await self._waiting.park()
        if not until:
            self._until = perf_counter() + TURN_SECONDS
            self._manager.unpark()

    async def run(self) -> NoReturn:
        """Begin turns, until cancelled."""
        while True:
            if self._until:  # somebody began before this did
                await trio.lowlevel.checkpoint()
            else:
                await self._manager.park()  # woken by who begins, it runs in the next pass
            while self._waiting:
                self._until = perf_counter() + TURN_SECONDS
                self._waiting.unpark(count=FEW)
                await trio.lowlevel.checkpoint()
            self._until = 0.0
