"""``--supervise``: three processes without any privilege, on loopback."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from nodelocal.supervise.handover import ask, Given
from tests.support.client import lookup
from tests.support.process import nodelocal, wait_until

pytestmark = pytest.mark.system

DEAD = "127.0.0.1:1"
FLAGS = ["--supervise", "--cluster", DEAD, "--upstream", DEAD, "--record", "a.test 60 A 192.0.2.1"]


def test_a_worker_without_capabilities_is_replaced(tmp_path: Path) -> None:
    with nodelocal(*FLAGS, control=tmp_path / "control.sock") as server:
        (spawner,) = psutil.Process(server.process.pid).children()
        (worker,) = spawner.children()
        status = Path(f"/proc/{worker.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        worker.kill()
        server.wait_for("the worker ended by signal 9; another takes its place")
        assert lookup(server.port, "a.test.").answer
        wait_until(lambda: "nodelocal_worker_deaths_total 1.0" in server.page("/metrics")[1], server.output)
        wait_until((tmp_path / "handover.sock").exists, server.output)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert not list(tmp_path.iterdir())


def test_sigterm_ends_it_though_it_was_never_ready(tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    flags = [*FLAGS, "--node", "n1", "--api-server", "http://127.0.0.1:1"]
    with nodelocal(*flags, control=control, wait=False) as server:
        wait_until(control.exists, server.output)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        assert "answering on" not in server.output()


def test_one_successor_at_a_time_and_one_that_goes_away_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "handover.sock"
    with nodelocal(*FLAGS, control=tmp_path / "control.sock") as server:
        wait_until(path.exists, server.output)
        given = ask(path)
        assert isinstance(given, Given)
        assert {key[0] for key in given.sockets} == {"udp", "tcp", "admin", "control"}
        with nodelocal(*FLAGS, control=tmp_path / "control.sock", wait=False) as second:
            assert second.process.wait(20) == 2
            assert "handing over to another one already" in second.output()
        given.close()
        assert lookup(server.port, "a.test.").answer
        wait_until(lambda: not list(tmp_path.glob("cache.*")), server.output)
        again = ask(path)  # it may be asked again
        assert again is not None
        assert again.ready()
        again.close()
        assert server.process.wait(10) == 0


def test_another_version_is_given_the_sockets_and_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "handover.sock"
    with nodelocal(*FLAGS, control=tmp_path / "control.sock") as server:
        wait_until(path.exists, server.output)
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10)
            link.connect(str(path))
            link.sendall(b'{"nodelocal": 99, "more": ["than", "is", "known"]}\n')
            body, fds, _, _ = socket.recv_fds(link, 65_536, 100)
            assert body.startswith(b'{"sockets":')
            assert len(fds) == 4
            for fd in fds:
                os.close(fd)
            assert not list(tmp_path.glob("cache.*"))
        assert lookup(server.port, "a.test.").answer
