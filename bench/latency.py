"""Latency of a forwarder at a given rate: cached names with a share of misses, as a client on loopback sees it."""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from bench.forward import NAMES, PROBE, queries_cached, servers
from bench.process import BenchError, LOAD_CPU, Process
from bench.udp import compiled_reflector, reflector
from kdns.proto.message import make_question
from zones.names import Name

BURST_SECONDS: Final = 0.001
SETTLE_SECONDS: Final = 2.0


def run(folder: Path, *, rate: int, misses: float, seconds: float) -> list[dict[str, object]]:
    """Ask *rate* questions a second, the share *misses* of them for names that were never asked for."""
    binary = compiled_reflector(folder)
    if binary is None:
        raise BenchError("the upstream that answers the misses is a C program: Debian's package gcc compiles it")
    rows = []
    with reflector(binary, PROBE, name="upstream", cpu=LOAD_CPU) as upstream:
        makers: list[Callable[[], Process]] = [partial(reflector, binary, PROBE), *servers(folder, upstream.port)]
        for number, start in enumerate(makers):
            with start() as server:
                print(f"  {number + 1}/{len(makers)} {server.name} …", flush=True)
                _drive(server.port, rate, 0.0, SETTLE_SECONDS, seed=number)
                times, lost = _drive(server.port, rate, misses, seconds, seed=1000 + number)
                rows.append(
                    {"server": server.name, "rate": rate, "misses": misses, "lost": lost, **_percentiles(times)}
                )
    return rows


def _questions(misses: float, seed: int) -> Iterator[bytes]:
    source = random.Random(seed)
    cached = [make_question(b"\0\0", Name.from_text(name), 1, edns=False)[2:] for name, _ in queries_cached()]
    while True:
        if source.random() < misses:
            name = Name.from_text(f"x{source.getrandbits(48):012x}.example.com")
            yield make_question(b"\0\0", name, 1, edns=False)[2:]
        else:
            yield cached[source.randrange(NAMES)]


def _drive(port: int, rate: int, misses: float, seconds: float, *, seed: int) -> tuple[list[float], int]:
    """Return the seconds that each reply took, and how many never came."""
    questions = _questions(misses, seed)
    waiting: dict[int, float] = {}
    times: list[float] = []
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        began = time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds + 1.0:
            while passed < seconds and sent < passed * rate:
                number = sent & 0xFFFF
                sock.send(number.to_bytes(2, "big") + next(questions))
                waiting[number] = time.perf_counter()
                sent += 1
            readable, _, _ = select.select([sock], [], [], BURST_SECONDS if passed < seconds else 0.1)
            while readable:
                try:
                    reply = sock.recv(4096)
                except BlockingIOError:
                    break
                now = time.perf_counter()
                if (at := waiting.pop(reply[0] << 8 | reply[1], None)) is not None:
                    times.append(now - at)
            if passed >= seconds and not waiting:
                break
    return times, len(waiting)


def _percentiles(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        title: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 2)
        for title, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("p999_ms", 0.999), ("max_ms", 1.0))
    }


def table(rows: list[dict[str, object]]) -> None:
    """Print *rows* for a person."""
    titles = ("server", "queries/s", "misses", "lost", "p50 ms", "p99 ms", "p99.9 ms", "max ms")
    print("\n{:16} {:>10} {:>7} {:>6} {:>8} {:>8} {:>9} {:>8}".format(*titles))
    for row in rows:
        print(
            f"{row['server']:16} {row['rate']:>10} {row['misses']:>7} {row['lost']:>6} {row['p50_ms']:>8} "
            f"{row['p99_ms']:>8} {row['p999_ms']:>9} {row['max_ms']:>8}"
        )
