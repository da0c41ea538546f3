"""What the API server and the machine can do to kdns while it serves (ROBUSTNESS section 10): nobody's answer is lost or wrong."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import dns.message
import dns.rcode
import pytest
import yaml

from tests.support.api_server import ApiServer
from tests.support.client import addresses, ask_udp, lookup, wait_for_addresses
from tests.support.kube import endpoint_slice, namespace, service
from tests.support.process import Kdns, kdns, wait_until
from tests.system.test_multicluster import service_import

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."
NEW = "new.default.svc.cluster.local."


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.put(namespace(), service("web", "10.96.0.1"))
        yield api


@contextmanager
def asked_all_the_time(server: Kdns, name: str = WEB, wanted: str = "10.96.0.1") -> Iterator[list[str]]:
    """Ask while the block runs; what was not answered, or otherwise, is in the list; the last is the slowest in ms."""
    wrong: list[str] = []
    over = threading.Event()
    slowest = 0.0
    count = 0

    def ask() -> None:
        nonlocal slowest, count
        wire = dns.message.make_query(name, "A").to_wire()
        while not over.wait(0.002):
            began = time.monotonic()
            reply = ask_udp(server.port, wire)
            slowest = max(slowest, time.monotonic() - began)
            count += 1
            text = dns.message.from_wire(reply).to_text() if reply else "no reply"
            if wanted not in text:
                wrong.append(text)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield wrong
    finally:
        over.set()
        thread.join()
    assert count > 10
    print(f"{count} questions, the slowest {slowest * 1000:.1f} ms")


def test_storms_of_refusals_are_outlived_and_do_not_become_storms_of_ours(api: ApiServer) -> None:
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced")
        with asked_all_the_time(server) as wrong:
            for status in (403, 429, 500, 503):
                before = len(api.requests)
                api.fault = lambda path, status=status: (status, {"Retry-After": "1"}, b"{}")  # type: ignore[misc]
                api.cut()
                time.sleep(1.5)
                assert len(api.requests) - before < 60, "three kinds, and each waits longer each time"
                api.fault = lambda path: None
                api.put(service("new", f"10.96.1.{status % 250}"))
                wait_for_addresses(server.port, NEW, {f"10.96.1.{status % 250}"})
        assert wrong == []


def test_compaction_in_a_loop(api: ApiServer) -> None:
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced")
        with asked_all_the_time(server) as wrong:
            for number in range(20):
                api.compact()
                api.cut()
                api.put(service("new", f"10.96.2.{number}"))
                time.sleep(0.1)
            wait_for_addresses(server.port, NEW, {"10.96.2.19"})
        assert wrong == []


def test_a_relist_of_50000_objects_while_serving(api: ApiServer) -> None:
    """Everything is listed again, twice: nobody waits for it, nothing is denied meanwhile."""
    api.put(
        *(
            service(f"s{number}", f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}")
            for number in range(25_000)
        )
    )
    api.put(*(endpoint_slice(f"s{number}", f"10.1.{number // 256 % 256}.{number % 256}") for number in range(25_000)))
    with kdns("--api-server", api.url) as server:
        wait_until(lambda: server.page("/ready")[0] == 200)
        with asked_all_the_time(server) as wrong:
            for _ in range(2):
                wanted = api.count("sendInitialEvents=true") + 2
                api.compact()
                api.cut()
                wait_until(partial(lambda wanted: api.count("sendInitialEvents=true") >= wanted, wanted))
                api.put(service("new", "10.96.3.3"))
                wait_for_addresses(server.port, NEW, {"10.96.3.3"})
                api.delete("Service", "new")
                wait_until(lambda: lookup(server.port, NEW).rcode() == dns.rcode.NXDOMAIN)
        assert wrong == []


def test_crds_that_vanish_and_come_back(api: ApiServer) -> None:
    path = "/apis/multicluster.x-k8s.io/v1beta1/serviceimports"
    name = "web.default.svc.clusterset.local."
    api.add_api(path)
    api.put(service_import("web", "10.112.0.9"))
    with kdns("--api-server", api.url, "--clusterset-zone", "clusterset.local") as server:
        server.wait_for("synced")
        assert addresses(server.port, name) == {"10.112.0.9"}
        with asked_all_the_time(server) as wrong:
            api.remove_api(path)
            wait_until(lambda: lookup(server.port, name).rcode() == dns.rcode.NXDOMAIN)
            api.add_api(path)
            api.put(service_import("web", "10.112.0.10"))
            wait_for_addresses(server.port, name, {"10.112.0.10"})
        assert wrong == []


def test_credentials_revoked_and_given_anew(api: ApiServer, tmp_path: Path) -> None:
    def write(token: str) -> None:
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": api.url}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        }  # fmt: skip
        (tmp_path / "new").write_text(yaml.safe_dump(document))
        (tmp_path / "new").rename(tmp_path / "kubeconfig")

    api.token = "first"
    write("first")
    with kdns("--kubeconfig", tmp_path / "kubeconfig") as server:
        server.wait_for("synced")
        with asked_all_the_time(server) as wrong:
            api.token = "second"
            api.cut()
            server.wait_for("401")
            assert server.page("/ready")[0] == 200, "what is known is served"
            api.put(service("new", "10.96.4.4"))
            write("second")
            wait_for_addresses(server.port, NEW, {"10.96.4.4"})
        assert wrong == []


@pytest.mark.parametrize("step", ["+1 year", "-1 year"])
def test_a_clock_that_jumps(api: ApiServer, tmp_path: Path, step: str) -> None:
    """The wall clock of the process jumps; what it measures by is monotonic, and serials go on growing."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, time\n"
        "real = time.time\n"
        f"time.time = lambda: real() + int(pathlib.Path({str(clock)!r}).read_text() or 0)\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}

    def serial() -> int:
        return int(lookup(server.port, "cluster.local.", "SOA").answer[0][0].serial)

    with kdns("--api-server", api.url, "--state-dir", tmp_path, env=env) as server:
        server.wait_for("synced")
        with asked_all_the_time(server) as wrong:
            before = serial()
            (tmp_path / "new").write_text("31536000" if step[0] == "+" else "-31536000")
            (tmp_path / "new").rename(clock)
            time.sleep(1.5)
            api.put(service("new", "10.96.5.5"))
            wait_for_addresses(server.port, NEW, {"10.96.5.5"})
            wait_until(lambda: serial() != before)
            assert 0 < (serial() - before) & 0xFFFFFFFF < 1 << 31, "in serial number arithmetic it grew"
            api.cut()
            api.put(service("new", "10.96.5.6"))
            wait_for_addresses(server.port, NEW, {"10.96.5.6"})
        assert wrong == []
        assert server.page("/ready")[0] == 200


def test_etcd_slow_lists_hang_and_what_is_known_is_served(api: ApiServer) -> None:
    hang = threading.Event()
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced")

        def slow(path: str) -> None:
            hang.wait(6)

        with asked_all_the_time(server) as wrong:
            api.fault = slow
            api.compact()
            api.cut()
            time.sleep(3)
            assert server.page("/ready")[0] == 200
            hang.set()
            api.fault = lambda path: None
            api.put(service("new", "10.96.6.6"))
            wait_for_addresses(server.port, NEW, {"10.96.6.6"})
        assert wrong == []
