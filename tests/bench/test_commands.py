"""``python -m bench``: real runs, short ones, and servers of which there is no figure to be had."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from bench.cluster import write_manifests
from tests.support.process import heed_ctrl_c, kdns

pytestmark = [
    pytest.mark.system,
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("dnsperf") is None, reason="needs Debian's package dnsperf"),
]


def bench(
    *arguments: str | Path, timeout: float = 120, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **(env or {})},
    )


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.json"
    write_manifests(path, 50, 2)
    return path


def load(
    out: Path, manifests: Path, port: int, *more: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return bench(
        "--out", out, "load", "--server", "127.0.0.1", "--port", str(port), "--manifests", manifests,
        "--seconds", "0.5", "--rounds", "1", *more, env=env,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mix", "protocol"),
    [("cluster", "udp"), ("nx-domain", "udp"), ("service", "tcp"), ("all", "udp"), ("pod-ip", "tcp")],
)
def test_a_load_on_kdns(mix: str, protocol: str, manifests: Path, tmp_path: Path) -> None:
    with kdns("--manifests", manifests, "--pods", "insecure") as server:
        done = load(tmp_path, manifests, server.port, "--mix", mix, "--protocol", protocol, "--rate", "2000")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "load.json").read_text())
    (row,) = written["tables"][f"127.0.0.1 port {server.port}"]
    assert (row["mix"], row["protocol"], row["lost"]) == (mix, protocol, 0)
    assert 1000 < row["rate_median"] < 3000
    assert 0 < row["p50_ms"] <= row["p99.9_ms"]
    assert (tmp_path / "load.png").exists()


def test_a_server_that_is_down(manifests: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        silent = load(tmp_path, manifests, port)
    assert (silent.returncode, silent.stderr.splitlines()[-1]) == (
        1,
        f"bench: 127.0.0.1 port {port} does not answer over udp within 3 s",
    )
    refused = load(tmp_path, manifests, port, "--protocol", "tcp")
    assert refused.returncode == 1
    assert "Connection refused" in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "load.json").exists()


def test_a_server_that_refuses(manifests: Path, tmp_path: Path) -> None:
    with kdns("--manifests", manifests, "--zone", "other.example") as server:
        done = load(tmp_path, manifests, server.port)
    assert done.returncode == 1
    assert "with REFUSED; expected NOERROR" in done.stderr
    assert not (tmp_path / "load.json").exists()


@contextmanager
def answering(answer: str) -> Iterator[int]:
    """A server that answers well at first, and then loses half of what comes, or says SERVFAIL to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.2)
        stop = threading.Event()

        def serve() -> None:
            count = 0
            while not stop.is_set():
                try:
                    wire, client = sock.recvfrom(4096)
                except TimeoutError:
                    continue
                count += 1
                if count > 60 and count % 2 and answer == "loses":
                    continue
                rcode = 2 if count > 60 and answer == "fails" else 0
                sock.sendto(wire[:2] + bytes((0x84, rcode)) + wire[4:6] + bytes(6) + wire[12:], client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(("answer", "told"), [("loses", "no figure of it would mean"), ("fails", "answers wrongly")])
def test_a_server_that_begins_well_and_then_does_not(answer: str, told: str, manifests: Path, tmp_path: Path) -> None:
    with answering(answer) as port:
        done = load(tmp_path, manifests, port, "--rate", "200")
    assert done.returncode == 1
    assert told in done.stderr
    assert not (tmp_path / "load.json").exists()


def test_what_is_missing_is_named_with_its_package(manifests: Path, tmp_path: Path) -> None:
    done = load(tmp_path, manifests, 9, env={"PATH": "/nowhere"})
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        "bench: dnsperf is missing: Debian's package dnsperf has it",
    )
    done = bench("load", "--server", "127.0.0.1", env={"HOME": str(tmp_path)})
    assert done.returncode == 1
    assert "give --manifests or --kubeconfig" in done.stderr


def test_compare_measures_what_it_finds(tmp_path: Path) -> None:
    for _ in range(3):
        done = bench(
            "--out", tmp_path, "compare", "--services", "100", "--seconds", "0.3", "--rounds", "1", timeout=300
        )
        if "no figure of it would mean anything" not in done.stderr:
            break  # a peer that lost too much on a machine that has no time for it: told, and tried again
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "compare.json").read_text())["tables"]
    rows = tables["Authorities, 100 Services"]
    assert {row["server"] for row in rows} >= {"kdns", "kdns, 2 workers"}
    assert {row["server"] for row in tables["Caching forwarders"]} >= {"nodelocal"}
    assert all(row["cpu_us"] > 0 for row in rows)
    assert (tmp_path / "compare.png").exists()


def test_scale_and_churn_come_to_an_end(tmp_path: Path) -> None:
    done = bench(
        "--out",
        tmp_path,
        "scale",
        "--services",
        "200",
        "--services",
        "400",
        "--endpoints",
        "3",
        "--load-seconds",
        "0.5",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (rows,) = json.loads((tmp_path / "scale.json").read_text())["tables"].values()
    assert [row["services"] for row in rows] == [200, 400]
    assert all(row["ready_mb"] <= row["peak_mb"] for row in rows)
    done = bench(
        "--out", tmp_path, "churn", "--services", "100", "--small", "10", "--large", "300", "--rate", "100",
        "--queries", "200", "--seconds", "1", "--cost-events", "50", "--flags=--workers 2", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "churn.json").read_text())["tables"]
    assert all(row["wrong"] == row["missing"] == 0 for row in tables["200 queries a second"])


def test_workers_share_what_they_are_asked(tmp_path: Path) -> None:
    done = bench(
        "--out", tmp_path, "workers", "--services", "50", "--rate", "2000", "--rounds", "2", "--seconds", "1",
        "--count", "2", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "workers.json").read_text())["tables"]["Workers, hot, 50 Services"]
    assert [(row["workers"], row["rate_each"], row["lost"]) for row in rows] == [(1, 2000, 0), (2, 2000, 0)]
    assert rows[0]["ratio"] == 1
    assert 1 <= rows[1]["share"] < 2
    assert (tmp_path / "workers.png").exists()


def test_a_rate_that_is_not_reached_gives_no_figure(tmp_path: Path) -> None:
    done = bench(
        "--out", tmp_path, "workers", "--services", "50", "--rate", "5000000", "--rounds", "1", "--seconds", "0.5",
        "--count", "1",
    )  # fmt: skip
    assert done.returncode == 1
    assert not list(tmp_path.iterdir())
    assert re.search(r"^bench: 1 worker(: 5,000,000 queries/s were asked for| lost )", done.stderr, re.M)


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "--out", str(tmp_path), "compare", "--services", "100"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    deadline = time.monotonic() + 60
    while len(psutil.Process(process.pid).children(recursive=True)) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 5
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().splitlines()[-1] == "bench: interrupted"
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []


@pytest.mark.parametrize(
    "arguments", [("scale", "--services", "0"), ("compare", "--rounds", "0"), ("compare", "--workers", "65")]
)
def test_counts_that_cannot_be_are_told_at_once(arguments: tuple[str, ...]) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert f"Invalid value for '{arguments[1]}': {arguments[2]} is not in the range" in done.stderr
