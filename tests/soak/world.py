"""The cluster that is served, and what was true of it when."""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator

from tests.support.api_server import ApiServer
from tests.support.kube import endpoint_slice, namespace, service

Answer = frozenset[str]
"""Addresses; none: the name does not exist."""

NOTHING: Answer = frozenset()


class Truth:
    """What each name's answer was, from when on."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}
        self._answers: dict[str, list[Answer]] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """List all names that ever were."""
        with self._lock:
            return list(self._times)

    def now(self, name: str) -> Answer:
        """Return what is true now."""
        with self._lock:
            return self._answers[name][-1]

    def set(self, name: str, answer: Answer) -> None:
        """Note what is true from now on."""
        with self._lock:
            self._times.setdefault(name, []).append(time.monotonic())
            self._answers.setdefault(name, []).append(answer)

    def was(self, name: str, answer: Answer, since: float) -> bool:
        """Tell whether *answer* was true at some time from *since* on."""
        with self._lock:
            first = max(bisect_right(self._times[name], since) - 1, 0)
            if first == 0 and self._times[name][0] > since and answer == NOTHING:
                return True  # before it was made
            return answer in self._answers[name][first:]

    def forget(self, before: float) -> None:
        """Let go of what was true only long ago."""
        with self._lock:
            for name, times in self._times.items():
                first = max(bisect_right(times, before) - 1, 0)
                del times[:first], self._answers[name][:first]


class World:
    """Changes the objects of *api* at random, and keeps *truth*."""

    def __init__(self, api: ApiServer, source: random.Random, *, services: int = 40, namespaces: int = 4) -> None:
        self.truth = Truth()
        self.changes = 0
        self._api = api
        self._random = source
        self._places = [(f"ns{at % namespaces}", f"{'h' if at % 2 else 's'}{at}") for at in range(services)]
        api.put(*(namespace(f"ns{number}") for number in range(namespaces)))
        for number in range(20):
            api.put(service(f"still{number}", f"10.97.0.{number}", namespace="ns0"))
            self.truth.set(f"still{number}.ns0.svc.cluster.local.", frozenset({f"10.97.0.{number}"}))
        for place in self._places:
            self._make(*place)

    @staticmethod
    def name(space: str, name: str) -> str:
        """Return the name in DNS."""
        return f"{name}.{space}.svc.cluster.local."

    def change(self) -> None:
        """Change one Service."""
        self.changes += 1
        space, name = self._random.choice(self._places)
        is_there = self.truth.now(self.name(space, name)) != NOTHING
        if is_there and self._random.random() < 0.2:
            self._end(space, name)
        elif name.startswith("h"):
            self._roll(space, name) if is_there else self._make(space, name)
        else:
            self._make(space, name)

    def _make(self, space: str, name: str) -> None:
        if name.startswith("h"):
            self._api.put(service(name, namespace=space))
            self._roll(space, name)
            return
        address = f"10.96.{self._random.randrange(256)}.{self._random.randrange(1, 255)}"
        self._api.put(service(name, address, namespace=space))
        self.truth.set(self.name(space, name), frozenset({address}))

    def _roll(self, space: str, name: str) -> None:
        count = self._random.randrange(6)
        ends = sorted({f"10.1.{self._random.randrange(256)}.{self._random.randrange(1, 255)}" for _ in range(count)})
        self._api.put(endpoint_slice(name, *ends, namespace=space))
        self.truth.set(self.name(space, name), frozenset(ends))

    def _end(self, space: str, name: str) -> None:
        if name.startswith("h"):
            self._api.delete("EndpointSlice", f"{name}-1", space)
        self._api.delete("Service", name, space)
        self.truth.set(self.name(space, name), NOTHING)

    def sample(self, count: int) -> Iterator[str]:
        """Yield some names."""
        names = self.truth.names()
        for _ in range(count):
            yield self._random.choice(names)
