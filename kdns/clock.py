"""The clock that the programs run trio by: the system's own, which is read thousands of times a second.

trio's own adds a random offset to it, in Python, so that nobody takes the one for the other; that costs four times what
the reading does. Here they are the same, so ``time.perf_counter`` may stand for ``trio.current_time``.
"""

from __future__ import annotations

from time import perf_counter

import trio


class SystemClock(trio.abc.Clock):
    """Seconds since the system started."""

    current_time = staticmethod(perf_counter)

    def start_clock(self) -> None:
        """Do nothing: it runs."""

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long it is until *deadline*."""
        return deadline - perf_counter()
