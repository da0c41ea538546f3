"""Both programs under the restrictions of the manifests, and what they give up where they have more."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.conftest import MANIFESTS
from tests.support.api_server import ApiServer
from tests.support.client import addresses, ask_tcp, lookup, wait_for_addresses
from tests.support.kube import namespace, service
from tests.support.process import Kdns, kdns, nodelocal, wait_until

pytestmark = [
    pytest.mark.system,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or platform.machine() != "x86_64" or sys.platform != "linux",
        reason="needs root on x86-64 Linux",
    ),
]

ROOT = Path(__file__).parents[2]
WEB = "web.default.svc.cluster.local."


@contextmanager
def open_folder(name: str) -> Iterator[Path]:
    """A folder that every user can pass through to, unlike those of pytest."""
    path = Path("/tmp") / f"kdns-{name}-{os.getpid()}"
    path.mkdir(mode=0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def restricted(writable: Path) -> list[str]:
    return [sys.executable, "-m", "tests.support.restricted", str(writable), str(ROOT)]


def processes(server: Kdns) -> list[psutil.Process]:
    whole = psutil.Process(server.process.pid)
    return [whole, *whole.children(recursive=True)]


def status(process: psutil.Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}


def check_restricted(server: Kdns) -> None:
    for process in processes(server):
        found = status(process)
        assert {found[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert found["NoNewPrivs"] == "1"
        assert found["Seccomp"] == "2"
        assert found["Uid"].split() == ["65532"] * 4
        assert found["Groups"] == ""


def check_answers(server: Kdns) -> None:
    assert addresses(server.port, WEB) == {"10.96.0.1"}
    assert len(addresses(server.port, "db.default.svc.cluster.local.")) == 3
    assert lookup(server.port, "no.default.svc.cluster.local.").rcode() == 3
    query = bytes.fromhex("000101000001000000000000") + b"\3web\7default\3svc\7cluster\5local\0\0\1\0\1"
    assert ask_tcp(server.port, query)
    assert "coredns_dns_requests_total" in server.page("/metrics")[1]
    assert server.page("/ready")[0] == 200


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "two workers"])
def test_kdns_with_manifests(workers: tuple[str, ...]) -> None:
    with open_folder("m") as folder:
        (folder / "state").mkdir()
        (folder / "cluster.json").write_text(json.dumps(MANIFESTS))
        flags = ("--manifests", folder / "cluster.json", "--state-dir", folder / "state")
        with kdns(*flags, *workers, prefix=restricted(folder / "state")) as server:
            server.wait_for("synced")
            check_answers(server)
            check_restricted(server)
            assert "given up" not in server.output(), "there was nothing to give up"
            assert "Traceback" not in server.output()


def test_kdns_with_an_api_server_and_a_snapshot() -> None:
    with open_folder("a") as folder, ApiServer() as api:
        (folder / "state").mkdir()
        api.put(namespace(), service("web", "10.96.0.1"))
        flags = ("--api-server", api.url, "--state-dir", folder / "state")
        with kdns(*flags, prefix=restricted(folder / "state")) as server:
            server.wait_for("synced")
            check_restricted(server)
            api.put(service("new", "10.96.0.2"))
            wait_for_addresses(server.port, "new.default.svc.cluster.local.", {"10.96.0.2"})
            wait_until(lambda: "kdns_snapshot_timestamp_seconds 1." in server.page("/metrics")[1])
            assert server.page("/ready")[0] == 200


def test_without_any_folder_to_write_to() -> None:
    with open_folder("r") as folder:
        (folder / "cluster.json").write_text(json.dumps(MANIFESTS))
        with kdns("--manifests", folder / "cluster.json", prefix=restricted(Path("/proc/none"))) as server:
            server.wait_for("synced")
            check_answers(server)
            check_restricted(server)


def test_nodelocal_and_its_worker() -> None:
    with open_folder("n") as folder:
        run, manifests = folder / "run", folder / "cluster.json"
        run.mkdir()
        manifests.write_text(json.dumps(MANIFESTS))
        with kdns("--manifests", manifests) as behind:
            behind.wait_for("synced")
            here = f"127.0.0.1:{behind.port}"
            flags = ("--cluster", here, "--upstream", "192.0.2.99", "--supervise")
            with nodelocal(*flags, control=run / "control.sock", prefix=restricted(run)) as server:
                wait_until(lambda: server.page("/ready")[0] == 200)
                check_answers(server)
                check_restricted(server)
                assert len(processes(server)) == 3
                before = addresses(server.port, WEB)
                processes(server)[-1].kill()
                server.wait_for("takes its place")
                assert addresses(server.port, WEB) == before
                assert "Traceback" not in server.output()


def test_what_root_has_is_given_up_and_told(manifests: Path) -> None:
    with kdns("--manifests", manifests, "--workers", "2") as server:
        told = server.wait_for(r"capabilities given up: ([a-z_, ]+)(; kept: dac_read_search)?")[1].split(", ")
        assert "net_admin" in told or "chown" in told
        wait_until(lambda: len(processes(server)) == 4)
        spawner = psutil.Process(server.process.pid).children()[0]
        for process in processes(server):
            if process != spawner:  # it only forks, and talks to nobody else
                assert int(status(process)["CapEff"], 16) & ~(1 << 2) == 0
                assert status(process)["NoNewPrivs"] == "1"
        assert re.search(r"answering on", server.output())
