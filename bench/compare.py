"""kdns, nodelocal and their peers side by side on the same names, beside the cost of the bare socket API.

All servers of a round are up at once, and each in turn gets its share of every mix, so that what the machine does
meanwhile meets all of them. Server and load generator have a processor each. CPU is user and system time of the whole
process tree; latencies are those at half of the server's own top speed.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.cluster import write_manifests
from bench.dnsperf import drive, Run, top_rate, write_queries
from bench.mixes import generated, make, Mix
from bench.peers import authorities, BASE, compiled_reflector, Contestant, forwarders, OUTSIDE_PROBE, Peer, reflector
from bench.process import BenchError, LOAD_CPU, Process
from bench.report import percentiles, progress, Report

WARM_SECONDS: Final = 2.0
WARM_PASSES: Final = 12
"""A server is warm when it was asked everything so often: whatever keeps answers keeps those that were asked for twice,
and of two workers each must have been asked, while it is chance which of them a question comes to."""
MAX_WARMINGS: Final = 12
"""Of ``WARM_SECONDS`` each, for one that is slow."""
CACHED: Final = "cached"
MISSED: Final = "forwarded miss"
TITLES: Final = {"hot": "hot names", "cluster": "four kinds of question", "nx-domain": "names that do not exist"}
TCP: Final = "hot names, TCP"

COLUMNS: Final = {
    "mix": "mix",
    "server": "server",
    "cpu_us": "µs CPU a query",
    "cpu_us_min": "min",
    "cpu_us_max": "max",
    "ratio": "× socket API",
    "rate": "queries/s",
    "lost": "lost",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "p99.9_ms": "p99.9 ms",
}

Results = dict[str, dict[str, list[Run]]]


def run(
    report: Report,
    folder: Path,
    *,
    what: str,
    services: int,
    seconds: float,
    rounds: int,
    workers: Sequence[int],
    peers: Sequence[Peer],
) -> None:
    """Measure the authorities, the forwarders, or both; report a table of each, and one picture of all."""
    rows: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    if what in ("all", "authorities"):
        rows += _authorities(report, folder, services, seconds, rounds, workers, peers, memory)
    if what in ("all", "forwarders"):
        rows += _forwarders(report, folder, seconds, rounds, peers, memory)
    report.table("Memory", memory)
    _draw(report, rows)


def _authorities(
    report: Report,
    folder: Path,
    services: int,
    seconds: float,
    rounds: int,
    workers: Sequence[int],
    peers: Sequence[Peer],
    memory: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    manifests = folder / "cluster.json"
    write_manifests(manifests, services, 0)
    known = generated(services)
    mixes = [make(name, known) for name in ("hot", "cluster", "nx-domain")]
    results: Results = {title: {} for title in (*(TITLES[mix.name] for mix in mixes), TCP)}
    latencies: dict[tuple[str, str], dict[str, float]] = {}
    with ExitStack() as stack:
        servers = _started(report, stack, authorities(folder, manifests, workers=workers, peers=peers), memory)
        for mix in mixes[:2]:
            _warm(servers, mix, folder, min(WARM_SECONDS, seconds))
        for turn in range(rounds):
            for mix in mixes:
                path = _queries(mix, folder, turn)
                for server in servers:
                    progress(f"round {turn + 1} of {rounds}: {server.name}, {TITLES[mix.name]} …")
                    rcodes = frozenset() if server.name == BASE else mix.rcodes
                    done = drive(server, path, seconds=seconds, rcodes=rcodes, max_lost=0.01)
                    results[TITLES[mix.name]].setdefault(server.name, []).append(done)
            for server in servers:
                if server.name != BASE:
                    progress(f"round {turn + 1} of {rounds}: {server.name}, {TCP} …")
                    hot = _queries(mixes[0], folder, 0)
                    results[TCP].setdefault(server.name, []).append(
                        drive(server, hot, seconds=seconds, protocol="tcp", rcodes=mixes[0].rcodes)
                    )
        for server in servers:
            for mix in mixes[:2]:
                top = top_rate(results[TITLES[mix.name]][server.name])
                latencies[TITLES[mix.name], server.name] = _latency(server, _queries(mix, folder, 0), top, seconds)
        _note_memory(servers, memory)
    rows = _rows(results, latencies)
    report.table(f"Authorities, {services:,} Services", rows, columns=COLUMNS)
    _note_tcp(report, results)
    return rows


def _forwarders(
    report: Report, folder: Path, seconds: float, rounds: int, peers: Sequence[Peer], memory: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    binary = compiled_reflector(folder)
    if binary is None:
        raise BenchError("the upstream that answers the misses is a C program: Debian's package gcc compiles it")
    cached = folder / "cached.txt"
    write_queries(cached, ((f"name{number}.example.com", "A") for number in range(1000)))
    results: Results = {CACHED: {}, MISSED: {}}
    latencies: dict[tuple[str, str], dict[str, float]] = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(reflector(binary, OUTSIDE_PROBE, name="upstream", cpu=LOAD_CPU))
        servers = _started(report, stack, forwarders(folder, upstream.port, peers=peers), memory)
        for server in servers:
            progress(f"warming {server.name} …")
            drive(server, cached, seconds=min(WARM_SECONDS, seconds))
        for turn in range(rounds):
            for server in servers:
                progress(f"round {turn + 1} of {rounds}: {server.name}, {CACHED} …")
                results[CACHED].setdefault(server.name, []).append(
                    drive(server, cached, seconds=seconds, max_lost=0.01)
                )
            for server in servers:
                progress(f"round {turn + 1} of {rounds}: {server.name}, {MISSED} …")
                source = random.Random(f"{turn} {server.name}")
                missed = folder / "missed.txt"
                count = int(130_000 * seconds)
                write_queries(missed, ((f"x{source.getrandbits(48):012x}.example.com", "A") for _ in range(count)))
                results[MISSED].setdefault(server.name, []).append(
                    drive(server, missed, seconds=seconds, max_lost=0.05)
                )
        for server in servers:
            top = top_rate(results[CACHED][server.name])
            latencies[CACHED, server.name] = _latency(server, cached, top, seconds)
        _note_memory(servers, memory)
    rows = _rows(results, latencies)
    report.table("Caching forwarders", rows, columns=COLUMNS)
    return rows


def _started(
    report: Report, stack: ExitStack, contestants: Sequence[Contestant], memory: list[dict[str, Any]]
) -> list[Process]:
    servers = []
    for contestant in contestants:
        progress(f"starting {contestant.name} …")
        server = stack.enter_context(contestant.start())
        if contestant.version:
            report.has_version(contestant.name, contestant.version)
        servers.append(server)
        memory.append({"server": server.name, "start_mb": _megabytes(server)})
    return servers


def _note_memory(servers: Sequence[Process], memory: list[dict[str, Any]]) -> None:
    """Note what they use after the load; pages shared by several processes of a server are divided between them."""
    for server in servers:
        row = next(row for row in memory if row["server"] == server.name and "after_mb" not in row)
        row["after_mb"] = _megabytes(server)


def _megabytes(server: Process) -> float:
    return round(server.proportional_octets() / 2**20, 1)


def _warm(servers: Sequence[Process], mix: Mix, folder: Path, seconds: float) -> None:
    path = _queries(mix, folder, 0)
    for server in servers:
        progress(f"warming {server.name}, {TITLES[mix.name]} …")
        left = WARM_PASSES * len(mix.questions)
        for _ in range(MAX_WARMINGS):
            left -= drive(server, path, seconds=seconds).answered
            if left <= 0:
                break


def _queries(mix: Mix, folder: Path, turn: int) -> Path:
    """Write a mix's questions, of missing names others in each turn."""
    path = folder / (f"{mix.name}-{turn}.txt" if mix.name == "nx-domain" else f"{mix.name}.txt")
    if not path.exists():
        questions = make(mix.name, generated(10), seed=turn).questions if mix.name == "nx-domain" else mix.questions
        write_queries(path, questions)
    return path


def _latency(server: Process, path: Path, top: float, seconds: float) -> dict[str, float]:
    progress(f"latency at half speed: {server.name} …")
    done = drive(server, path, seconds=seconds, rate=max(1, int(top / 2)), times=True)
    return percentiles(done.latencies, scale=1000)


def _rows(results: Results, latencies: dict[tuple[str, str], dict[str, float]]) -> list[dict[str, Any]]:
    rows = []
    for mix, by_server in results.items():
        base = results[TITLES["hot"] if mix == TCP else mix].get(BASE)
        floor = statistics.median(run.cpu for run in base) if base else None
        for name, runs in by_server.items():
            cpu = sorted(run.cpu for run in runs)
            median = statistics.median(cpu)
            rows.append(
                {
                    "mix": mix,
                    "server": name,
                    "cpu_us": round(median, 2),
                    "cpu_us_min": round(cpu[0], 2),
                    "cpu_us_max": round(cpu[-1], 2),
                    "ratio": round(median / floor, 2) if floor else None,
                    "rate": round(statistics.median(run.rate for run in runs)),
                    "lost": sum(run.lost for run in runs),
                    **latencies.get((mix, name), {}),
                }
            )
    return rows


def _note_tcp(report: Report, results: Results) -> None:
    for name, runs in results[TCP].items():
        udp = statistics.median(run.cpu for run in results[TITLES["hot"]][name])
        tcp = statistics.median(run.cpu for run in runs)
        report.note(f"{name}: over pipelined TCP {udp / tcp:.0%} of the queries that a second of CPU answers over UDP")


def _draw(report: Report, rows: Sequence[dict[str, Any]]) -> None:
    shown = [row for row in rows if row["ratio"] is not None and row["server"] != BASE]
    if not shown:
        return
    servers = list(dict.fromkeys(row["server"] for row in shown))
    mixes = list(dict.fromkeys(row["mix"] for row in shown))
    with report.figure("CPU a query", "", "multiple of the bare socket API", size=(11, 5)) as axes:
        width = 0.8 / len(servers)
        for at, server in enumerate(servers):
            some = [(mixes.index(row["mix"]), row["ratio"]) for row in shown if row["server"] == server]
            axes.bar([x + at * width for x, _ in some], [y for _, y in some], width, label=server)
        axes.set_xticks([x + 0.4 - width / 2 for x in range(len(mixes))], mixes, fontsize=8)
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.legend()
