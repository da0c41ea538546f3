"""The process that forks workers: it says what becomes of each, and lives on when the system has no room for one."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.system

SCRIPT = """
import os, socket, trio
from kdns.net.listeners import Sockets
from kdns.workers import spawner

real, calls = os.fork, []

def fork():
    calls.append(1)
    if len(calls) == 2:  # the first makes the process that forks
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return real()

spawner.os.fork = fork

def main(number, link, sockets, others):
    link.sendall(b"%d %d" % (number, len(sockets.udp)))
    raise SystemExit(3)

async def run(made):
    ours, theirs = socket.socketpair()
    sockets = Sockets([(4, socket.socket(socket.AF_INET, socket.SOCK_DGRAM))], [], [])
    for _ in range(2):
        await made.spawn(7, theirs, sockets)
        print(type(event := await made.next()).__name__, event.number, getattr(event, "reason", ""))
    print(ours.recv(100).decode())
    print(type(event := await made.next()).__name__, os.waitstatus_to_exitcode(event.status))
    made.close()

made = spawner.Spawner(main)
made.start()
trio.run(run, made)
"""


def test_a_fork_that_fails_and_one_that_does_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.splitlines() == [
        "Failed 7 Resource temporarily unavailable",
        "Spawned 7 ",
        "7 1",
        "Ended 1",
    ], done.stderr
