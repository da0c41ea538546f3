"""What the benches ask, and what they make of figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import watch_traffic
from bench.cluster import write_manifests
from bench.mixes import generated, make, NAMES, read_cluster
from bench.peers import Peer
from bench.process import BenchError
from bench.report import percentiles, Report


@pytest.mark.parametrize("name", NAMES)
def test_a_mix_is_the_same_each_time_and_not_empty(name: str) -> None:
    known = generated(20)
    mix = make(name, known)
    assert mix.questions
    assert mix == make(name, known)
    assert mix.rcodes


def test_another_seed_asks_for_other_missing_names() -> None:
    known = generated(20)
    one, other = (set(make("nx-domain", known, seed=seed).questions) for seed in (1, 2))
    assert len(one) > 900_000
    assert len(one & other) < 100


def test_what_is_known_of_manifests_is_what_was_generated(tmp_path: Path) -> None:
    write_manifests(tmp_path / "cluster.json", 30, 2)
    known = read_cluster(manifests=[tmp_path], zone="cluster.local")
    assert sorted(known.services) == sorted(generated(30).services)
    assert len(known.pods) == 60


def test_a_cluster_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no Service"):
        read_cluster(manifests=[tmp_path], zone="cluster.local")
    with pytest.raises(BenchError, match="--zone"):
        read_cluster(manifests=[tmp_path], zone="a..b")
    (tmp_path / "bad.yaml").write_text("kind: Service\napiVersion: v1\nmetadata: {name: UPPER}\n")
    with pytest.raises(BenchError, match="UPPER"):
        read_cluster(manifests=[tmp_path], zone="cluster.local")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("coredns", "expected NAME=COMMAND"),
        ("=x {port} {zone}", "expected NAME=COMMAND"),
        ("x=coredns {zone}", "where {port} goes"),
        ("x=coredns {port}", "where {zone} goes, or {upstream}"),
        ("x=coredns {port} {zone} {upstream}", "where {zone} goes, or {upstream}"),
    ],
)
def test_a_peer_that_cannot_be_started_is_told(text: str, told: str) -> None:
    with pytest.raises(BenchError, match=told.replace("{", r"\{")):
        Peer.from_text(text)


def test_percentiles_are_of_what_was_measured() -> None:
    row = percentiles([number / 1000 for number in range(1000)], scale=1000)
    assert row == {"p50_ms": 500.0, "p99_ms": 990.0, "p99.9_ms": 999.0, "max_ms": 999.0}


def test_a_report_writes_its_figures_and_a_picture(tmp_path: Path) -> None:
    report = Report("trial", {"seed": 1}, out=tmp_path)
    report.table("Things", [{"name": "a", "p50_ms": 1.5, "count": 1000, "lacking": None}])
    report.note("said")
    with report.figure("title", "x", "y") as axes:
        axes.plot([1, 2], [3, 4])
    written = json.loads(report.write().read_text())
    assert written["tables"]["Things"][0]["p50_ms"] == 1.5
    assert written["parameters"] == {"seed": 1}
    assert written["notes"] == ["said"]
    assert written["machine"]["cpus"]
    assert written["versions"]["kdns"]
    assert (tmp_path / "trial.png").read_bytes().startswith(b"\x89PNG")


def test_watch_traffic_grows_as_it_must() -> None:
    """Slices cost a hundredth of the whole; what kdns is told does not depend on the nodes."""
    ways = {(way.title[0], way.service): way for way in watch_traffic.ways(5000, 3) if "cut" not in way.title}
    few, many = (
        {name: watch_traffic.rolling_octets(way, nodes, 0.2) for name, way in ways.items()} for nodes in (100, 10_000)
    )
    assert few["1", "any"].api > 20 * few["2", "any"].api
    assert many["2", "any"].api == 100 * few["2", "any"].api
    assert many["3", "any"].api == few["3", "any"].api == 3 * ways["3", "any"].rolling_events
    assert many["4", "cluster IP"] == (0, 0)
    assert 0 < few["4", "headless"].push == many["4", "headless"].push / 100
