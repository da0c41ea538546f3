"""A bucket of tokens for each client: who asks for more than its share is told to come over TCP, or not answered.

| the bucket  | a query over UDP                                                  | over TCP                        |
|-------------|-------------------------------------------------------------------|---------------------------------|
| has a token | takes it, and is answered                                         | takes it if there is one        |
| is empty    | each *slip*-th: an empty answer with TC set, which costs next to  | answered: a handshake proves    |
|             | nothing and lets a true client come over TCP; else silence        | the address                     |

Where an address is somebody's whom a flood pretends to be, the empty answers are all that reaches them: with a *slip*
of 2 half as many as were sent, and no longer. A bucket is of one address: pods of a node share a prefix.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Final

MAX_CLIENTS: Final = 16_384
"""Clients whose buckets are kept; the one that asked longest ago is forgotten first, which is to say full again."""
BURST_SECONDS: Final = 2.0


class Verdict(Enum):
    """What becomes of a query."""

    ANSWER = "answer"
    TRUNCATE = "truncate"
    DROP = "drop"


class Fairness:
    """Buckets that fill with *rate* tokens a second, and hold two seconds' worth. *slip* 0: silence alone."""

    def __init__(self, rate: float, slip: int = 1) -> None:
        self._rate = rate
        self._slip = slip
        self._room = max(1.0, rate * BURST_SECONDS)
        self._buckets: OrderedDict[str, list[float]] = OrderedDict()
        self.limited = 0
        """Queries over their clients' share, over UDP or TCP."""
        self.dropped = 0
        """Those of them that were not answered at all."""

    def judge(self, client: str, now: float, *, is_proven: bool) -> Verdict:
        """Take a token of *client*'s, and say what becomes of its query; one whose address *is_proven* is answered."""
        buckets = self._buckets
        bucket = buckets.get(client)
        if bucket is None:
            buckets[client] = [self._room - 1.0, now]
            if len(buckets) > MAX_CLIENTS:
                buckets.popitem(last=False)
            return Verdict.ANSWER
        buckets.move_to_end(client)
        tokens = min(self._room, bucket[0] + (now - bucket[1]) * self._rate)
        bucket[1] = now
        if tokens >= 1.0:
            bucket[0] = tokens - 1.0
            return Verdict.ANSWER
        bucket[0] = tokens
        self.limited += 1
        if is_proven:
            return Verdict.ANSWER
        if self._slip and self.limited % self._slip == 0:
            return Verdict.TRUNCATE
        self.dropped += 1
        return Verdict.DROP
