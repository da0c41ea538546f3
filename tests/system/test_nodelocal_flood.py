"""Floods: names that nobody answers, names asked once, clients that ask and go. What is good stays answered."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.rcode
import psutil
import pytest

from kdns.upstream.forwarder import MAX_QUESTIONS
from tests.support.client import ask_udp, lookup
from tests.support.process import Kdns, kdns, nodelocal
from tests.support.upstream import answer, Reply, Upstream

pytestmark = pytest.mark.system

FLOOD = 20_000


@pytest.fixture(scope="module")
def cluster(manifests: Path) -> Iterator[Kdns]:
    with kdns("--manifests", manifests) as running:
        running.wait_for("synced")
        yield running


def silent(query: dns.message.Message, tcp: bool) -> Reply:
    return None


def flood(port: int, stop: threading.Event, *, count: int = FLOOD) -> int:
    """Send questions for names that differ, at some thousands a second; return how many."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        wire = dns.message.make_query("x000000.flood.example.", "A").to_wire()
        for number in range(count):
            if stop.is_set():
                return number
            try:
                sock.send(wire.replace(b"x000000", b"x%06d" % number))
                while True:
                    sock.recv(4096)
            except BlockingIOError:
                pass
            if not number % 50:
                time.sleep(0.01)
    return count


def test_a_flood_at_a_dead_upstream_leaves_the_rest_answered(cluster: Kdns) -> None:
    with (
        Upstream(silent) as upstream,
        nodelocal("--cluster", f"127.0.0.1:{cluster.port}", "--upstream", upstream.text) as server,
    ):
        process = psutil.Process(server.process.pid)
        lookup(server.port, "web.default.svc.cluster.local")
        before = process.memory_info().rss
        stop = threading.Event()
        thread = threading.Thread(target=flood, args=(server.port, stop))
        thread.start()
        answered = lost = 0
        try:
            while thread.is_alive() or answered < 100:
                for name in ("web.default.svc.cluster.local", f"no{answered}.default.svc.cluster.local"):
                    reply = ask_udp(server.port, dns.message.make_query(name, "A").to_wire())
                    if reply is None:
                        lost += 1  # what a busy machine's socket had no room for
                        continue
                    rcode = dns.message.from_wire(reply).rcode()
                    assert rcode == (dns.rcode.NOERROR if name.startswith("web") else dns.rcode.NXDOMAIN)
                    answered += 1
        finally:
            stop.set()
            thread.join()
        assert lost <= 1, f"a good client went without {lost} times"
        page = server.page("/metrics")[1]
        pending = next(line for line in page.splitlines() if line.startswith("kdns_upstream_questions "))
        assert float(pending.split()[1]) <= 2 * MAX_QUESTIONS
        shed = next(
            line for line in page.splitlines() if line.startswith("coredns_forward_max_concurrent_rejects_total ")
        )
        assert float(shed.split()[1]) > 0
        assert process.memory_info().rss - before < 40 * 2**20
        assert len(os.listdir(f"/proc/{server.process.pid}/fd")) < 3 * MAX_QUESTIONS + 200


def test_what_was_on_its_way_leaves_nothing_behind(cluster: Kdns) -> None:
    """Clients over UDP and TCP that go while their questions are on their way."""
    with (
        Upstream(silent) as upstream,
        nodelocal("--cluster", f"127.0.0.1:{cluster.port}", "--upstream", upstream.text) as server,
    ):
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        lookup(server.port, "web.default.svc.cluster.local")
        time.sleep(0.2)
        for number in range(200):
            wire = dns.message.make_query(f"gone{number}.example.", "A").to_wire()
            with socket.create_connection(("127.0.0.1", server.port)) as sock:
                sock.sendall(len(wire).to_bytes(2, "big") + wire)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(wire, ("127.0.0.1", server.port))

        def is_over() -> bool:
            page = server.page("/metrics")[1]
            return "kdns_upstream_questions 0.0" in page and "nodelocal_tcp_connections 0.0" in page

        server.wait_until(is_over)
        assert len(list(descriptors.iterdir())) < 60
        assert lookup(server.port, "web.default.svc.cluster.local").answer


def test_names_asked_once_keep_within_the_budget(cluster: Kdns) -> None:
    def everything(query: dns.message.Message, tcp: bool) -> Reply:
        return answer(query, f"{query.question[0].name} 3600 IN A 192.0.2.1").to_wire()

    with (
        Upstream(everything) as upstream,
        nodelocal(
            "--cluster", f"127.0.0.1:{cluster.port}", "--upstream", upstream.text, "--cache-size", "2MiB"
        ) as server,
    ):
        lookup(server.port, "warm.example.")
        process = psutil.Process(server.process.pid)
        before = process.memory_full_info().uss
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", server.port))
            sock.settimeout(10)
            for start in range(0, 12_000, 50):
                for number in range(start, start + 50):
                    sock.send(dns.message.make_query(f"once{number}.example.", "A").to_wire())
                for _ in range(50):
                    sock.recv(4096)
        page = server.page("/metrics")[1]
        held = sum(float(line.split()[1]) for line in page.splitlines() if line.startswith("nodelocal_cache_bytes{"))
        assert held <= 2 * 2**20
        assert 'coredns_cache_evictions_total{server="dns://127.0.0.1:0",type="success"' in page
        assert process.memory_full_info().uss - before < 8 * 2**20


def test_clients_that_reset_while_they_wait_end_nothing(cluster: Kdns) -> None:
    """Answers come to connections that are just being torn down: stale ones after 1.8 s, failures after 4 s."""
    is_silent = False

    def script(query: dns.message.Message, tcp: bool) -> Reply:
        if is_silent:
            return None
        return answer(query, f"{query.question[0].name} 1 IN A 192.0.2.1").to_wire()

    with (
        Upstream(script) as upstream,
        nodelocal("--cluster", f"127.0.0.1:{cluster.port}", "--upstream", upstream.text) as server,
    ):
        lookup(server.port, "stale.example.")
        is_silent = True
        time.sleep(1.5)
        wires = [dns.message.make_query(name, "A").to_wire() for name in ("stale.example.", "none.example.")]
        for wait in (1.74, 1.78, 1.82, 1.86):
            connections = []
            for number in range(120):
                sock = socket.create_connection(("127.0.0.1", server.port))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                wire = wires[number % 2]
                sock.sendall((len(wire).to_bytes(2, "big") + wire) * 3)
                connections.append(sock)
            time.sleep(wait)
            for sock in connections:
                sock.close()
        assert lookup(server.port, "web.default.svc.cluster.local").answer
        server.wait_until(lambda: "nodelocal_tcp_connections 0.0" in server.page("/metrics")[1])
        assert "Traceback" not in server.output()
        assert server.stop() == 0
