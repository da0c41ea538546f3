"""Things handed from a thread to the trio thread: in order, whole, bounded, and the thread never stuck."""

from __future__ import annotations

import pytest
import trio

from kdns.control.handover import Handover, MAX_WAITING


async def read(handover: Handover[int], count: int) -> None:
    def work() -> None:
        for number in range(count):
            handover.put(number)

    await trio.to_thread.run_sync(work)
    handover.end()


async def all_of(handover: Handover[int]) -> list[int]:
    found = []
    while (thing := await handover.take()) is not None:
        found.append(thing)
    return found


def test_everything_comes_in_order() -> None:
    async def main() -> None:
        handover: Handover[int] = Handover()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, handover, 20 * MAX_WAITING)
            assert await all_of(handover) == list(range(20 * MAX_WAITING))

    trio.run(main)


def test_the_thread_waits_while_nobody_takes() -> None:
    async def main() -> None:
        handover: Handover[int] = Handover()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, handover, 10 * MAX_WAITING)
            await trio.sleep(0.1)
            assert len(handover) == MAX_WAITING
            handover.stop()  # and then the thread ends, though nobody takes anything

    trio.run(main)


def test_an_error_comes_behind_what_was_read_before_it() -> None:
    async def main() -> None:
        handover: Handover[int] = Handover()
        await trio.to_thread.run_sync(handover.put, 1)
        handover.end(ValueError("cut off"))
        assert await handover.take() == 1
        with pytest.raises(ValueError, match="cut off"):
            await handover.take()

    trio.run(main)
