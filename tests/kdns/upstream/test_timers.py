"""Many deadlines, on a clock of the test's own."""

from __future__ import annotations

import trio
import trio.testing

from kdns.upstream.timers import SLOT_SECONDS, Timers


def test_calls_come_in_order_and_never_early() -> None:
    async def main() -> None:
        timers = Timers()
        came: list[tuple[float, float]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timers.run)
            begin = trio.current_time()
            for wait in (0.5, 0.1, 2.0, 0.1, 0.51):
                when = begin + wait
                timers.call_at(when, lambda when=when: came.append((when, trio.current_time())))  # type: ignore[misc]
            await trio.sleep(3)
            timers.call_at(trio.current_time() + 0.2, lambda: came.append((begin + 3.2, trio.current_time())))
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert len(came) == 6
        assert [when for when, _ in came] == sorted(when for when, _ in came)
        for when, then in came:
            assert when <= then <= when + 2 * SLOT_SECONDS + 1e-6

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_call_may_set_another() -> None:
    async def main() -> None:
        timers = Timers()
        came: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timers.run)

            def first() -> None:
                came.append("first")
                timers.call_at(trio.current_time(), lambda: came.append("second"))

            timers.call_at(trio.current_time(), first)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert came == ["first", "second"]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
