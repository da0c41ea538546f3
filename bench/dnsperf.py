"""Drive a server with dnsperf and read its figures; a figure of a server that answers wrongly is none."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.mixes import Mix
from bench.process import BenchError, LOAD_CPU, pinned, Process

MAX_LOST: Final = 0.001
"""The share of queries without an answer above which there is no figure: what is dropped costs nothing."""


class Run(msgspec.Struct, frozen=True):
    """One run: queries answered, lost, seconds, the server's CPU in µs a query (None: a server that is not ours to
    look into), and the seconds that answers took, where they were asked for."""

    answered: int
    lost: int
    seconds: float
    cpu_us: float | None
    latencies: tuple[float, ...] = ()

    @property
    def rate(self) -> float:
        """Queries a second."""
        return self.answered / self.seconds

    @property
    def cpu(self) -> float:
        """The CPU in µs a query, of a server that is ours to look into."""
        assert self.cpu_us is not None  # asked of our own processes alone
        return self.cpu_us


def program() -> str:
    """Return the path of dnsperf. Raises BenchError."""
    path = shutil.which("dnsperf")
    if path is None:
        raise BenchError("dnsperf is missing: Debian's package dnsperf has it")
    return path


def write_queries(path: Path, queries: Iterable[tuple[str, str]]) -> None:
    """Write dnsperf's input: a name and a type a line."""
    path.write_text("".join(f"{name} {rrtype}\n" for name, rrtype in queries))


def drive(
    server: Process | tuple[str, int],
    queries: Path,
    *,
    seconds: float = 0,
    once: bool = False,
    clients: int = 4,
    outstanding: int = 256,
    rate: int = 0,
    protocol: str = "udp",
    rcodes: frozenset[str] = frozenset(),
    max_lost: float = 1.0,
    times: bool = False,
    is_pinned: bool = True,
) -> Run:
    """Send *queries* over and over for *seconds*, or all of them *once*, at full speed or at *rate* a second.

    With *times* the run has the latency of each answer. Raises BenchError where more than *max_lost* of the queries
    have none, or an RCODE comes that is none of *rcodes* (if any are given).
    """
    host, port = ("127.0.0.1", server.port) if isinstance(server, Process) else server
    name = server.name if isinstance(server, Process) else f"{host} port {port}"
    command = [
        *(pinned(LOAD_CPU) if is_pinned else []), program(), "-s", host, "-p", str(port), "-d", str(queries),
        *(["-n", "1"] if once else ["-l", str(seconds)]),
        *(["-Q", str(rate)] if rate else []), *(["-v"] if times else []),
        "-m", protocol, "-c", str(clients), "-q", str(outstanding), "-t", "2",
    ]  # fmt: skip
    with tempfile.TemporaryFile("w+") as output:
        before = server.cpu_seconds() if isinstance(server, Process) else None
        try:
            done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, timeout=seconds + 600)
        except subprocess.TimeoutExpired as exc:
            raise BenchError(f"dnsperf against {name} did not end") from exc
        cpu = server.cpu_seconds() - before if isinstance(server, Process) and before is not None else None
        output.seek(0)
        latencies = tuple(_latencies(output)) if times else ()
        output.seek(0, 2)
        output.seek(max(0, output.tell() - 4096))
        told = output.read()
    figures = dict(re.findall(r"^\s+(Queries completed|Queries lost|Run time \(s\)):\s+([\d.]+)", told, re.M))
    if done.returncode or len(figures) < 3:
        raise BenchError(f"dnsperf against {name}: {done.stderr.strip() or told[-300:]}")
    answered, lost = int(float(figures["Queries completed"])), int(float(figures["Queries lost"]))
    if not answered:
        raise BenchError(f"{name} answered nothing")
    if lost > max_lost * (answered + lost):
        raise BenchError(f"{name} lost {lost:,} of {answered + lost:,} queries: no figure of it would mean anything")
    wrong = _wrong(told, rcodes) if rcodes else {}
    if wrong:
        texts = ", ".join(f"{count:,} × {rcode}" for rcode, count in wrong.items())
        raise BenchError(f"{name} answers wrongly: {texts}; expected {', '.join(sorted(rcodes))}")
    return Run(answered, lost, float(figures["Run time (s)"]), None if cpu is None else cpu / answered * 1e6, latencies)


def drive_mix(server: Process | tuple[str, int], mix: Mix, folder: Path, **more: object) -> Run:
    """Drive with a mix, whose RCODEs must be what a server that works answers."""
    path = folder / f"{mix.name}.txt"
    if not path.exists():
        write_queries(path, mix.questions)
    return drive(server, path, rcodes=mix.rcodes, **more)  # type: ignore[arg-type]  # drive's own options


_RCODES: Final = re.compile(r"Response codes:\s+(.*)")
_LATENCY: Final = re.compile(r"^> (\S+) \S+ \S+ ([\d.]+)$")


def _wrong(told: str, rcodes: frozenset[str]) -> dict[str, int]:
    match = _RCODES.search(told)
    counts = re.findall(r"(\w+) (\d+) \(", match[1]) if match is not None else []
    return {rcode: int(count) for rcode, count in counts if rcode not in rcodes}


def _latencies(lines: Iterable[str]) -> Iterable[float]:
    for line in lines:
        if (match := _LATENCY.match(line)) is not None:
            yield float(match[2])


def top_rate(runs: Sequence[Run]) -> float:
    """Return the highest rate of *runs*."""
    return max(run.rate for run in runs)
