"""What the resolvers of C libraries notice of it all: they try again by themselves, so they must lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.lab.lab import Asked, BY_CLUSTER, BY_NODE, kill_whole, Lab, needs_lab, WHO, worker_of
from tests.system.lab.lookups import build, COMPILERS

pytestmark = needs_lab

PROCESSES, RATE = 10, 6.7
"""In each pod: 67 lookups a second, some of which may wait while others go on."""


@pytest.fixture(scope="module", params=list(COMPILERS))
def look(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = build(request.param, tmp_path_factory.mktemp("look"))
    if found is None:
        pytest.skip(f"needs a compiler for {request.param}: Debian's packages gcc and musl-tools")
    return found


@contextmanager
def looking_up(node: Lab, program: Path, seconds: float) -> Iterator[Asked]:
    """All three pods look up at once while the block runs; then wait for them."""
    command = [str(program), WHO, str(PROCESSES), str(RATE), str(seconds)]
    processes = [subprocess.Popen([*pod.prefix(), *command], stdout=subprocess.PIPE, text=True) for pod in node.pods]
    asked = Asked()
    try:
        time.sleep(0.3)
        yield asked
    finally:
        for process in processes:
            out, _ = process.communicate(timeout=seconds + 60)
            for line in out.splitlines():
                at, took, who = line.split(maxsplit=2)
                asked.rows.append({"at": float(at), "seconds": float(took), "who": who})
    asked.rows.sort(key=lambda row: float(row["at"]))


def test_kills_hangs_a_stop_and_a_start_lose_no_lookup(node: Lab, look: Path) -> None:
    with node.running() as server:
        with looking_up(node, look, 12) as asked:
            for _ in range(10):
                os.kill(worker_of(server), signal.SIGKILL)
                time.sleep(0.4)
            os.kill(worker_of(server), signal.SIGSTOP)
            time.sleep(2)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(15) == 0
            again = node.nodelocal()
            node.wait_for_leases()
            time.sleep(0.5)
        node.end(again)
    assert asked.lost == []
    assert len(asked.rows) > 1_800
    assert asked.by(BY_NODE) + asked.by(BY_CLUSTER) == len(asked.rows)


def test_killed_whole_no_lookup_is_lost_and_the_cluster_answers(node: Lab, look: Path) -> None:
    with node.running() as server, looking_up(node, look, 6) as asked:
        time.sleep(1)
        kill_whole(server)
        killed = time.monotonic()
    assert asked.lost == []
    later = [row for row in asked.rows if row["at"] > killed + 0.5]
    assert len(later) > 600
    assert {row["who"] for row in later} == {BY_CLUSTER}
