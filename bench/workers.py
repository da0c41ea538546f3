"""What a query costs by the number of workers, each at the same load, on all of the machine's processors.

This is what workers are for: more of them for more queries. Nothing is kept on a processor of its own: the load
generator has to find a place between them, and where it has none left to itself it takes theirs.
"""

from __future__ import annotations

import os
import re
import statistics
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.cluster import write_manifests
from bench.dnsperf import drive, Run, write_queries
from bench.mixes import generated, make
from bench.peers import CLUSTER_PROBE, kdns_command
from bench.process import BenchError, free_port, Process
from bench.report import progress, Report

WARM_SECONDS: Final = 3.0
CLIENTS: Final = 16
"""Sockets that ask for each worker: the kernel deals them out, or each of their queries."""

COLUMNS: Final = {
    "workers": "workers",
    "rate_each": "queries/s each",
    "cpu_us": "µs CPU a query",
    "cpu_us_min": "min",
    "cpu_us_max": "max",
    "ratio": "× one worker",
    "share": "queries of the busiest ÷ idlest",
    "lost": "lost",
}


def run(
    report: Report,
    folder: Path,
    *,
    counts: Sequence[int],
    rates: Sequence[int],
    services: int,
    mix: str,
    seconds: float,
    rounds: int,
) -> None:
    """Measure kdns with each of *counts* workers at each of *rates* queries a second a worker; they take turns."""
    manifests = folder / "cluster.json"
    write_manifests(manifests, services, 0)
    made = make(mix, generated(services))
    path = folder / "queries.txt"
    write_queries(path, made.questions)
    counts = sorted({1, *counts})
    if max(counts) >= (os.cpu_count() or 1):
        report.note(f"{max(counts)} workers, what feeds them and the load generator share {os.cpu_count()} processors")
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        servers = [(count, *_started(stack, manifests, count)) for count in counts]
        for _, server, _ in servers:
            progress(f"warming {server.name} …")
            drive(server, path, seconds=min(WARM_SECONDS, 2 * seconds), is_pinned=False)
        for rate in rates:
            before = {count: _queries_by_worker(admin, count) for count, _, admin in servers}
            done: dict[int, list[Run]] = {count: [] for count in counts}
            for turn in range(rounds):
                for count, server, _ in servers:
                    progress(f"{rate:,} a second a worker, round {turn + 1} of {rounds}: {server.name} …")
                    one = drive(
                        server,
                        path,
                        seconds=seconds,
                        clients=min(CLIENTS * count, 250),
                        outstanding=256 * count,
                        rate=rate * count,
                        rcodes=made.rcodes,
                        max_lost=0.01,
                        is_pinned=False,
                    )
                    if one.rate < 0.9 * rate * count:
                        raise BenchError(
                            f"{server.name}: {rate * count:,} queries/s were asked for, {one.rate:,.0f} came"
                        )
                    done[count].append(one)
            for count, _, admin in servers:
                share = _share(before[count], _queries_by_worker(admin, count)) if count > 1 else None
                rows.append(_row(count, rate, done[count], done[1], share))
    report.table(f"Workers, {mix}, {services:,} Services", rows, columns=COLUMNS)
    with report.figure("CPU a query by the load of a worker", "queries a second a worker", "µs") as axes:
        for count in counts:
            its = [row for row in rows if row["workers"] == count]
            axes.plot([row["rate_each"] for row in its], [row["cpu_us"] for row in its], marker="o", label=f"{count}")
        axes.set_ylim(bottom=0)
        axes.legend(title="workers")


def _started(stack: ExitStack, manifests: Path, count: int) -> tuple[Process, int]:
    admin = free_port()
    command, port = kdns_command("--manifests", str(manifests), "--workers", str(count))
    command[command.index("--admin") + 1] = f"127.0.0.1:{admin}"
    name = f"{count} workers" if count > 1 else "1 worker"
    return stack.enter_context(Process(name, command, port, CLUSTER_PROBE, cpu=None)), admin


def _queries_by_worker(admin: int, count: int) -> dict[str, float]:
    """Return what each worker has answered; nothing where there is but one process."""
    if count == 1:
        return {}
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as reply:
        page = reply.read().decode()
    found = re.findall(r'^kdns_worker_queries\{worker="(\d+)"\} (\S+)$', page, re.M)
    if len(found) != count:
        raise BenchError(f"{len(found)} of {count} workers say what they have answered")
    return {worker: float(value) for worker, value in found}


def _share(before: dict[str, float], after: dict[str, float]) -> float:
    answered = [value - before[worker] for worker, value in after.items()]
    if min(answered) <= 0:
        raise BenchError("a worker answered nothing at all, or was replaced")
    return round(max(answered) / min(answered), 3)


def _row(count: int, rate: int, runs: Sequence[Run], base: Sequence[Run], share: float | None) -> dict[str, Any]:
    costs = [one.cpu for one in runs]
    if not min(one.cpu for one in base):
        raise BenchError(f"{rate:,} queries/s are too few, or too short, for the system's clock of CPU time")
    return {
        "workers": count,
        "rate_each": rate,
        "cpu_us": round(statistics.median(costs), 2),
        "cpu_us_min": round(min(costs), 2),
        "cpu_us_max": round(max(costs), 2),
        # Of runs next to each other: the machine changes more between rounds than the two differ.
        "ratio": round(statistics.median(one.cpu / other.cpu for one, other in zip(runs, base, strict=True)), 2),
        "share": share,
        "lost": sum(one.lost for one in runs),
    }
