"""kdns --state-dir: a restart answers from what was known, says so, and knows better once the API server is heard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dns.edns
import dns.message
import dns.rcode
import pytest

from kdns.snapshot import FILE
from tests.support.api_server import ApiServer
from tests.support.client import addresses, ask_udp, lookup, wait_for_addresses
from tests.support.kube import endpoint_slice, namespace, pod, service
from tests.support.process import Kdns, kdns, run_kdns, wait_until

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."
DB = "db.default.svc.cluster.local."
NEW = "new.default.svc.cluster.local."
FLAGS = ("--pods", "verified")


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.put(
            namespace(),
            service("web", "10.96.0.1"),
            service("db"),
            endpoint_slice("db", "10.1.0.1", "10.1.0.2"),
            pod("p", "10.9.8.7"),
        )
        yield api


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[ApiServer, bytes]:
    """An API server that is away, and a snapshot of its cluster."""
    folder = tmp_path_factory.mktemp("state")
    with ApiServer() as api:
        api.put(namespace(), service("web", "10.96.0.1"))
        with kdns("--api-server", api.url, "--state-dir", folder, *FLAGS):
            wait_until((folder / FILE).exists)
    return api, (folder / FILE).read_bytes()


@pytest.fixture
def state(api: ApiServer, tmp_path: Path) -> Path:
    """A folder with a snapshot, and an API server that is away."""
    with kdns("--api-server", api.url, "--state-dir", tmp_path, *FLAGS) as server:
        server.wait_for("synced")
        wait_until((tmp_path / FILE).exists)
        assert metric(server, "kdns_stale") == 0
    api.stop()
    return tmp_path


def metric(server: Kdns, name: str) -> float:
    found = [line for line in server.page("/metrics")[1].splitlines() if line.startswith(name + " ")]
    return float(found[0].split()[1])


def extended_error(port: int, name: str) -> dns.edns.EDEOption | None:
    reply = dns.message.from_wire(ask_udp(port, dns.message.make_query(name, "A", use_edns=0).to_wire()) or b"")
    return next((option for option in reply.options if isinstance(option, dns.edns.EDEOption)), None)


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "two workers"])
def test_a_restart_without_the_api_server(api: ApiServer, state: Path, workers: tuple[str, ...]) -> None:
    with kdns("--api-server", api.url, "--state-dir", state, *FLAGS, *workers) as server:
        server.wait_for("answering from what was known")
        for _ in range(4):  # each worker
            assert addresses(server.port, WEB) == {"10.96.0.1"}
            assert addresses(server.port, DB) == {"10.1.0.1", "10.1.0.2"}
            assert addresses(server.port, "10-9-8-7.default.pod.cluster.local.") == {"10.9.8.7"}
            assert lookup(server.port, NEW).rcode() == dns.rcode.NXDOMAIN
            for name in (WEB, NEW):
                error = extended_error(server.port, name)
                assert error is not None
                assert error.code == dns.edns.EDECode.STALE_ANSWER
            plain = dns.message.from_wire(ask_udp(server.port, dns.message.make_query(WEB, "A").to_wire()) or b"")
            assert plain.edns == -1, "without EDNS there is nothing to say it with"
            assert plain.answer
        assert server.page("/ready")[0] == 503
        assert metric(server, "kdns_stale") == 1
        # What went and what came while it was away:
        api.delete("Service", "web")
        api.put(service("new", "10.96.0.9"), endpoint_slice("db", "10.1.0.3"))
        api.start()
        wait_for_addresses(server.port, NEW, {"10.96.0.9"})
        wait_for_addresses(server.port, DB, {"10.1.0.3"})
        server.wait_for("synced")
        wait_until(lambda: server.page("/ready")[0] == 200)
        for _ in range(4):
            assert lookup(server.port, WEB).rcode() == dns.rcode.NXDOMAIN
            assert extended_error(server.port, NEW) is None
            assert extended_error(server.port, WEB) is None
        assert metric(server, "kdns_stale") == 0


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "two workers"])
def test_ready_when_stale(api: ApiServer, state: Path, workers: tuple[str, ...]) -> None:
    with kdns("--api-server", api.url, "--state-dir", state, "--ready-when-stale", *FLAGS, *workers) as server:
        assert server.page("/ready")[0] == 200


def test_a_worker_that_is_replaced_while_stale_answers_the_same(api: ApiServer, state: Path) -> None:
    import psutil

    with kdns("--api-server", api.url, "--state-dir", state, *FLAGS, "--workers", "2") as server:
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        for child in psutil.Process(server.process.pid).children():
            for worker in child.children():
                worker.kill()
        server.wait_for("takes its place", times=2)
        for _ in range(8):
            assert addresses(server.port, WEB) == {"10.96.0.1"}
            assert extended_error(server.port, NEW) is not None


def damage(path: Path, at: int) -> None:
    octets = bytearray(path.read_bytes())
    octets[at] ^= 1
    path.write_bytes(octets)


@pytest.mark.parametrize("at", [0, 20, 100, -1])
def test_one_that_is_damaged_is_not_used(kept: tuple[ApiServer, bytes], tmp_path: Path, at: int) -> None:
    api, octets = kept
    (tmp_path / FILE).write_bytes(octets)
    damage(tmp_path / FILE, at)
    with kdns("--api-server", api.url, "--state-dir", tmp_path, *FLAGS) as server:
        server.wait_for(f"{FILE} is not used: damaged")
        assert lookup(server.port, WEB).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize("left", [0, 10, 40, 200])
def test_one_that_is_cut_off_is_not_used(kept: tuple[ApiServer, bytes], tmp_path: Path, left: int) -> None:
    api, octets = kept
    (tmp_path / FILE).write_bytes(octets[:left])
    with kdns("--api-server", api.url, "--state-dir", tmp_path, *FLAGS) as server:
        server.wait_for(f"{FILE} is not used: ")
        assert lookup(server.port, WEB).rcode() == dns.rcode.SERVFAIL


def test_one_of_another_cluster_or_other_options_is_not_used(kept: tuple[ApiServer, bytes], tmp_path: Path) -> None:
    api, octets = kept
    (tmp_path / FILE).write_bytes(octets)
    with ApiServer() as other:
        other.stop()
        with kdns("--api-server", other.url, "--state-dir", tmp_path, *FLAGS) as server:
            server.wait_for("is not used: of another cluster")
    with kdns("--api-server", api.url, "--state-dir", tmp_path) as server:
        server.wait_for("is not used: made with other options")
        assert lookup(server.port, WEB).rcode() == dns.rcode.SERVFAIL


def test_one_of_a_version_with_other_objects_is_not_used(kept: tuple[ApiServer, bytes], tmp_path: Path) -> None:
    """Written by this very code, with another mark of what its objects look like."""
    api, octets = kept
    path, octets = tmp_path / FILE, octets[:-32]
    start = octets.index(b'"form": "') + len(b'"form": "')
    changed = octets[:start] + b"0" * 16 + octets[start + 16 :]
    import hashlib

    path.write_bytes(changed + hashlib.sha256(changed).digest())
    with kdns("--api-server", api.url, "--state-dir", tmp_path, *FLAGS) as server:
        server.wait_for("is not used: made by kdns .*, which has objects in another form")


def test_a_folder_that_cannot_be_written_to_any_more_is_told(api: ApiServer, tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with kdns("--api-server", api.url, "--state-dir", tmp_path) as server:
        server.wait_for("Is a directory")
        server.wait_until(lambda: FILE in server.page("/ready")[1])
        assert server.page("/ready")[0] == 200
        assert addresses(server.port, WEB) == {"10.96.0.1"}


def test_ready_when_stale_needs_a_folder() -> None:
    done = run_kdns("check", "--api-server", "http://127.0.0.1:1", "--ready-when-stale")
    assert done.returncode == 2
    assert "--ready-when-stale: found no --state-dir" in done.stderr


def test_what_the_header_says(kept: tuple[ApiServer, bytes]) -> None:
    octets = kept[1]
    start = octets.index(b"{")
    header = json.loads(octets[start : start + int.from_bytes(octets[start - 4 : start], "big")])
    assert set(header) == {"cluster", "options", "form", "made_by", "made_at"}
