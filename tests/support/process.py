"""A real ``kdns serve`` process on loopback, with free ports, ended whatever happens."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, IO

START_SECONDS = 30.0


class Kdns:
    """A running process of either program: its DNS port, its admin port, what it printed."""

    def __init__(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self.process = process
        self._output = output
        self.port = 0
        self.admin_port = 0

    def output(self) -> str:
        """Return what it printed so far, on both streams."""
        # Read by place: the process writes through the same open file, and must not be moved about in it.
        number = self._output.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")

    def wait_for(self, pattern: str, *, times: int = 1) -> re.Match[str]:
        """Wait until its output matches *pattern* that many times; return the first match."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            matches = list(re.finditer(pattern, self.output()))
            if len(matches) >= times:
                return matches[0]
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"no {pattern!r} ({times} times) in:\n{self.output()}")

    def page(self, path: str) -> tuple[int, str]:
        """GET a page of the admin endpoint."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until *holds* does."""
        wait_until(holds, lambda: self.output())

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(START_SECONDS)


def wait_until(holds: Callable[[], bool], tell: Callable[[], str] = str) -> None:
    """Wait until *holds* does; fail with what *tell* says."""
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not come to hold: {tell()}")
        time.sleep(0.005)


@contextmanager
def nodelocal(*arguments: str | Path, control: Path | None = None, **more: Any) -> Iterator[Kdns]:
    """Start ``nodelocal serve`` and wait until it answers; its control socket is at *control*, or in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = control or Path(folder) / "control.sock"
        with kdns("--control", path, *arguments, program="nodelocal", **more) as running:
            yield running


@contextmanager
def kdns(
    *arguments: str | Path,
    listen: Sequence[str] = ("127.0.0.1:0",),
    lameduck: int = 0,
    env: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
    wait: bool = True,
    program: str = "kdns",
) -> Iterator[Kdns]:
    """Start ``kdns serve`` and wait until it answers."""
    command = [*prefix, sys.executable, "-m", program, "serve", "--admin", "127.0.0.1:0", f"--lameduck={lameduck}"]
    for address in listen:
        command += ["--listen", address]
    command += map(str, arguments)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        )
        running = Kdns(process, output)
        try:
            if wait:
                running.port = int(running.wait_for(r"answering on \S+:(\d+) ")[1])
                running.admin_port = int(running.wait_for(r"readiness on http://\S+:(\d+)")[1])
            yield running
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def run_kdns(
    *arguments: str | Path, env: dict[str, str] | None = None, program: str = "kdns"
) -> subprocess.CompletedProcess[str]:
    """Run a program of ours to its end."""
    return subprocess.run(
        [sys.executable, "-m", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )


def heed_ctrl_c() -> None:
    """A shell's background job ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
