"""A good client beside each attack: how soon it is answered, what it loses, what the server's memory does.

The good client asks for names of the cluster and, of nodelocal, for names outside that are cached.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from bench.cluster import write_manifests
from bench.dnsperf import program, write_queries
from bench.latency import ask_at, question
from bench.peers import compiled_reflector, kdns_command, nodelocal_command, reflector
from bench.process import BenchError, free_port, LOAD_CPU, pinned, Process
from bench.report import percentiles, progress
from zones.names import Name

SERVICES: Final = 1_000
LARGE: Final = {"headless": 1, "namespaces": 10}
"""The first Service is headless, and has the addresses of all its endpoints as its answer."""
ENDPOINTS: Final = 200
GOOD_RATE: Final = 200
WARM_SECONDS: Final = 2.0
NAMES: Final = 400_000
MAX_P99_MS: Final = 20.0
MAX_LOST: Final = 0.001
PROBE: Final = Name.from_text("svc1.ns1.svc.cluster.local")


class Attack(msgspec.Struct, frozen=True):
    """An attack: its title, on which programs, and its command for a port of loopback."""

    title: str
    on: tuple[str, ...]
    command: Callable[[Path, int, float], list[str]]


def _names(path: Path, ending: str) -> Path:
    if not path.exists():
        source = random.Random(5)
        write_queries(path, ((f"x{source.getrandbits(60):015x}.{ending}", "A") for _ in range(NAMES)))
    return path


def _flood(rate: int, ending: str) -> Callable[[Path, int, float], list[str]]:
    def command(folder: Path, port: int, seconds: float) -> list[str]:
        path = _names(folder / f"{ending}.txt", ending)
        return [
            program(), "-s", "127.0.0.1", "-a", "127.0.0.2", "-p", str(port), "-d", str(path), "-l", str(seconds),
            "-Q", str(rate), "-c", "16", "-q", "200000", "-t", "1",
        ]  # fmt: skip

    return command


def _tcp(kind: str, count: int) -> Callable[[Path, int, float], list[str]]:
    return lambda _, port, seconds: [
        sys.executable, "-m", "bench.attackers", kind, "127.0.0.1", str(port), str(seconds), str(count),
    ]  # fmt: skip


BOTH: Final = ("kdns", "nodelocal")
ATTACKS: Final = (
    Attack("20,000 queries a second to a dead upstream", ("nodelocal",), _flood(20_000, "dead.test")),
    Attack("50,000 unique names a second, of the cluster", BOTH, _flood(50_000, "ns1.svc.cluster.local")),
    Attack("50,000 unique names a second, outside", ("nodelocal",), _flood(50_000, "example.com")),
    Attack("2,000 slow TCP clients", BOTH, _tcp("slow", 2_000)),
    Attack("500 TCP clients that never read", BOTH, _tcp("deaf", 500)),
    Attack("3,000 short TCP connections a second", BOTH, _tcp("short", 3_000)),
)


def run(folder: Path, *, seconds: float, flags: list[str]) -> list[dict[str, object]]:
    """Run each attack on each program for *seconds*, each against a server of its own started with *flags* besides."""
    manifests = folder / "cluster.json"
    write_manifests(manifests, SERVICES, ENDPOINTS, **LARGE)
    rows: list[dict[str, object]] = []
    for attack in ATTACKS:
        for name in attack.on:
            progress(f"{name}: {attack.title} …")
            with _server(name, folder, manifests, flags) as server:
                rows.append({"server": name, "attack": attack.title, **_measure(attack, server, folder, seconds)})
    return rows


@contextmanager
def _server(name: str, folder: Path, manifests: Path, flags: list[str]) -> Iterator[Process]:
    command, port = kdns_command("--manifests", str(manifests), *(flags if name == "kdns" else []))
    if name == "kdns":
        with Process(name, command, port, PROBE) as server:
            yield server
        return
    binary = compiled_reflector(folder)
    if binary is None:
        raise BenchError("the upstream is a C program: Debian's package gcc compiles it")
    dead = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # takes what comes, says nothing
    dead.bind(("127.0.0.1", 0))
    with (
        dead,
        Process("kdns", command, port, PROBE, cpu=LOAD_CPU),
        reflector(binary, Name.from_text("name0.example.com"), name="upstream", cpu=LOAD_CPU) as upstream,
    ):
        own = free_port()
        more = [
            "--min-ttl",
            "60",
            "--stub",
            f"dead.test=127.0.0.1:{dead.getsockname()[1]}",
            "--cluster",
            f"127.0.0.1:{port}",
            *flags,
        ]
        command = nodelocal_command(folder, own, upstream.port, *more)
        at = command.index("--cluster")
        del command[at : at + 2]
        with Process(name, command, own, PROBE) as server:
            yield server


@contextmanager
def _first() -> Iterator[None]:
    """Have this process run on the load's processor, before the attackers there: it is the server that is measured."""
    before = os.sched_getaffinity(0)
    policy = os.sched_getscheduler(0)
    try:
        if len(before) > 1:
            os.sched_setaffinity(0, {LOAD_CPU})
        with suppress(PermissionError):  # without root the attackers are polite, which is nearly as good
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        yield
    finally:
        with suppress(PermissionError):
            os.sched_setscheduler(0, policy, os.sched_param(0))
        os.sched_setaffinity(0, before)


def _questions(name: str, seed: int) -> Iterator[bytes]:
    source = random.Random(seed)
    while True:
        if name == "nodelocal" and source.random() < 0.5:
            yield question(f"name{source.randrange(100)}.example.com")
        else:
            number = source.randrange(1, 100)
            yield question(f"svc{number}.ns{number % 10}.svc.cluster.local")


def _measure(attack: Attack, server: Process, folder: Path, seconds: float) -> dict[str, object]:
    with _first():
        quiet, _ = ask_at(server.port, GOOD_RATE, _questions(server.name, 1), WARM_SECONDS)
    command = attack.command(folder, server.port, seconds + WARM_SECONDS)
    before = server.proportional_octets()
    memory: list[int] = []
    with tempfile.TemporaryFile("w+") as output:
        attacker = subprocess.Popen([*pinned(LOAD_CPU), "nice", "-n", "10", *command], stdout=output, stderr=output)
        try:
            over = threading.Event()
            watcher = threading.Thread(target=_watch, args=(server, memory, over))
            watcher.start()
            time.sleep(WARM_SECONDS / 2)
            with _first():
                times, lost = ask_at(server.port, GOOD_RATE, _questions(server.name, 2), seconds)
            over.set()
            watcher.join()
        finally:
            attacker.terminate()
            attacker.wait(20)
        server.check()
    half = len(memory) // 2
    figures = percentiles(times, scale=1000)
    share = lost / (len(times) + lost)
    return {
        "quiet_p99_ms": percentiles(quiet, scale=1000)["p99_ms"],
        **figures,
        "lost_percent": round(share * 100, 3),
        "before_mb": round(before / 1e6, 1),
        "half_way_mb": round(max(memory[: half + 1]) / 1e6, 1),
        "end_mb": round(max(memory[half:]) / 1e6, 1),
        "holds": figures["p99_ms"] <= MAX_P99_MS and share <= MAX_LOST,
    }


def _watch(server: Process, memory: list[int], over: threading.Event) -> None:
    while not over.wait(0.5):
        memory.append(server.proportional_octets())
    memory.append(server.proportional_octets())
