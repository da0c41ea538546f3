"""Many deadlines, few of which come: calls put into slots of 50 ms, and one task that goes through them.

A question's deadline is set and then forgotten thousands of times a second, so setting one is an append to a list, and
nothing is ever taken out: whoever is called looks whether it still matters.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable
from typing import Final, NoReturn

import trio

log = logging.getLogger(__name__)

SLOT_SECONDS: Final = 0.05


class Timers:
    """Calls to come, in seconds of trio's clock; each comes up to ``SLOT_SECONDS`` late."""

    def __init__(self) -> None:
        self.now: Callable[[], float] = trio.lowlevel.current_clock().current_time
        """trio's clock, without the look-ups that ``trio.current_time`` makes each time (``kdns.clock``)."""
        self._slots: dict[int, list[Callable[[], None]]] = {}
        self._order: list[int] = []
        self._wake = trio.Event()

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        """Call *call* at *when*."""
        slot = int(when / SLOT_SECONDS) + 1
        calls = self._slots.get(slot)
        if calls is not None:
            calls.append(call)
            return
        self._slots[slot] = [call]
        heapq.heappush(self._order, slot)
        self._wake.set()

    async def run(self) -> NoReturn:
        """Call until cancelled."""
        while True:
            while not self._order:
                self._wake = trio.Event()
                await self._wake.wait()
            now = int(self.now() / SLOT_SECONDS)
            while self._order and self._order[0] <= now:
                for call in self._slots.pop(heapq.heappop(self._order)):
                    try:
                        call()
                    except Exception:
                        log.exception("a deadline")  # one that breaks must not keep the others from theirs
            await trio.sleep(SLOT_SECONDS)
