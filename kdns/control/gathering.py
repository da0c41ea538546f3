"""How long to leave a busy watch alone, so that what comes meanwhile is read and applied together.

To be woken for an event, a thread and then the loop, costs more than the event. Where events come close together a
few are waited for, each for ``MAX_SECONDS`` at most; where they do not, none is, and hardly any where whoever makes
them waits for each to be seen.
"""

from __future__ import annotations

from typing import Final

WAITED_SECONDS: Final = 0.0004
"""A read that took longer had to wait: nothing else lay there to be read."""

BUSY_SECONDS: Final = 0.025
"""Events that come further apart than this are taken one by one."""

EVENTS: Final = 8
"""A pause is meant to bring so many events."""
MIN_SECONDS: Final = 0.005
MAX_SECONDS: Final = 0.025
"""What a pause may last."""

MIN_GATHERED: Final = 2
"""A pause that brings less was of no use."""
REST_EVENTS: Final = 64
"""After one of no use so many events go by before the next pause, and twice as many each time."""
MAX_REST_EVENTS: Final = 1024
"""The most that go by."""


class Gathering:
    """Tells of one watch, read after read, how long to pause."""

    def __init__(self) -> None:
        self._count = 0
        self._rest = 0
        self._next_rest = REST_EVENTS
        self._has_paused = False
        self._last = float("-inf")

    def pause(self, asked: float, came: float, events: int) -> float:
        """Return the seconds to pause after a read of *events*, *asked* for and *come* at these seconds of a clock."""
        self._count += events
        if came - asked < WAITED_SECONDS:
            return 0.0
        count, self._count = self._count, 0
        interval = (came - self._last) / count
        self._last = came
        if self._has_paused:
            if count > MIN_GATHERED:  # the one that was waited for is counted, too
                self._next_rest = REST_EVENTS
            else:
                self._rest = self._next_rest
                self._next_rest = min(2 * self._next_rest, MAX_REST_EVENTS)
            self._has_paused = False
        if self._rest > 0:
            self._rest -= count
            return 0.0
        if interval > BUSY_SECONDS:
            return 0.0
        self._has_paused = True
        return min(MAX_SECONDS, max(MIN_SECONDS, EVENTS * interval))
