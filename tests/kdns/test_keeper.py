"""The keeper with generations that do what a test wants: what hangs, what cannot be forked, what dies at a bad time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

SCRIPT = """
import json, logging, os, signal, socket, sys, time
from pathlib import Path
import msgspec
from kdns import keeper
from kdns.reload import ConfigFile

class Config(msgspec.Struct, frozen=True):
    says: str
    lameduck: float = 0.0

def load():
    says, *seconds = file.read_text().split()
    return Config(says, *map(float, seconds))

def serve(config, link, succeeds):
    sent = link.makefile("w")
    lines = link.makefile("r")
    time.sleep(0.1)
    if config.says == "dies":
        return 3
    if config.says == "never":
        time.sleep(100)
    sent.write(json.dumps({"fit": True}) + "\\n"); sent.flush()
    sent.write(json.dumps({"serving": True}) + "\\n"); sent.flush()
    print("serving", config.says, os.getpid(), flush=True)
    for line in lines:
        said = json.loads(line)
        if config.says == "hangs":
            continue
        if "hold" in said:
            print("held", config.says, flush=True)
            return 0
        if "end" in said:
            print("told to end in", said["end"], flush=True)
            time.sleep(float(said["end"]))
            return 0
    return 0

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
file = Path(sys.argv[1])
keeper.LEAVE_SECONDS = 0.5
keeper.LOOK_SECONDS = 0.05
exec(sys.argv[2])
config = load()
status = keeper.Keeper(ConfigFile(file, load, config, fixed={}, kept=()), serve, lambda one: one.lameduck).run()
print("ended", status, flush=True)
sys.exit(status)
"""


class Kept:
    """A keeper's process, and what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, file: Path) -> None:
        self.process = process
        self._output = output
        self._file = file

    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str, *, times: int = 1) -> None:
        deadline = time.monotonic() + 20
        while self.output().count(text) < times:
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.01)

    def write(self, text: str) -> None:
        part = self._file.with_suffix(".part")
        part.write_text(text)
        part.replace(self._file)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def wait_until_one(self) -> psutil.Process:
        deadline = time.monotonic() + 20
        while len(children := self.children()) != 1:
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.01)
        return children[0]


@contextmanager
def kept(tmp_path: Path, first: str, more: str = "") -> Iterator[Kept]:
    file, output = tmp_path / "config", tmp_path / "output"
    file.write_text(first)
    with output.open("wb") as out:
        command = [sys.executable, "-u", "-c", SCRIPT, str(file), more]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        running = Kept(process, output, file)
        running.wait_for("serving")
        yield running
    finally:
        process.kill()
        process.wait()


def test_one_takes_the_place_of_another(tmp_path: Path) -> None:
    with kept(tmp_path, "a") as keeper:
        keeper.write("b")
        keeper.wait_for("held a")
        keeper.wait_for("serving b")
        keeper.wait_until_one()
        keeper.process.send_signal(signal.SIGTERM)
        assert keeper.process.wait(10) == 0


def test_one_that_hangs_is_killed_once_it_is_succeeded(tmp_path: Path) -> None:
    with kept(tmp_path, "hangs") as keeper:
        hung = keeper.wait_until_one()
        keeper.write("b")
        keeper.wait_for("serving b")
        keeper.wait_for("was to end, and does not; killed")
        assert keeper.wait_until_one().pid != hung.pid


@pytest.mark.parametrize("says", ["hangs", "b"])
def test_a_stop_ends_all_whatever_hangs(tmp_path: Path, says: str) -> None:
    with kept(tmp_path, says) as keeper:
        keeper.process.send_signal(signal.SIGTERM)
        assert keeper.process.wait(10) == 0
        assert (says == "hangs") == ("killed" in keeper.output())


def test_a_stop_before_anything_is_served(tmp_path: Path) -> None:
    with kept(tmp_path, "a") as keeper:
        keeper.write("never")
        deadline = time.monotonic() + 10
        while len(keeper.children()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        keeper.process.send_signal(signal.SIGTERM)
        assert keeper.process.wait(10) == 0


def test_a_signal_to_all_of_them_is_one(tmp_path: Path) -> None:
    """A service manager tells the whole group; the second telling must not cut the first short."""
    with kept(tmp_path, "a 1") as keeper:
        began = time.monotonic()
        os.killpg(keeper.process.pid, signal.SIGTERM)
        assert keeper.process.wait(10) == 0
        assert time.monotonic() - began >= 1
        assert keeper.output().count("told to end") == 1


def test_a_successor_that_takes_over_after_a_death_is_the_only_one(tmp_path: Path) -> None:
    """The one that answers dies while its successor makes itself ready, and its own replacement waits for its turn."""
    with kept(tmp_path, "a", "keeper.FIRST_PAUSE_SECONDS = 1.0") as keeper:
        for number in range(1, 3):  # so that the next replacement is not made at once
            keeper.wait_until_one().kill()
            keeper.wait_for("serving a", times=number + 1)
        first = keeper.wait_until_one()
        keeper.write("b")
        deadline = time.monotonic() + 10
        while len(keeper.children()) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        first.kill()
        keeper.wait_for("serving b")
        time.sleep(2.5)
        keeper.wait_until_one()
        assert keeper.output().count("serving a") == 3


def test_a_bad_change_while_none_answers_is_refused_once_one_does(tmp_path: Path) -> None:
    with kept(tmp_path, "a", "keeper.FIRST_PAUSE_SECONDS = 1.0") as keeper:
        for number in range(1, 3):  # the second replacement waits a second
            keeper.wait_until_one().kill()
            keeper.wait_for("another takes its place", times=number)
            if number == 2:
                keeper.write("dies")
            keeper.wait_for("serving a", times=number + 1)
        keeper.wait_for("a kdns with the new configuration has ended with status 3")
        keeper.wait_for("not used; the configuration of before goes on")
        keeper.wait_until_one()


THIRD_PAIR_FAILS = """
import itertools
calls, pair = itertools.count(1), socket.socketpair

def socketpair():
    if next(calls) == 3:
        raise OSError(24, "Too many open files")
    return pair()

socket.socketpair = socketpair
"""


def test_a_process_that_cannot_be_made_costs_the_reload_alone(tmp_path: Path) -> None:
    with kept(tmp_path, "a", THIRD_PAIR_FAILS) as keeper:  # the first is for signals, the second for what serves now
        keeper.write("b")
        keeper.wait_for("no process can be made for it: Too many open files")
        keeper.wait_for("not used; the configuration of before goes on")
        assert keeper.process.poll() is None
        keeper.process.send_signal(signal.SIGTERM)
        assert keeper.process.wait(10) == 0


def test_what_ends_before_it_serves_is_the_end_at_first_and_a_refusal_later(tmp_path: Path) -> None:
    with kept(tmp_path, "a") as keeper:
        keeper.write("dies")
        keeper.wait_for("has ended with status 3")
        keeper.write("b")
        keeper.wait_for("serving b")
    file = tmp_path / "config"
    file.write_text("dies")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file), ""], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 3
