"""What a query costs by the number of workers, each at the same load, on all of the machine's processors.

This is what workers are for: more of them for more queries. Nothing is kept on a processor of its own, and the load
generator has to find a place between them, as whoever asks would.
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
    if max(counts) > (os.cpu_count() or 1):
        report.note(f"{max(counts)} workers share {os.cpu_count()} processors: they wait for each other")
    done: dict[tuple[int, int], list[Run]] = {}
    shares: dict[int, float] = {}
    with ExitStack() as stack:
        servers = [(count, *_started(stack, manifests, count)) for count in counts]
        for _, server, _ in servers:
            progress(f"warming {server.name} …")
            drive(server, path, seconds=min(WARM_SECONDS, 2 * seconds), is_pinned=False)
        before = {count: _queries_by_worker(admin) for count, _, admin in servers}
        for rate in rates:
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
                    done.setdefault((count, rate), []).append(one)
        for count, _, admin in servers:
            shares[count] = _share(before[count], _queries_by_worker(admin))
    rows = [_row(count, rate, runs, done[counts[0], rate], shares[count]) for (count, rate), runs in done.items()]
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


def _queries_by_worker(admin: int) -> dict[str, float]:
    """Return what each worker has answered; nothing where there is but one process."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as reply:
        page = reply.read().decode()
    return {
        worker: float(value)
        for worker, value in re.findall(r'^kdns_worker_queries\{worker="(\d+)"\} (\S+)$', page, re.M)
    }


def _share(before: dict[str, float], after: dict[str, float]) -> float:
    answered = [value - before.get(worker, 0) for worker, value in after.items()] or [1.0]
    if not min(answered):
        raise BenchError("a worker answered nothing at all")
    return round(max(answered) / min(answered), 3)


def _row(count: int, rate: int, runs: Sequence[Run], base: Sequence[Run], share: float) -> dict[str, Any]:
    costs = [one.cpu for one in runs]
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
