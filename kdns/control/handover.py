"""From a thread that reads to the trio thread that applies: things in order, bounded, and the thread hardly waits.

A call into the trio thread and back for each thing costs more than most things do: a list of twenty thousand objects,
each in a chunk of its own, took a second longer by that.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final, Generic, TypeVar

import trio

MAX_WAITING: Final = 128
"""Things that wait to be taken; each is what one read brought, so at most some megabytes."""

T = TypeVar("T")


class Handover(Generic[T]):
    """A queue from one thread to the trio thread that makes it."""

    def __init__(self) -> None:
        self._waiting: deque[T] = deque()
        self._room = threading.Semaphore(MAX_WAITING)
        self._token = trio.lowlevel.current_trio_token()
        self._there = trio.Event()
        self._is_awaited = False
        self._has_ended = False
        self._error: Exception | None = None
        self._has_stopped = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, thing: T) -> None:
        """Leave *thing*, waiting for room; called in the thread. What comes after ``stop`` is dropped."""
        self._room.acquire()
        if self._has_stopped:
            return
        self._waiting.append(thing)
        if self._is_awaited:
            self._is_awaited = False
            self._token.run_sync_soon(self._wake)

    def stop(self) -> None:
        """Let the thread go on, whatever it still leaves."""
        self._has_stopped = True
        self._room.release(MAX_WAITING * 1024)

    def end(self, error: Exception | None = None) -> None:
        """Note that nothing more comes, because of *error* if there is one."""
        self._has_ended = True
        self._error = error
        self._there.set()

    async def take(self) -> T | None:
        """Return the next thing, or None when there is none and none will come; raise the error that ended it."""
        while True:
            self._is_awaited = True  # before the look: what comes after it wakes us
            if self._waiting:
                break
            if self._error is not None:
                raise self._error
            if self._has_ended:
                return None
            self._there = trio.Event()
            await self._there.wait()
        self._is_awaited = False
        self._room.release()
        return self._waiting.popleft()

    def _wake(self) -> None:
        self._there.set()
