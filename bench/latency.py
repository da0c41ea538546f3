"""Latency of a forwarder at a given rate: cached names with a share of misses, as a client on loopback sees it."""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.peers import compiled_reflector, forwarders, OUTSIDE_PROBE, reflector
from bench.process import BenchError, LOAD_CPU
from bench.report import percentiles, progress
from kdns.proto.message import make_question
from zones.names import Name

BURST_SECONDS: Final = 0.001
SETTLE_SECONDS: Final = 2.0
NAMES: Final = 1000


def run(folder: Path, *, rate: int, misses: float, seconds: float) -> list[dict[str, object]]:
    """Ask *rate* questions a second, the share *misses* of them for names that were never asked for."""
    binary = compiled_reflector(folder)
    if binary is None:
        raise BenchError("the upstream that answers the misses is a C program: Debian's package gcc compiles it")
    rows = []
    with reflector(binary, OUTSIDE_PROBE, name="upstream", cpu=LOAD_CPU) as upstream:
        contestants = forwarders(folder, upstream.port, peers=())
        for number, contestant in enumerate(contestants):
            with contestant.start() as server:
                progress(f"{number + 1}/{len(contestants)} {server.name} …")
                ask_at(server.port, rate, _questions(0.0, number), SETTLE_SECONDS)
                times, lost = ask_at(server.port, rate, _questions(misses, 1000 + number), seconds)
                rows.append(
                    {
                        "server": server.name,
                        "rate": rate,
                        "misses": misses,
                        "lost": lost,
                        **percentiles(times, scale=1000),
                    }
                )
    return rows


def _questions(misses: float, seed: int) -> Iterator[bytes]:
    source = random.Random(seed)
    cached = [question(f"name{number}.example.com") for number in range(NAMES)]
    while True:
        if source.random() < misses:
            yield question(f"x{source.getrandbits(48):012x}.example.com")
        else:
            yield cached[source.randrange(NAMES)]


def ask_at(port: int, rate: int, questions: Iterator[bytes], seconds: float) -> tuple[list[float], int]:
    """Ask *rate* of *questions* a second; return the seconds that each reply took, and how many never came."""
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


def question(name: str) -> bytes:
    """Return a question for an address, without its ID."""
    return make_question(b"\0\0", Name.from_text(name), 1, edns=False)[2:]
