"""Turns: five hundred who have much to do leave time for everybody else."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing

from kdns.net import turns
from kdns.net.turns import FEW, TURN_SECONDS, Turns


class Clock:
    """Time that passes as work is done, and not otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(turns, "perf_counter", made)
    return made


WORK_SECONDS = 0.000_4


def test_what_all_do_in_a_pass_is_bounded(clock: Clock) -> None:
    done: list[int] = []
    passes: list[float] = []

    async def connection(shared: Turns, number: int) -> None:
        for _ in range(3):
            await shared.take()
            clock.now += WORK_SECONDS
            done.append(number)
            await trio.lowlevel.checkpoint()

    async def everybody_else() -> None:
        while True:
            passes.append(clock.now)
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        shared = Turns()
        async with trio.open_nursery() as others:
            others.start_soon(shared.run)
            others.start_soon(everybody_else)
            async with trio.open_nursery() as connections:
                for number in range(500):
                    connections.start_soon(connection, shared, number)
            others.cancel_scope.cancel()

    trio.run(main)
    assert sorted(done) == sorted(list(range(500)) * 3), "everybody has had all turns"
    longest = max(after - before for before, after in pairwise(passes))
    assert longest <= TURN_SECONDS + FEW * WORK_SECONDS + 0.001


def test_who_is_alone_never_waits(clock: Clock) -> None:
    async def main() -> None:
        shared = Turns()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shared.run)
            for _ in range(100):
                with trio.fail_after(10):
                    await shared.take()
                clock.now += 2 * TURN_SECONDS
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_those_who_wait_go_on_in_their_order(clock: Clock) -> None:
    order: list[int] = []

    async def connection(shared: Turns, number: int) -> None:
        await shared.take()
        clock.now += 2 * TURN_SECONDS
        order.append(number)

    async def main() -> None:
        shared = Turns()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shared.run)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as connections:
                for number in range(40):
                    connections.start_soon(connection, shared, number)
                    if number < 1:
                        await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert sorted(order) == list(range(40))
