"""A short soak in the suite, and that one which sees something wrong says so."""

from __future__ import annotations

import pytest

from tests.soak.run import Result, Sample, soak
from tests.soak.world import NOTHING, Truth, World
from tests.support.kube import service
from tests.support.seed import SEED

pytestmark = pytest.mark.system


def test_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.soak.run.CALM_SECONDS", 8.0)
    result = soak(10, SEED, pause=0.4)
    assert result.problems() == [], f"seed {SEED}\n{result.text()}"
    assert sum(result.faults.values()) >= 5
    assert result.counts["asked"] > 400


def test_an_event_that_never_comes_is_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every change kept from the watches the programs must be found to answer what is not true any more."""

    def change(self: World) -> None:
        self.changes += 1
        number = self.changes % 20
        address = f"10.98.{self.changes % 250}.1"
        self._api.put(service(f"still{number}", address, namespace="ns0"), quietly=True)
        self.truth.set(f"still{number}.ns0.svc.cluster.local.", frozenset({address}))

    monkeypatch.setattr(World, "change", change)
    monkeypatch.setattr("tests.soak.run.CALM_SECONDS", 0.5)
    result = soak(5, SEED, pause=60)
    assert any(line.startswith("at rest, kdns: still") for line in result.problems())
    assert any(line.startswith("at rest, nodelocal: still") for line in result.problems())


def test_what_was_true_when() -> None:
    import time

    truth = Truth()
    one, other = frozenset({"10.0.0.1"}), frozenset({"10.0.0.2"})
    truth.set("a", one)
    time.sleep(0.02)
    between = time.monotonic()
    time.sleep(0.02)
    truth.set("a", other)
    assert truth.was("a", one, between)
    assert truth.was("a", other, between)
    assert not truth.was("a", NOTHING, between)
    assert not truth.was("a", one, time.monotonic())
    assert truth.was("a", NOTHING, between - 10), "before it was made"
    truth.forget(time.monotonic())
    assert truth.now("a") == other


def test_what_grows_is_a_problem() -> None:
    flat = [Sample(at, 50_000_000 + at % 7, 40, 8) for at in range(0, 600, 15)]
    grown = [Sample(at, 50_000_000 + at * 100_000, 40 + 3 * at, 8) for at in range(0, 600, 15)]
    assert Result(seconds=600, samples={"kdns": flat}).problems() == []
    found = Result(seconds=600, samples={"kdns": grown}).problems()
    assert found == ["kdns: memory grows by 6.00 MB a minute", "kdns: open files grow from 940 to 1795"]
