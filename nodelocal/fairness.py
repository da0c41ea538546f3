"""A bucket of tokens for each client: who asks for more than its share is told to come over TCP.

| the bucket                | a query over UDP                                            | over TCP             |
|---------------------------|-------------------------------------------------------------|----------------------|
| has a token               | takes it, and is answered                                   | takes it if there is |
| is empty                  | an empty answer with TC set, which costs next to nothing    | answered: a handshake |
|                           | and lets a true client come over TCP                        | proves the address   |
"""

from __future__ import annotations

from typing import Final

import cachetools

MAX_CLIENTS: Final = 16_384
"""Clients whose buckets are kept; the one that asked longest ago is forgotten first, which is to say full again."""
BURST_SECONDS: Final = 2.0


class Fairness:
    """Buckets that fill with *rate* tokens a second, and hold two seconds' worth."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._room = max(1.0, rate * BURST_SECONDS)
        self._buckets: cachetools.LRUCache[str, list[float]] = cachetools.LRUCache(MAX_CLIENTS)
        self.limited = 0

    def takes(self, client: str, now: float) -> bool:
        """Take a token of *client*'s; False, and counted, where there is none."""
        bucket = self._buckets.get(client)
        if bucket is None:
            self._buckets[client] = [self._room - 1.0, now]
            return True
        tokens = min(self._room, bucket[0] + (now - bucket[1]) * self._rate)
        bucket[1] = now
        if tokens < 1.0:
            bucket[0] = tokens
            self.limited += 1
            return False
        bucket[0] = tokens - 1.0
        return True
