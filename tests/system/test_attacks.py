"""A good client beside each attack loses nothing. How soon it is answered is for ``python -m bench attacks`` to say."""

from __future__ import annotations

import random
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import psutil
import pytest

from tests.support.process import Kdns, kdns, nodelocal
from tests.support.upstream import Upstream

pytestmark = [pytest.mark.system, pytest.mark.peer]

QUESTIONS = 150
RATE = 100
ATTACK_SECONDS = 60
"""Longer than any good client takes to ask; the attack ends when it has."""
GOOD = [dns.message.make_query(f"{name}.default.svc.cluster.local.", "A").to_wire() for name in ("web", "db")]


def good_client(port: int, questions: int) -> tuple[int, int]:
    """Ask at a steady rate, each question once; return how many were answered, and how many not in the end."""
    waiting: set[bytes] = set()
    answered = sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        began = time.monotonic()
        while sent < questions or (waiting and time.monotonic() - began < questions / RATE + 3):
            while sent < min(questions, (time.monotonic() - began) * RATE):
                message_id = sent.to_bytes(2, "big")
                sock.send(message_id + GOOD[sent % 2][2:])
                waiting.add(message_id)
                sent += 1
            while select.select([sock], [], [], 0.005)[0]:
                reply = sock.recv(4096)
                answered += reply[:2] in waiting and reply[3] & 15 == 0
                waiting.discard(reply[:2])
    return answered, len(waiting)


@contextmanager
def attacker(command: list[str]) -> Iterator[None]:
    nice = shutil.which("nice")
    process = subprocess.Popen(
        [*([nice, "-n", "10"] if nice else []), *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(0.7)
        yield
        assert process.poll() is None, "the attack lasted"
    finally:
        process.kill()
        process.wait()


def tcp(kind: str, count: int) -> Callable[[Path, int], list[str]]:
    return lambda _, port: [
        sys.executable, "-m", "bench.attackers", kind, "127.0.0.1", str(port), str(ATTACK_SECONDS), str(count)
    ]  # fmt: skip


def flood(ending: str) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        path = folder / "names"
        source = random.Random(3)
        path.write_text("".join(f"x{source.getrandbits(48):012x}.{ending} A\n" for _ in range(200_000)))
        return [
            str(shutil.which("dnsperf")), "-s", "127.0.0.1", "-a", "127.0.0.2", "-p", str(port), "-d", str(path),
            "-l", str(ATTACK_SECONDS), "-Q", "30000", "-c", "8", "-q", "100000", "-t", "1",
        ]  # fmt: skip

    return command


needs_dnsperf = pytest.mark.skipif(shutil.which("dnsperf") is None, reason="needs Debian's package dnsperf")


@pytest.mark.parametrize(
    ("program", "make"),
    [
        pytest.param("kdns", flood("default.svc.cluster.local"), id="kdns-unique-names", marks=needs_dnsperf),
        pytest.param("nodelocal", flood("default.svc.cluster.local"), id="nodelocal-unique-names", marks=needs_dnsperf),
        pytest.param("nodelocal", flood("dead.test"), id="nodelocal-dead-upstream", marks=needs_dnsperf),
        pytest.param("kdns", tcp("slow", 1000), id="kdns-slow"),
        pytest.param("nodelocal", tcp("slow", 1000), id="nodelocal-slow"),
        pytest.param("kdns", tcp("deaf", 200), id="kdns-deaf"),
        pytest.param("nodelocal", tcp("deaf", 200), id="nodelocal-deaf"),
        pytest.param("kdns", tcp("short", 1000), id="kdns-short"),
        pytest.param("nodelocal", tcp("short", 1000), id="nodelocal-short"),
    ],
)
def test_a_good_client_beside(
    program: str, make: Callable[[Path, int], list[str]], manifests: Path, server: Kdns, tmp_path: Path
) -> None:
    with Upstream(lambda query, tcp: None) as dead:
        if program == "kdns":
            start = kdns("--manifests", manifests)
        else:
            start = nodelocal("--cluster", f"127.0.0.1:{server.port}", "--upstream", dead.text, "--min-ttl", "60")
        with start as attacked:
            good_client(attacked.port, 50)
            process = psutil.Process(attacked.process.pid)
            before = process.memory_info().rss
            with attacker(make(tmp_path, attacked.port)):
                answered, lost = good_client(attacked.port, QUESTIONS)
            assert lost <= 1
            assert answered >= QUESTIONS - 1
            assert process.memory_info().rss - before < 150 * 2**20
            assert "Traceback" not in attacked.output()
