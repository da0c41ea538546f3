"""Events that come close together are gathered, none is late by more than it may be, and who waits for each is not held up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdns.control.gathering import EVENTS, Gathering, MAX_SECONDS, MIN_SECONDS

READ_SECONDS = 0.00005


def follow_merged(count: int, rate: int) -> int:
    """Do what ``follow`` does where one read takes all that has come; return the wake-ups."""
    gathering = Gathering()
    now, wakes, done = 0.0, 0, 0
    while done < count:
        asked = now
        if now < done / rate:
            now = done / rate
            wakes += 1
        now += READ_SECONDS
        come = min(count, int(now * rate) + 1) - done
        done += come
        pause = gathering.pause(asked, now, come)
        wakes += pause > 0
        now += pause
    return wakes


def follow(count: int, next_at: Callable[[float, float], float]) -> tuple[list[float], int]:
    """Read *count* events; return how late each was read, and how often the reader had to be woken up.

    ``next_at(came, read)`` tells when the event after one comes that came and was read at those times.
    """
    gathering = Gathering()
    now = at = 100.0
    late: list[float] = []
    wakes = 0
    for _ in range(count):
        asked = now
        wakes += at > now
        now = max(now, at) + READ_SECONDS
        late.append(now - READ_SECONDS - at)
        pause = gathering.pause(asked, now, 1)
        wakes += pause > 0
        at = next_at(at, now)
        now += pause
    return late, wakes


@pytest.mark.parametrize("rate", [100, 200, 1000, 2000])
def test_a_busy_watch_is_woken_for_several_events_at_a_time(rate: int) -> None:
    late, wakes = follow(2000, lambda came, read: came + 1 / rate)
    assert wakes < 2000 * 0.75
    if rate >= 200:
        assert wakes < 2000 * 0.45
    assert max(late) <= MAX_SECONDS
    if rate == 1000:
        assert max(late) <= 2 * EVENTS / rate


@pytest.mark.parametrize("rate", [200, 1000])
def test_where_one_read_brings_all_that_has_come_it_is_no_other(rate: int) -> None:
    assert follow_merged(2000, rate) < 2000 * 0.45


@pytest.mark.parametrize("rate", [1, 10, 30])
def test_a_quiet_one_is_read_at_once(rate: int) -> None:
    late, wakes = follow(500, lambda came, read: came + 1 / rate)
    assert max(late) == 0
    assert wakes >= 499


def test_a_single_burst_is_not_held_up_at_its_beginning() -> None:
    late, _ = follow(3, lambda came, read: came + 0.001)
    assert late[0] == 0


def test_whoever_waits_for_each_event_to_be_seen_is_hardly_ever_held_up() -> None:
    late, _ = follow(3000, lambda came, read: read + 0.002)
    held_up = [seconds for seconds in late if seconds > 0]
    assert len(held_up) <= 8
    assert max(late) <= MAX_SECONDS


def test_events_that_become_many_again_are_gathered_again() -> None:
    changes = iter(range(10_000))
    _, wakes = follow(10_000, lambda came, read: read + 0.002 if next(changes) < 3000 else came + 0.001)
    assert wakes < 3000 + 1024 + 0.5 * 5976


def test_pauses_are_bounded() -> None:
    gathering = Gathering()
    now = 0.0
    for number in range(5000):
        asked, now = now, now + (0.0004 if number % 3 else 0.0001)
        pause = gathering.pause(asked, now, 1)
        assert pause == 0 or MIN_SECONDS <= pause <= MAX_SECONDS
        now += pause
