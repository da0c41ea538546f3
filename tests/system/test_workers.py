"""``kdns serve --workers``: several processes share what comes; one that dies is missed by nobody for long."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dns.message
import dns.query
import dns.zone
import psutil
import pytest
import trustme
import yaml

from kdns.workers.crew import ANSWER_SECONDS
from tests.support.api_server import ApiServer
from tests.support.client import addresses, lookup, wait_for_addresses
from tests.support.kube import endpoint_slice, namespace, service
from tests.support.process import Kdns, kdns, run_kdns

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."
NEW = "new.default.svc.cluster.local."


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.put(namespace(), service("web", "10.96.0.1"), service("db"), endpoint_slice("db", "10.1.0.1", "10.1.0.2"))
        yield api


@pytest.fixture
def server(api: ApiServer) -> Iterator[Kdns]:
    with kdns("--api-server", api.url, "--workers", "2", "--transfer-to", "127.0.0.0/8") as server:
        server.wait_for("synced after .* 2 workers")
        yield server


def workers(server: Kdns) -> list[psutil.Process]:
    """Return the workers, in no order: children of the process that forks, a child of the controller."""
    (spawner,) = psutil.Process(server.process.pid).children()
    return spawner.children()


def metric(server: Kdns, name: str) -> dict[str, float]:
    """Return the values of a metric by its labels as they are written."""
    _, page = server.page("/metrics")
    return {labels: float(value) for labels, value in re.findall(rf"^{name}(\{{.*\}})? (\S+)$", page, re.M)}


def ask_many(server: Kdns, count: int, name: str = WEB) -> set[tuple[str, ...]]:
    """Ask *count* times from one port; return the different answers."""
    found = set()
    for _ in range(count):
        found.add(tuple(sorted(addresses(server.port, name))))
    return found


def test_workers_share_what_one_client_asks_evenly(server: Kdns) -> None:
    question = dns.message.make_query(WEB, "A").to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(5)
        for _ in range(2000):
            sock.send(question)
            assert sock.recv(512)[3] & 15 == 0
    by_worker = metric(server, "kdns_worker_queries")
    assert len(by_worker) == 2
    assert min(by_worker.values()) > 800, by_worker
    whole = metric(server, "coredns_dns_requests_total")
    assert sum(value for labels, value in whole.items() if 'zone="cluster.local."' in labels) >= 2000


def test_all_workers_follow_the_cluster(api: ApiServer, server: Kdns) -> None:
    assert ask_many(server, 10, NEW) == {()}
    api.put(service("new", "10.96.0.2"))
    wait_for_addresses(server.port, NEW, {"10.96.0.2"})
    time.sleep(0.1)  # one worker has it; the other was told in the same moment
    assert ask_many(server, 20, NEW) == {("10.96.0.2",)}
    api.delete("Service", "new")
    wait_for_addresses(server.port, NEW, set())
    time.sleep(0.1)
    assert ask_many(server, 20, NEW) == {()}
    assert metric(server, "kdns_objects")['{kind="Service"}'] == 2


def serials(server: Kdns) -> set[int]:
    replies = [lookup(server.port, "cluster.local.", "SOA") for _ in range(20)]
    return {reply.answer[0][0].serial for reply in replies}


def test_all_workers_have_one_serial_and_it_moves(api: ApiServer, server: Kdns) -> None:
    time.sleep(2.5)  # the first lists have had their effect
    (before,) = serials(server)
    api.put(service("new", "10.96.0.2"))
    server.wait_until(lambda: before not in serials(server))
    server.wait_until(lambda: len(serials(server)) == 1)
    (after,) = serials(server)
    assert after > before
    zone = dns.zone.Zone("cluster.local.", relativize=False)
    dns.query.inbound_xfr("127.0.0.1", zone, port=server.port)
    assert zone.find_rdataset(NEW, "A")[0].to_text() == "10.96.0.2"
    assert metric(server, "kdns_serial")['{zone="cluster.local."}'] == after


def test_a_worker_that_is_killed_is_replaced_with_its_data(api: ApiServer, server: Kdns) -> None:
    """What comes meanwhile waits in its socket; what a worker has read goes with it: one question a kill at most."""
    stop = threading.Event()
    answers: list[float] = []
    failures: list[object] = []

    def ask_on() -> None:
        question = dns.message.make_query(WEB, "A").to_wire()
        while not stop.is_set():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect(("127.0.0.1", server.port))
                sock.settimeout(3)
                began = time.monotonic()
                try:
                    sock.send(question)
                    reply = sock.recv(512)
                except OSError as exc:
                    failures.append(exc)
                else:
                    answers.append(time.monotonic() - began)
                    if reply[3] & 15 or not reply[7]:
                        failures.append(reply)
            time.sleep(0.002)

    client = threading.Thread(target=ask_on)
    client.start()
    try:
        for times in range(1, 4):
            victim = workers(server)[0]
            victim.send_signal(signal.SIGKILL)
            server.wait_for("ended by signal 9; another takes its place", times=times)
            server.wait_until(lambda times=times: sum(metric(server, "kdns_worker_deaths_total").values()) == times)  # type: ignore[misc]
            server.wait_until(lambda: metric(server, "kdns_workers")[""] == 2)
        server.wait_until(lambda: len(answers) > 100)
    finally:
        stop.set()
        client.join()
    assert [failure for failure in failures if not isinstance(failure, TimeoutError)] == []
    assert len(failures) <= 3
    assert max(answers) < 5
    server.wait_until(lambda: len(metric(server, "kdns_worker_queries")) == 2)
    assert ask_many(server, 20) == {("10.96.0.1",)}
    status, page = server.page("/ready")
    assert (status, page) == (200, "OK")
    api.put(service("new", "10.96.0.3"))
    wait_for_addresses(server.port, NEW, {"10.96.0.3"})


def test_a_worker_that_hangs_is_killed_and_replaced(server: Kdns) -> None:
    victim = workers(server)[0]
    victim.suspend()
    try:
        server.wait_for("has not answered for 10 s; killed")
    finally:
        if victim.is_running():
            victim.resume()
    server.wait_for("ended by signal 9; another takes its place")
    server.wait_until(lambda: ask_many(server, 20) == {("10.96.0.1",)})


def test_it_stops_in_good_order_and_leaves_nothing(server: Kdns) -> None:
    everyone = psutil.Process(server.process.pid).children(recursive=True)
    assert len(everyone) == 3
    assert server.stop() == 0
    assert "stopped" in server.output()
    _, alive = psutil.wait_procs(everyone, timeout=5)
    assert alive == []


def test_workers_end_with_a_controller_that_is_killed(server: Kdns) -> None:
    everyone = psutil.Process(server.process.pid).children(recursive=True)
    server.stop(signal.SIGKILL)
    _, alive = psutil.wait_procs(everyone, timeout=5)
    assert alive == []


def test_signals_to_the_whole_group_end_it_in_good_order(api: ApiServer) -> None:
    """As a terminal's Ctrl-C does, or a service manager."""
    with kdns("--api-server", api.url, "--workers", "2", prefix=("setsid",)) as server:
        server.wait_for("synced after")
        everyone = psutil.Process(server.process.pid).children(recursive=True)
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.process.wait(10) == 0
        _, alive = psutil.wait_procs(everyone, timeout=5)
        assert alive == []
        assert "Traceback" not in server.output()


def test_a_port_that_is_taken_is_told_at_once(server: Kdns, api: ApiServer) -> None:
    """Though workers could share it with those of another program."""
    done = run_kdns("serve", "--api-server", api.url, "--workers", "2", "--listen", f"127.0.0.1:{server.port}")
    assert done.returncode == 2
    assert "the port is in use by another program" in done.stderr


@pytest.mark.parametrize("value", ["0", "65", "-1", "two", ""])
def test_a_number_of_workers_that_cannot_be(value: str, api: ApiServer) -> None:
    done = run_kdns("serve", "--api-server", api.url, "--workers", value)
    assert done.returncode == 2
    assert f"--workers: found {value!r} (" in done.stderr
    assert "; expected a whole number from 1 to 64, or auto" in done.stderr


def test_manifests_and_hosts_are_followed_by_all(tmp_path: Path) -> None:
    manifest, hosts = tmp_path / "a.yaml", tmp_path / "hosts"
    manifest.write_text(yaml.safe_dump(service("web", "10.96.0.1")))
    hosts.write_text("192.0.2.1 gate.example\n")
    with kdns("--manifests", manifest, "--hosts", hosts, "--workers", "3") as server:
        server.wait_for("3 workers")
        assert ask_many(server, 20) == {("10.96.0.1",)}
        assert ask_many(server, 20, "gate.example.") == {("192.0.2.1",)}
        manifest.write_text(yaml.safe_dump(service("web", "10.96.0.9")))
        hosts.write_text("192.0.2.2 gate.example\nnonsense\n")
        server.wait_until(lambda: ask_many(server, 20) == {("10.96.0.9",)})
        server.wait_until(lambda: ask_many(server, 20, "gate.example.") == {("192.0.2.2",)})
        server.wait_until(lambda: "line 2" in server.page("/ready")[1])
        assert server.output().count("line 2") == 1, "told once, not by each worker"


def test_bad_manifests_end_it_before_anything_is_forked(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Service\napiVersion: v1\nmetadata: {name: UPPER}\n")
    done = run_kdns("serve", "--manifests", str(tmp_path), "--workers", "2", "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert "UPPER" in done.stderr
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_a_bad_certificate_costs_a_new_worker_tls_alone(api: ApiServer, tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    tls = ("--listen-tls", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key)
    with kdns("--api-server", api.url, "--workers", "2", *tls) as server:
        server.wait_for("synced after")
        good = cert.read_bytes()
        cert.write_text("nonsense")
        workers(server)[0].kill()
        server.wait_for("another takes its place")
        server.wait_until(lambda: len(metric(server, "kdns_worker_queries")) == 2)
        assert ask_many(server, 30) == {("10.96.0.1",)}
        server.wait_until(lambda: "--tls-cert" in server.page("/ready")[1])
        cert.write_bytes(good)
        server.wait_until(lambda: server.page("/ready") == (200, "OK"))


def test_a_hosts_file_that_is_gone_is_served_by_a_new_worker_too(api: ApiServer, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.1 gate.example\n")
    with kdns("--api-server", api.url, "--workers", "2", "--hosts", hosts) as server:
        server.wait_for("synced after")
        hosts.unlink()
        workers(server)[0].kill()
        server.wait_for("another takes its place")
        server.wait_until(lambda: len(metric(server, "kdns_worker_queries")) == 2)
        assert ask_many(server, 30, "gate.example.") == {("192.0.2.1",)}


def test_a_worker_that_hangs_does_not_outlive_the_program(server: Kdns) -> None:
    hung, other = workers(server)
    hung.suspend()
    assert server.stop() == 0
    _, alive = psutil.wait_procs([hung, other], timeout=5)
    assert alive == []


def test_a_change_that_dead_workers_knew_of_moves_the_serial(api: ApiServer, server: Kdns) -> None:
    time.sleep(2.5)
    (before,) = serials(server)
    both = workers(server)
    for worker in both:
        worker.suspend()
    api.put(service("new", "10.96.0.2"))
    time.sleep(0.2)
    for worker in both:
        worker.kill()
    wait_for_addresses(server.port, NEW, {"10.96.0.2"})
    server.wait_until(lambda: min(serials(server)) > before)


def test_a_transfer_has_the_serial_that_the_soa_has(api: ApiServer, server: Kdns) -> None:
    def transferred() -> int:
        zone = dns.zone.Zone("cluster.local.", relativize=False)
        dns.query.inbound_xfr("127.0.0.1", zone, port=server.port)
        return int(zone.find_rdataset("cluster.local.", "SOA")[0].serial)

    for number in range(3):
        transferred()
        before = max(serials(server))
        api.put(service(f"new{number}", f"10.96.1.{number}"))
        server.wait_until(lambda before=before: min(serials(server)) > before)  # type: ignore[misc]
        assert [transferred() for _ in range(6)] == [before + (max(serials(server)) - before)] * 6


def test_all_workers_answer_until_none_has_anything_to_wait_for(api: ApiServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        upstream = f"127.0.0.1:{silent.getsockname()[1]}"
        with kdns("--api-server", api.url, "--workers", "2", "--upstream", upstream) as server:
            server.wait_for("synced after")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(dns.message.make_query("www.example.com.", "A").to_wire(), ("127.0.0.1", server.port))
                silent.settimeout(5)
                silent.recv(512)
                server.process.send_signal(signal.SIGTERM)
                time.sleep(0.5)
                assert ask_many(server, 10) == {("10.96.0.1",)}
                assert server.process.wait(10) == 0
                assert client.recv(512)[3] & 15 == 2, "SERVFAIL, in the end"


def test_several_who_look_at_the_metrics_do_not_wait_for_each_other(server: Kdns) -> None:
    def look() -> float:
        began = time.monotonic()
        server.page("/metrics")
        return time.monotonic() - began

    def slowest_of_four() -> float:
        with ThreadPoolExecutor(4) as pool:
            return max(look.result() for look in [pool.submit(look) for _ in range(4)])

    assert min(slowest_of_four() for _ in range(5)) < ANSWER_SECONDS, "not the whole wait every time"
