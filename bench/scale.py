"""How kdns grows with the cluster: seconds and CPU to ready, memory at ready, after a load, in and after a relist."""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from bench.api import Remote
from bench.dnsperf import drive, write_queries
from bench.mixes import generated, make
from bench.peers import CLUSTER_PROBE
from bench.process import BenchError, free_port, Process
from bench.report import progress, Report

READY_SECONDS: Final = 300.0
SYNCED: Final = "synced after"

COLUMNS: Final = {
    "services": "Services",
    "ready_s": "s to ready",
    "cpu_s": "CPU s",
    "ready_mb": "MB at ready",
    "loaded_mb": "MB after a load",
    "relist_cpu_s": "CPU s of a relist",
    "peak_mb": "MB at most in it",
    "relisted_mb": "MB after it",
    "peak_ratio": "peak ÷ before",
    "json_mb": "MB of JSON",
}


def run(
    report: Report,
    folder: Path,
    *,
    sizes: Sequence[int],
    endpoints: int,
    headless: float,
    namespaces: int,
    flags: Sequence[str],
    load_seconds: float,
    seed: int,
) -> None:
    """Measure at each of *sizes* Services, of *endpoints* each, the share *headless* of them headless."""
    rows: list[dict[str, Any]] = []
    for services in sizes:
        with Remote() as api:
            progress(f"{services:,} Services: making them …")
            octets = api.ask(
                "cluster",
                services=services,
                endpoints=endpoints,
                headless=int(services * headless),
                namespaces=namespaces,
                seed=seed,
            )
            rows.append(_measured(folder, api, services, namespaces, flags, load_seconds))
            rows[-1]["json_mb"] = round(octets / 2**20, 1)
    report.table(f"{endpoints} endpoints each, {headless:.0%} headless", rows, columns=COLUMNS)
    _note_formula(report, rows, endpoints)
    with report.figure("Growth with the cluster", "Services", "MB resident", size=(9, 4.5)) as axes:
        x = [row["services"] for row in rows]
        for key, label in (("ready_mb", "at ready"), ("loaded_mb", "after a load"), ("peak_mb", "at most in a relist")):
            axes.plot(x, [row[key] for row in rows], marker="o", label=label)
        other = axes.twinx()
        if other:
            other.set_ylabel("CPU seconds to ready")
            other.plot(x, [row["cpu_s"] for row in rows], marker="x", linestyle="--", color="gray")
            axes.plot([], [], marker="x", linestyle="--", color="gray", label="CPU seconds to ready (right)")
        axes.legend()


def _measured(
    folder: Path, api: Remote, services: int, namespaces: int, flags: Sequence[str], load_seconds: float
) -> dict[str, Any]:
    # A headless Service has no reverse name of its own and, without endpoints, no name at all.
    known = generated(services, namespaces)
    asked = folder / f"{services}.txt"
    questions = make("cluster", known).questions
    write_queries(asked, questions)
    port, admin = free_port(), free_port()
    command = ["serve", "--api-server", api.url, "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"]
    command += ["--lameduck", "0"]
    progress(f"{services:,} Services: to ready …")
    began = time.monotonic()
    # The probe is answered once everything is known; the first headless Services have other answers.
    with Process("kdns", [sys.executable, "-m", "kdns", *command, *flags], port, CLUSTER_PROBE, waits=False) as server:
        _until(lambda: SYNCED in server.output(), server)  # which, unlike its admin pages, costs it nothing to look at
        if not ready(admin):
            raise BenchError("kdns says that it is synced, and is not ready")
        row: dict[str, Any] = {
            "services": services,
            "ready_s": round(time.monotonic() - began, 2),
            "cpu_s": round(server.cpu_seconds(), 2),
            "ready_mb": _megabytes(server),
        }
        progress(f"{services:,} Services: a load of {len(questions):,} questions …")
        drive(server, asked, seconds=load_seconds)
        drive(server, asked, seconds=load_seconds, protocol="tcp")
        row["loaded_mb"] = before = _megabytes(server)
        progress(f"{services:,} Services: a relist …")
        cpu, lists = server.cpu_seconds(), metric(admin, "kdns_lists_total")
        api.send("relist")
        peak = before
        deadline = time.monotonic() + READY_SECONDS
        quiet = 0
        while quiet < 10:  # a second of it, after the lists have come
            spent = server.cpu_seconds()
            time.sleep(0.1)
            peak = max(peak, _megabytes(server))
            is_quiet = server.cpu_seconds() - spent < 0.02
            quiet = quiet + 1 if is_quiet and metric(admin, "kdns_lists_total") >= lists + 3 else 0
            if time.monotonic() > deadline:
                raise BenchError("the relist did not end")
        api.answer()
        row["relist_cpu_s"] = round(server.cpu_seconds() - cpu, 2)
        row["peak_mb"] = peak
        row["relisted_mb"] = _megabytes(server)
        row["peak_ratio"] = round(peak / before, 2)
    return row


def _megabytes(server: Process) -> float:
    return round(server.resident_octets() / 2**20, 1)


def _note_formula(report: Report, rows: Sequence[dict[str, Any]], endpoints: int) -> None:
    """Tell what a Service costs, by the first and the last size."""
    if len(rows) < 2 or rows[-1]["services"] < 2 * rows[0]["services"]:
        return
    first, last = rows[0], rows[-1]
    more = last["services"] - first["services"]
    octets = (last["ready_mb"] - first["ready_mb"]) * 2**20 / more
    micros = (last["cpu_s"] - first["cpu_s"]) / more * 1e6
    report.note(
        f"a Service with {endpoints} endpoints costs {octets:,.0f} octets and {micros:,.0f} µs of CPU at the start, "
        f"beside {first['ready_mb'] - octets * first['services'] / 2**20:.0f} MB and "
        f"{first['cpu_s'] - micros * first['services'] / 1e6:.2f} s for the program itself"
    )


def ready(admin: int) -> bool:
    """Tell whether the program with that admin port is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def metric(admin: int, name: str) -> float:
    """Return a metric, added up over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)


def _until(holds: Callable[[], bool], server: Process) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not holds():
        server.check()
        if time.monotonic() > deadline:
            raise BenchError(f"{server.name} was not ready within {READY_SECONDS:g} s: {server.output()[-300:]}")
        time.sleep(0.02)
