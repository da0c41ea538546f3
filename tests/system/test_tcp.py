"""TCP as RFC 7766 has it, and who abuses it (ROBUSTNESS section 2)."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import dns.message
import psutil
import pytest

from tests.support.client import addresses, ask_tcp, lookup, read_framed
from tests.support.process import Kdns, kdns
from tests.support.upstream import answer, Reply, Upstream

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."


def framed(name: str, message_id: int = 1, rrtype: str = "A") -> bytes:
    query = dns.message.make_query(name, rrtype, id=message_id)
    wire = query.to_wire()
    return struct.pack("!H", len(wire)) + wire


def connect(server: Kdns) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=15)


def test_the_length_in_any_segmentation(server: Kdns) -> None:
    with connect(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in framed(WEB):
            sock.send(bytes([octet]))
            time.sleep(0.001)
        assert dns.message.from_wire(read_framed(sock)).answer


def test_a_hundred_in_one_write(server: Kdns) -> None:
    with connect(server) as sock:
        sock.sendall(b"".join(framed(WEB, number) for number in range(100)))
        ids = [dns.message.from_wire(read_framed(sock)).id for _ in range(100)]
        assert sorted(ids) == list(range(100))


def test_a_slow_one_does_not_block_fast_ones(manifests: Path) -> None:
    def slow(query: dns.message.Message, tcp: bool) -> Reply:
        time.sleep(0.5)
        return answer(query).to_wire()

    with Upstream(slow) as upstream, kdns("--manifests", manifests, "--upstream", upstream.text) as server:
        server.wait_for("synced")
        with connect(server) as sock:
            sock.sendall(framed("slow.example.com.", 1) + b"".join(framed(WEB, number) for number in range(2, 100)))
            ids = [dns.message.from_wire(read_framed(sock)).id for _ in range(99)]
            assert sorted(ids) == list(range(1, 100))
            assert ids[-1] == 1


def test_half_closed_clients_get_their_answers(server: Kdns) -> None:
    with connect(server) as sock:
        sock.sendall(framed(WEB, 1) + framed("huge.default.svc.cluster.local.", 2))
        sock.shutdown(socket.SHUT_WR)
        assert dns.message.from_wire(read_framed(sock)).id == 1
        assert len(read_framed(sock)) > 60_000
        assert sock.recv(1) == b""


def test_short_frames_are_passed_over(server: Kdns) -> None:
    with connect(server) as sock:
        for octets in (0, 1, 11):
            sock.sendall(struct.pack("!H", octets) + b"x" * octets)
        sock.sendall(framed(WEB, 7))
        assert dns.message.from_wire(read_framed(sock)).id == 7


def test_a_body_that_never_comes_is_closed(server: Kdns) -> None:
    with connect(server) as sock:
        sock.sendall(struct.pack("!H", 65_535) + framed(WEB))
        began = time.monotonic()
        assert sock.recv(1) == b""
        assert time.monotonic() - began > 4


def test_idle_connections_are_closed(server: Kdns) -> None:
    with connect(server) as sock:
        sock.sendall(framed(WEB))
        read_framed(sock)
        began = time.monotonic()
        assert sock.recv(1) == b""
        assert time.monotonic() - began > 9


def test_a_client_that_never_reads_is_closed_and_others_are_served(manifests: Path) -> None:
    with kdns("--manifests", manifests) as server:
        server.wait_for("synced")
        with connect(server) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(0.2)
            query = framed("huge.default.svc.cluster.local.")
            with suppress(TimeoutError, ConnectionError):
                for _ in range(20_000):
                    sock.sendall(query)
            assert addresses(server.port, WEB) == {"10.96.0.1"}
            server.wait_until(lambda: "kdns_tcp_connections 0.0" in server.page("/metrics")[1])


def test_what_waits_for_clients_that_never_read_is_bounded(manifests: Path) -> None:
    with kdns("--manifests", manifests) as server, ExitStack() as stack:
        server.wait_for("synced")
        before = psutil.Process(server.process.pid).memory_info().rss
        query = framed("huge.default.svc.cluster.local.") * 300
        for _ in range(40):
            sock = stack.enter_context(connect(server))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(query)
        time.sleep(0.5)
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        grown = psutil.Process(server.process.pid).memory_info().rss - before
        assert grown < 100 * 2**20, grown  # 12,000 answers of 64 KiB are asked for


def test_zero_length_messages_hold_no_connection_open(server: Kdns) -> None:
    with connect(server) as sock:
        began = time.monotonic()
        sock.settimeout(0.5)
        closed = False
        while time.monotonic() - began < 16 and not closed:
            try:
                sock.sendall(b"\0\0\0")
                closed = sock.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
        assert closed


def test_a_good_client_beside_slow_ones(manifests: Path) -> None:
    """More connections than one client may have, each an octet at a time: a newcomer is served all the same."""
    with kdns("--manifests", manifests) as server, ExitStack() as stack:
        server.wait_for("synced")
        slow = [stack.enter_context(connect(server)) for _ in range(400)]
        for sock in slow:
            try:
                sock.send(b"\0")
            except OSError:
                continue  # closed for a newcomer already
        for _ in range(20):
            assert lookup(server.port, WEB, tcp=True).answer
        page = server.page("/metrics")[1]
        assert "kdns_tcp_closed_for_others_total 0.0" not in page
        assert addresses(server.port, WEB) == {"10.96.0.1"}


def test_abrupt_ends(server: Kdns) -> None:
    for at in range(0, 40, 3):
        with connect(server) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(framed("huge.default.svc.cluster.local.")[:at])
    assert ask_tcp(server.port, framed(WEB)[2:]) is not None
