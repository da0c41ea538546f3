"""Buckets: what a client over its share gets."""

from __future__ import annotations

import pytest

from kdns.net.fairness import Fairness, MAX_CLIENTS, Verdict


@pytest.mark.parametrize(
    ("slip", "truncated", "dropped"), [(1, 100, 0), (2, 50, 50), (3, 33, 67), (0, 0, 100)], ids=lambda value: str(value)
)
def test_each_nth_over_the_share_is_told(slip: int, truncated: int, dropped: int) -> None:
    fairness = Fairness(5, slip)
    verdicts = [fairness.judge("192.0.2.1", 0.0, is_proven=False) for _ in range(110)]
    assert verdicts[:10] == [Verdict.ANSWER] * 10, "two seconds' worth"
    assert verdicts.count(Verdict.TRUNCATE) == truncated
    assert verdicts.count(Verdict.DROP) == fairness.dropped == dropped
    assert fairness.limited == 100


def test_a_bucket_fills_again() -> None:
    fairness = Fairness(5)
    for _ in range(11):
        fairness.judge("a", 0.0, is_proven=False)
    assert [fairness.judge("a", 1.0, is_proven=False) for _ in range(6)] == [Verdict.ANSWER] * 5 + [Verdict.TRUNCATE]
    assert fairness.judge("b", 1.0, is_proven=False) is Verdict.ANSWER


def test_who_is_proven_is_answered_and_counted() -> None:
    fairness = Fairness(1, 2)
    assert {fairness.judge("a", 0.0, is_proven=True) for _ in range(10)} == {Verdict.ANSWER}
    assert fairness.limited == 8
    assert fairness.dropped == 0


def test_a_flood_of_addresses_holds_bounded_memory() -> None:
    fairness = Fairness(1)
    for number in range(3 * MAX_CLIENTS):
        fairness.judge(str(number), 0.0, is_proven=False)
    assert len(fairness._buckets) == MAX_CLIENTS
