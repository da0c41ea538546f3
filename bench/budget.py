"""Memory of nodelocal: at the start, and while names are asked for that nobody asks for again."""

from __future__ import annotations

import random
from pathlib import Path

from bench.dnsperf import drive, write_queries
from bench.peers import compiled_reflector, NODELOCAL, nodelocal_command, OUTSIDE_PROBE, reflector
from bench.process import BenchError, free_port, LOAD_CPU, Process
from bench.report import progress

MILLION = 1_000_000
STEP = 500_000


def run(folder: Path, *, millions: float, megabytes: int) -> list[dict[str, object]]:
    """Ask for *millions* of names, each once, with a cache of *megabytes*; return rows of memory."""
    binary = compiled_reflector(folder)
    if binary is None:
        raise BenchError("the upstream that answers the misses is a C program: Debian's package gcc compiles it")
    path = folder / "unique.txt"
    rows: list[dict[str, object]] = []
    port = free_port()
    with reflector(binary, OUTSIDE_PROBE, name="upstream", cpu=LOAD_CPU) as upstream:
        command = nodelocal_command(folder, port, upstream.port, "--cache-size", f"{megabytes}MiB")
        with Process(NODELOCAL, command, port, OUTSIDE_PROBE) as server:
            start = server.proportional_octets()
            rows.append(_row(0, 0, start, start, megabytes))
            for number in range(int(millions * MILLION / STEP)):
                source = random.Random(number)
                write_queries(path, ((f"x{source.getrandbits(60):x}.example.com", "A") for _ in range(STEP)))
                done = drive(server, path, once=True)
                rows.append(_row((number + 1) * STEP, done.lost, server.proportional_octets(), start, megabytes))
                progress(f"{rows[-1]['names']:,} names: {rows[-1]['pss_mb']} MB")
    return rows


def _row(names: int, lost: int, octets: int, start: int, budget: int) -> dict[str, object]:
    grown = (octets - start) / 2**20
    return {
        "names": names,
        "lost": lost,
        "pss_mb": round(octets / 2**20, 1),
        "grown_mb": round(grown, 1),
        "of_budget": round(grown / budget, 2),
    }
