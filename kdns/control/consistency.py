"""Compare what is known with what the API server has, now and then: a watch that lost an event says nothing of it.

| what is found                                   | what follows                                                  |
|-------------------------------------------------|---------------------------------------------------------------|
| the same objects, with the same contents        | nothing                                                       |
| a difference                                    | another look ``SETTLE_SECONDS`` later: what is on its way in  |
|                                                 | the watch has come by then                                    |
| the same difference again                       | it is counted and told, and everything of the kind is listed  |
|                                                 | anew                                                          |
| no answer, or no permission                     | nothing; the reflector tells of that                          |

A look costs the server a list, page by page, of each kind.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Final

import trio

from kdns.control.reflector import Reflector
from kdns.errors import ClusterError

log = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 10.0
MAX_TOLD: Final = 3
"""Objects named in a line."""


class Consistency:
    """Looks at each of *reflectors* every *seconds*, at a time of its own in each period."""

    def __init__(self, reflectors: Sequence[Reflector], seconds: float) -> None:
        self._seconds = seconds
        self._settle = min(SETTLE_SECONDS, seconds)
        self.reflectors = reflectors
        self.looks = dict.fromkeys(reflectors, 0)
        """Looks that came to an end, by reflector."""
        self.found = dict.fromkeys(reflectors, 0)
        """Objects that were not as the server had them, by reflector."""

    async def run(self) -> None:
        """Look until cancelled."""
        async with trio.open_nursery() as nursery:
            for reflector in self.reflectors:
                nursery.start_soon(self._look_again_and_again, reflector)

    async def _look_again_and_again(self, reflector: Reflector) -> None:
        while True:
            await trio.sleep(self._seconds * random.uniform(0.5, 1.0))
            if not reflector.is_complete:
                continue
            try:
                await self._look(reflector)
            except ClusterError as exc:
                log.debug("%s: not compared: %s", reflector.kind.plural, exc)

    async def _look(self, reflector: Reflector) -> None:
        first = await reflector.differences()
        lasting: list[str] = []
        if first:
            await trio.sleep(self._settle)
            second = await reflector.differences()
            lasting = [key.text for key, difference in second.items() if first.get(key) == difference]
        self.looks[reflector] += 1
        if lasting:
            self.found[reflector] += len(lasting)
            some = ", ".join(sorted(lasting)[:MAX_TOLD]) + (", …" if len(lasting) > MAX_TOLD else "")
            log.error(
                "%s: %d not as the API server has them (%s); listing all of them again",
                reflector.kind.plural,
                len(lasting),
                some,
            )
            reflector.start_again()
