"""Drive any DNS server with dnsperf, on names of a cluster: what a user runs before and after a change."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

import dns.exception
import dns.message
import dns.query
import dns.rcode

from bench.dnsperf import drive_mix, program, Run
from bench.mixes import Mix
from bench.process import BenchError
from bench.report import percentiles, progress, Report, spread, version_of

SAMPLE: Final = 50
"""Questions asked one by one before the load: a server that answers them wrongly is told at once."""
WARM_SECONDS: Final = 2.0
MAX_LOST: Final = 0.001
PROBE_SECONDS: Final = 3.0


def run(
    report: Report,
    folder: Path,
    mix: Mix,
    *,
    server: str,
    port: int,
    protocol: str,
    rate: int,
    seconds: float,
    rounds: int,
    clients: int,
    outstanding: int,
) -> None:
    """Measure *server* with *mix*, *rounds* times; *rate* 0 is full speed. Raises BenchError."""
    program()
    check(server, port, mix, protocol)
    report.has_version("dnsperf", version_of(["dnsperf", "-h"]))
    target = server, port
    options = {"protocol": protocol, "clients": clients, "outstanding": outstanding, "is_pinned": False}
    progress(f"warming: {WARM_SECONDS:g} s …")
    drive_mix(target, mix, folder, seconds=WARM_SECONDS, rate=rate, **options)
    runs: list[Run] = []
    for turn in range(rounds):
        progress(f"round {turn + 1} of {rounds}: {seconds:g} s …")
        runs.append(drive_mix(target, mix, folder, seconds=seconds, rate=rate, max_lost=MAX_LOST, **options))
    progress("latencies …")
    calm = rate or max(1, int(max(run.rate for run in runs) / 2))
    timed = drive_mix(target, mix, folder, seconds=seconds, rate=calm, times=True, max_lost=MAX_LOST, **options)
    rows: list[dict[str, Any]] = [
        {
            "mix": mix.name,
            "protocol": protocol,
            **{f"rate_{key}": value for key, value in spread([run.rate for run in runs], 0).items()},
            "lost": sum(run.lost for run in runs),
            "at_rate": calm,
            **percentiles(timed.latencies, scale=1000),
        }
    ]
    report.table(
        f"{server} port {port}",
        rows,
        columns={
            "mix": "mix", "protocol": "over", "rate_median": "queries/s", "rate_min": "min", "rate_max": "max",
            "lost": "lost", "at_rate": "at queries/s", "p50_ms": "p50 ms", "p99_ms": "p99 ms",
            "p99.9_ms": "p99.9 ms", "max_ms": "max ms",
        },
    )  # fmt: skip
    ordered = sorted(timed.latencies)
    with report.figure(f"{mix.name}, {calm:,} queries a second over {protocol}", "milliseconds", "share") as axes:
        axes.plot(
            [value * 1000 for value in ordered], [(at + 1) / len(ordered) for at in range(len(ordered))], linewidth=1.5
        )
        axes.set_xscale("log")


def check(server: str, port: int, mix: Mix, protocol: str) -> None:
    """Ask some of the questions one by one. Raises BenchError for a server that is down, refuses or answers wrongly."""
    step = max(1, len(mix.questions) // SAMPLE)
    try:
        host = socket.getaddrinfo(server, port, type=socket.SOCK_DGRAM)[0][4][0]
    except OSError as exc:
        raise BenchError(f"{server}: {exc.strerror}") from exc
    for name, rrtype in mix.questions[::step][:SAMPLE]:
        query = dns.message.make_query(name, rrtype)
        ask = dns.query.tcp if protocol == "tcp" else dns.query.udp
        try:
            reply = ask(query, str(host), port=port, timeout=PROBE_SECONDS)
        except dns.exception.Timeout as exc:
            raise BenchError(
                f"{server} port {port} does not answer over {protocol} within {PROBE_SECONDS:g} s"
            ) from exc
        except OSError as exc:
            raise BenchError(f"{server} port {port} over {protocol}: {exc.strerror or exc}") from exc
        except (dns.exception.DNSException, EOFError) as exc:
            raise BenchError(f"{server} port {port} over {protocol} says nothing that can be read: {exc!r}") from exc
        rcode = dns.rcode.to_text(reply.rcode())
        if rcode not in mix.rcodes:
            expected = " or ".join(sorted(mix.rcodes))
            raise BenchError(f"{server} port {port} answers {name} {rrtype} with {rcode}; expected {expected}")
