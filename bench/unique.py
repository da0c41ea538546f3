"""Memory under names that are asked for once: it must come to rest."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Final

from bench.cluster import write_manifests
from bench.dnsperf import drive, write_queries
from bench.peers import CLUSTER_PROBE
from bench.process import free_port, Process
from bench.report import progress

MILLION: Final = 1_000_000
SERVICES: Final = 1_000


def run(folder: Path, millions: int) -> list[dict[str, object]]:
    """Ask for *millions* of names that do not exist, each once; return a row of memory for each million."""
    manifests, path = folder / "cluster.json", folder / "unique.txt"
    write_manifests(manifests, SERVICES, 10)
    port = free_port()
    command = [sys.executable, "-m", "kdns", "serve", "--manifests", str(manifests), "--listen", f"127.0.0.1:{port}"]
    rows: list[dict[str, object]] = []
    with Process("kdns", [*command, "--admin", "127.0.0.1:0"], port, CLUSTER_PROBE) as server:
        rows.append({"names": 0, "lost": 0, "resident_mb": _megabytes(server)})
        for number in range(millions):
            source = random.Random(number)
            write_queries(
                path, ((f"x{source.getrandbits(60):x}.ns{at % 10}.svc.cluster.local", "A") for at in range(MILLION))
            )
            done = drive(server, path, once=True)
            rows.append({"names": (number + 1) * MILLION, "lost": done.lost, "resident_mb": _megabytes(server)})
            progress(f"{number + 1} of {millions} million: {rows[-1]['resident_mb']} MB")
    return rows


def _megabytes(server: Process) -> float:
    return round(server.resident_octets() / 2**20, 1)
