"""The programs, the faults, and what is measured meanwhile."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import IO

import dns.message
import psutil

from kdns.control.resource import Pace
from tests.soak.asker import Asker
from tests.soak.world import World
from tests.support.api_server import ApiServer
from tests.support.secondary import free_port
from tests.support.upstream import answer, Reply, Upstream

TTL = 2
CHANGES_A_SECOND = 10
CALM_EVERY, CALM_SECONDS = 40.0, 9.0
"""Every so often nothing happens for a while, and then every answer must be the one that is true now."""
GRACE_SECONDS = Pace().max_backoff + 3.0
"""What a fault of the API server may go on to cost: its clients wait before they try again, the longer the more there are in a row."""
SETTLED_SECONDS = 2.0
LONG_SECONDS = 600.0
"""Before that caches fill, and memory's slope says little."""
MAX_FILES = 700
"""Open files more than half way: nodelocal keeps up to 512 sockets for its next questions."""
START_SECONDS = 30.0


class Program:
    """One of the programs, as a process that is started again on the same ports."""

    def __init__(self, name: str, command: list[str], output: IO[bytes], prove: int) -> None:
        self.name = name
        self._command = command
        self._output = output
        self._prove = prove
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command, stdout=self._output, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )

    def again(self) -> None:
        """Start another of it; the one there is ends by itself, or has ended."""
        self.process = self._start()

    def wait(self) -> None:
        """Wait until it answers."""
        query = dns.message.make_query("still1.ns0.svc.cluster.local.", "A").to_wire()
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(0.3)
                sock.connect(("127.0.0.1", self._prove))
                with suppress(OSError):
                    sock.send(query)
                    if sock.recv(4096)[3] & 15 == 0:
                        return
                    time.sleep(0.05)
        raise AssertionError(f"{self.name} does not answer:\n{self.output()[-3000:]}")

    def output(self) -> str:
        """Return what it has printed."""
        number = self._output.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")

    def tree(self) -> list[psutil.Process]:
        """List its processes: itself, the one that forks, what that has forked."""
        whole = psutil.Process(self.process.pid)
        return [whole, *whole.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """List those that answer."""
        with suppress(psutil.Error):
            return [two for one in psutil.Process(self.process.pid).children() for two in one.children()]
        return []

    def end(self) -> None:
        """End it whatever it does."""
        with suppress(psutil.Error):
            for process in reversed(self.tree()):
                with suppress(psutil.Error):
                    process.resume()
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Sample:
    """Of one program at one time: seconds since the start, memory in octets, open files, threads."""

    at: float
    octets: int
    files: int
    threads: int


@dataclass
class Result:
    """What came of it."""

    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    changes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    happened: list[str] = field(default_factory=list)
    """Every fault, and when."""
    outputs: dict[str, str] = field(default_factory=dict)
    """What the programs printed."""

    def slope(self, name: str) -> float:
        """Return by how many MB a minute a program's memory grew, in the second half."""
        some = self.samples[name][len(self.samples[name]) // 2 :]
        if len(some) < 3:
            return 0.0
        mean_at, mean = sum(s.at for s in some) / len(some), sum(s.octets for s in some) / len(some)
        spread = sum((s.at - mean_at) ** 2 for s in some)
        return 60e-6 * sum((s.at - mean_at) * (s.octets - mean) for s in some) / spread if spread else 0.0

    def problems(self) -> list[str]:
        """List all that must not be."""
        found = [*self.wrong, *self.missing, *self.broken]
        for name, samples in self.samples.items():
            half = samples[len(samples) // 2 :]
            if self.slope(name) > (1.0 if self.seconds >= LONG_SECONDS else 40.0):
                found.append(f"{name}: memory grows by {self.slope(name):.2f} MB a minute")
            if half and half[-1].files > half[0].files + MAX_FILES:
                found.append(f"{name}: open files grow from {half[0].files} to {half[-1].files}")
            if half and half[-1].threads > half[0].threads + 40:
                found.append(f"{name}: threads grow from {half[0].threads} to {half[-1].threads}")
        return found

    def text(self) -> str:
        """Return it as lines."""
        lines = [
            f"{self.seconds:.0f} s, {self.changes:,} changes, {sum(self.faults.values()):,} faults",
            *(f"  {count:>5}  {name}" for name, count in sorted(self.faults.items())),
            f"{self.counts['asked']:,} questions: {len(self.wrong)} wrong answers, {len(self.missing)} without an answer",
            f"  single tries lost: {self.counts['tries lost']:,}, failed: {self.counts['tries failed']:,}; tried again",
        ]
        for name, samples in self.samples.items():
            if samples:
                last = samples[-1]
                lines.append(
                    f"{name}: {last.octets / 1e6:.1f} MB, {self.slope(name):+.2f} MB a minute; {last.files} open files "
                    f"(at first {samples[0].files}), {last.threads} threads (at first {samples[0].threads})"
                )
        return "\n".join(lines)


class Soak:
    """One run."""

    def __init__(self, stack: ExitStack, seed: int) -> None:
        self.random = random.Random(seed)
        self.api = stack.enter_context(ApiServer())
        self.world = World(self.api, self.random)
        self.outside_is_silent = False
        self.outside = stack.enter_context(Upstream(self._outside))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "run").mkdir(mode=0o700)
        self.kdns_port, self.node_port = free_port(), free_port()
        self._doubt_lock = threading.Lock()
        self.in_doubt_since: float | None = None
        self.in_doubt_until = 0.0
        self.stale_until = 0.0
        kdns = [
            sys.executable, "-m", "kdns", "serve", "--api-server", self.api.url, "--ttl", str(TTL), "--workers", "2",
            "--listen", f"127.0.0.1:{self.kdns_port}", "--admin", "127.0.0.1:0", "--lameduck", "0", "--push", "tcp",
            "--state-dir", str(folder), "--compare-every", "20", "--ready-when-stale",
        ]  # fmt: skip
        node = [
            sys.executable, "-m", "nodelocal", "serve", "--supervise", "--listen", f"127.0.0.1:{self.node_port}",
            "--admin", "127.0.0.1:0", "--control", str(folder / "run" / "control.sock"), "--lameduck", "0",
            "--cluster", f"127.0.0.1:{self.kdns_port}", "--upstream", self.outside.text,
        ]  # fmt: skip
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]  # noqa: SIM115 - the stack closes them
        self.kdns = Program("kdns", kdns, outputs[0], self.kdns_port)
        stack.callback(lambda: self.kdns.end())
        self.kdns.wait()
        self.node = Program("nodelocal", node, outputs[1], self.node_port)
        stack.callback(lambda: self.node.end())
        self.node.wait()
        self.faults: dict[str, Callable[[], None]] = {
            "api restart": self._api_restart, "api watches cut": self._api_cut, "api history compacted": self._api_compact,
            "api 403": lambda: self._api_fault(403), "api 429": lambda: self._api_fault(429),
            "api 500": lambda: self._api_fault(500), "api garbage": lambda: self._api_fault(200),
            "kdns worker killed": lambda: self._kill(self.kdns), "kdns worker stopped": lambda: self._stop(self.kdns, 0.8),
            "nodelocal worker killed": lambda: self._kill(self.node),
            "nodelocal worker hangs": lambda: self._stop(self.node, 2.0),
            "outside silent": self._outside_silent, "flood at kdns": lambda: self._flood(self.kdns_port),
            "flood at nodelocal": lambda: self._flood(self.node_port), "garbage packets": self._garbage,
            "tcp connections reset": self._resets, "kdns restarted": self._kdns_again,
            "kdns restarted without the api": self._kdns_again_without_api, "nodelocal handed over": self._hand_over,
        }  # fmt: skip

    def doubt(self) -> float:
        """Return how many seconds back what was true is still right of kdns."""
        with self._doubt_lock:
            now = time.monotonic()
            if self.in_doubt_since is None:
                return SETTLED_SECONDS
            back = now - self.in_doubt_since + SETTLED_SECONDS
            if now > self.in_doubt_until:
                self.in_doubt_since = None
            return back

    def doubt_of_node(self) -> float:
        """Return the same of nodelocal: a cache."""
        return self.doubt() + TTL + 1.0 + max(self.stale_until - time.monotonic(), 0.0)

    def _in_doubt(self, seconds: float) -> None:
        with self._doubt_lock:
            now = time.monotonic()
            if self.in_doubt_since is None:
                self.in_doubt_since = now
            self.in_doubt_until = max(self.in_doubt_until, now + seconds + GRACE_SECONDS)

    # -- faults -----------------------------------------------------------------------------------------------------

    def _api_restart(self) -> None:
        self._in_doubt(1.5)
        self.api.stop()
        time.sleep(self.random.uniform(0.1, 1.2))
        self.api.start(forbidden_seconds=0.05)

    def _api_cut(self) -> None:
        self._in_doubt(0)
        self.api.cut()

    def _api_compact(self) -> None:
        self._in_doubt(0)
        self.api.compact()

    def _api_fault(self, status: int) -> None:
        self._in_doubt(1.5)
        headers = {"Retry-After": "1"} if status == 429 else {}
        body = b"<html>not an API</html>" if status == 200 else b"{}"
        self.api.fault = lambda path: (status, headers, body)
        self.api.cut()
        time.sleep(self.random.uniform(0.2, 1.2))
        self.api.fault = lambda path: None

    def _kill(self, program: Program) -> None:
        if workers := program.workers():
            with suppress(psutil.Error):
                self.random.choice(workers).kill()

    def _stop(self, program: Program, seconds: float) -> None:
        if workers := program.workers():
            worker = self.random.choice(workers)
            self._in_doubt(seconds)
            with suppress(psutil.Error):
                worker.suspend()
                time.sleep(seconds)
                worker.resume()

    def _outside(self, query: dns.message.Message, tcp: bool) -> Reply:
        return None if self.outside_is_silent else answer(query, f"{query.question[0].name} 5 IN A 192.0.2.1").to_wire()

    def _outside_silent(self) -> None:
        self.outside_is_silent = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(200):
                query = dns.message.make_query(f"o{number}x{self.random.random()}.example.com.", "A").to_wire()
                sock.sendto(query, ("127.0.0.1", self.node_port))
        time.sleep(0.5)
        self.outside_is_silent = False

    def _flood(self, port: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            head = dns.message.make_query("x.ns0.svc.cluster.local.", "A").to_wire()
            for number in range(3_000):
                label = b"\x08" + b"%08x" % self.random.getrandbits(32)
                sock.sendto(number.to_bytes(2, "big") + head[2:12] + label + head[14:], ("127.0.0.1", port))

    def _garbage(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(300):
                octets = self.random.randbytes(self.random.randrange(80))
                for port in (self.kdns_port, self.node_port):
                    sock.sendto(octets, ("127.0.0.1", port))

    def _resets(self) -> None:
        for port in (self.kdns_port, self.node_port):
            some = []
            for _ in range(40):
                with suppress(OSError):
                    sock = socket.create_connection(("127.0.0.1", port), 2)
                    some.append(sock)
                    sock.sendall(self.random.randbytes(self.random.randrange(1, 60)))
            for sock in some:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.close()

    def _kdns_again(self) -> None:
        self._in_doubt_for_a_snapshot()
        self.stale_until = time.monotonic() + 8.0
        self.kdns.process.send_signal(signal.SIGTERM)
        self.kdns.process.wait(20)
        self.kdns.again()
        self.kdns.wait()
        self.in_doubt_until = time.monotonic() + GRACE_SECONDS

    def _in_doubt_for_a_snapshot(self) -> None:
        """What is answered at first is up to a minute old."""
        self._in_doubt(START_SECONDS)
        self.in_doubt_since = min(self.in_doubt_since or inf, time.monotonic() - 65.0)

    def _kdns_again_without_api(self) -> None:
        self._in_doubt_for_a_snapshot()
        self.stale_until = time.monotonic() + 8.0
        self.api.stop()
        try:
            self.kdns.process.send_signal(signal.SIGTERM)
            self.kdns.process.wait(20)
            self.kdns.again()
            self.kdns.wait()
        finally:
            self.api.start()
        self.in_doubt_until = time.monotonic() + GRACE_SECONDS

    def _hand_over(self) -> None:
        first = self.node.process
        self.node.again()
        first.wait(40)


def soak(seconds: float, seed: int, *, pause: float, tell: Callable[[str], None] = lambda line: None) -> Result:
    """Run it; with *pause* seconds from one fault to the next, about."""
    result = Result(seconds=seconds)
    with ExitStack() as stack:
        run = Soak(stack, seed)
        askers = [
            Asker("kdns", run.kdns_port, run.world.truth, run.doubt, seed + 1),
            Asker("nodelocal", run.node_port, run.world.truth, run.doubt_of_node, seed + 2),
        ]
        began = time.monotonic()
        for asker in askers:
            asker.start()
        fault_at, calm_at, told_at, changed = began + 1.0, began + CALM_EVERY, began, 0
        while (now := time.monotonic()) < began + seconds:
            if now > calm_at:
                _calm(run, askers, result, tell)
                calm_at = time.monotonic() + CALM_EVERY
                changed = int((time.monotonic() - began) * CHANGES_A_SECOND)
                continue
            while changed < (now - began) * CHANGES_A_SECOND:
                run.world.change()
                changed += 1
            if now > fault_at:
                name = run.random.choice(list(run.faults))
                result.faults[name] += 1
                run.faults[name]()
                result.happened.append(f"{now - began:.1f} to {time.monotonic() - began:.1f} s: {name}")
                fault_at = time.monotonic() + run.random.uniform(0.2, 1.8) * pause
            if now > told_at:
                told_at = now + 15.0
                _sample(run, result, now - began)
                run.world.truth.forget(now - 300)
                asked = sum(asker.counts["asked"] for asker in askers)
                tell(f"soak: {now - began:.0f} s, {sum(result.faults.values())} faults, {asked:,} questions")
            time.sleep(0.01)
        _calm(run, askers, result, tell)
        for asker in askers:
            asker.end()
            result.counts += asker.counts
            result.wrong += asker.wrong
            result.missing += asker.missing
        result.changes = run.world.changes
        result.seconds = time.monotonic() - began
        _sample(run, result, result.seconds)
        for program in (run.kdns, run.node):
            result.outputs[program.name] = program.output()
            if program.process.poll() is not None:
                result.broken.append(f"{program.name} has ended with status {program.process.returncode}")
            if "Traceback" in program.output():
                result.broken.append(f"{program.name}: {program.output().split('Traceback', 1)[1][:1500]}")
    return result


def _calm(run: Soak, askers: list[Asker], result: Result, tell: Callable[[str], None]) -> None:
    """Let it come to rest; then every name must have the one answer that is true."""
    time.sleep(CALM_SECONDS)
    for asker in askers:
        for name in run.world.truth.names():
            found, wanted = asker.ask(name, over_tcp=False), run.world.truth.now(name)
            if found != wanted:
                shown = sorted(found) if isinstance(found, frozenset) else found
                result.wrong.append(f"at rest, {asker.title}: {name}: {shown}; true is {sorted(wanted)}")
    if result.wrong:
        tell(f"soak: {len(result.wrong)} wrong answers so far")


def _sample(run: Soak, result: Result, at: float) -> None:
    for program in (run.kdns, run.node):
        octets = files = threads = 0
        with suppress(psutil.Error):
            for process in program.tree():
                octets += process.memory_full_info().pss
                files += process.num_fds()
                threads += process.num_threads()
            result.samples.setdefault(program.name, []).append(Sample(at, octets, files, threads))
