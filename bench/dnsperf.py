"""Drive a server with dnsperf and read its figures."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bench.process import BenchError, LOAD_CPU, pinned, Process


class Run(msgspec.Struct, frozen=True):
    """One run: queries answered, lost, seconds, and the server's CPU in µs a query."""

    answered: int
    lost: int
    seconds: float
    cpu_us: float

    @property
    def rate(self) -> float:
        """Queries a second."""
        return self.answered / self.seconds


def write_queries(path: Path, queries: Iterable[tuple[str, str]]) -> None:
    """Write dnsperf's input: a name and a type a line."""
    path.write_text("".join(f"{name} {rrtype}\n" for name, rrtype in queries))


def drive(
    server: Process, queries: Path, *, seconds: float = 0, once: bool = False, clients: int = 4, outstanding: int = 256
) -> Run:
    """Send *queries* over and over for *seconds* at full speed, or all of them *once*."""
    command = shutil.which("dnsperf")
    if command is None:
        raise BenchError("dnsperf is missing: Debian's package dnsperf has it")
    before = server.cpu_seconds()
    done = subprocess.run(
        [
            *pinned(LOAD_CPU), command, "-s", "127.0.0.1", "-p", str(server.port), "-d", str(queries),
            *(["-n", "1"] if once else ["-l", str(seconds)]),
            "-c", str(clients), "-q", str(outstanding), "-t", "2",
        ],
        capture_output=True,
        text=True,
        timeout=seconds + 600,
        check=False,
    )  # fmt: skip
    cpu = server.cpu_seconds() - before
    figures = dict(re.findall(r"^\s+(Queries completed|Queries lost|Run time \(s\)):\s+([\d.]+)", done.stdout, re.M))
    if done.returncode or len(figures) < 3:
        raise BenchError(f"dnsperf against {server.name}: {done.stderr.strip() or done.stdout[-300:]}")
    answered = int(float(figures["Queries completed"]))
    if not answered:
        raise BenchError(f"{server.name} answered nothing")
    return Run(answered, int(float(figures["Queries lost"])), float(figures["Run time (s)"]), cpu / answered * 1e6)
