"""Start a server to be measured, wait until it answers, read what it uses, end it whatever happens."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import psutil

from kdns.proto.message import make_question
from zones.names import Name

START_SECONDS: Final = 60.0


SERVER_CPU: Final = 0
LOAD_CPU: Final = 1
"""Server and load generator get a processor each: sharing one moves the load's work into the server's figures."""


def pinned(cpu: int | None) -> list[str]:
    """Return what to put before a command to keep it on one processor; nothing where there is only one, or no need."""
    command = shutil.which("taskset")
    return [command, "-c", str(cpu)] if command and cpu is not None and (os.cpu_count() or 1) > 1 else []


class BenchError(Exception):
    """What keeps a figure from being made; shown as one line."""


class Process:
    """A server process, with those it started."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        probe: Name,
        *,
        cwd: Path | None = None,
        cpu: int | None = SERVER_CPU,
        waits: bool = True,
    ) -> None:
        """*probe* is a name that has an address once the server is up; with *waits* entering waits for it. *cpu* is the
        processor that it is kept on, None: any."""
        self.name = name
        self.port = port
        self._command = list(command)
        self._probe = probe
        self._cwd = cwd
        self._cpu = cpu
        self._waits = waits
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process ends
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Process:
        try:
            self._process = subprocess.Popen(
                [*pinned(self._cpu), *self._command], stdout=self._output, stderr=subprocess.STDOUT, cwd=self._cwd
            )
        except OSError as exc:
            raise BenchError(f"{self.name}: {self._command[0]}: {exc.strerror}") from exc
        try:
            if self._waits:
                self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None  # inside its with block
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Return user and system seconds of the whole process tree so far."""
        total = 0.0
        for process in self._tree():
            times = process.cpu_times()
            total += times.user + times.system
        return total

    def resident_octets(self) -> int:
        """Return the resident memory of the whole process tree."""
        return sum(process.memory_info().rss for process in self._tree())

    def proportional_octets(self) -> int:
        """Return the memory of the process tree, shared pages divided by who shares them."""
        return sum(process.memory_full_info().pss for process in self._tree())

    def output(self) -> str:
        """Return what the process printed so far."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def check(self) -> None:
        """Raise BenchError if it has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise BenchError(f"{self.name} ended with status {self._process.returncode}: {self.output()[-500:]}")

    def _tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.pid)  # taskset becomes the server itself
        return [root, *root.children(recursive=True)]

    def _wait(self) -> None:
        assert self._process is not None  # started just before
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check()
            if answers(self.port, self._probe):
                return
            time.sleep(0.05)
        raise BenchError(f"{self.name} did not answer {self._probe} within {START_SECONDS:g} s: {self.output()[-500:]}")

    def _end(self) -> None:
        if self._process is not None:
            tree = self._tree() if self._process.poll() is None else []
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for left in tree[1:]:
                if left.is_running():
                    left.terminate()
        self._output.close()


def answers(port: int, name: Name) -> bool:
    """Tell whether the server at *port* of loopback gives *name* an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.3)
        try:
            sock.connect(("127.0.0.1", port))
            sock.send(make_question(b"kd", name, 1))
            reply = sock.recv(4096)
        except OSError:
            return False
    return reply[:2] == b"kd" and reply[3] & 15 == 0 and reply[7] > 0


def free_port() -> int:
    """Return a port that is free for UDP and TCP on loopback."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
