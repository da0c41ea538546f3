"""Where kdns listens, and where its replies come from."""

from __future__ import annotations

import socket
from pathlib import Path

import dns.message
import pytest

from tests.support.client import addresses, ask_udp, lookup
from tests.support.process import Kdns, kdns

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback on this machine")


@pytest.fixture(scope="module")
def wildcard(manifests: Path):  # type: ignore[no-untyped-def]
    with kdns("--manifests", manifests, listen=["[::]:0"]) as server:
        server.wait_for("synced")
        yield server


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.255.0.9", pytest.param("::1", marks=needs_ipv6)])
def test_replies_leave_from_the_address_asked(wildcard: Kdns, host: str) -> None:
    """The client's socket is connected, so a reply from anywhere else would not arrive."""
    for _ in range(5):
        assert addresses(wildcard.port, WEB, host=host) == {"10.96.0.1"}
        assert lookup(wildcard.port, WEB, tcp=True, host=host).answer


def test_both_families_are_named(wildcard: Kdns) -> None:
    assert "answering on 0.0.0.0:" in wildcard.output()


def test_several_listeners(manifests: Path) -> None:
    with kdns("--manifests", manifests, listen=["127.0.0.1:0", "127.0.0.3:0"]) as server:
        server.wait_for("synced")
        second = int(server.wait_for(r"answering on 127.0.0.3:(\d+)")[1])
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        assert addresses(second, WEB, host="127.0.0.3") == {"10.96.0.1"}


def test_many_clients_at_once(wildcard: Kdns) -> None:
    """More than a batch of datagrams waits, from as many sockets: each gets its own answer."""
    names = [WEB, "db.default.svc.cluster.local.", "no.default.svc.cluster.local."]
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(300)]
    try:
        for number, sock in enumerate(socks):
            sock.settimeout(10)
            sock.connect((f"127.0.0.{1 + number % 9}", wildcard.port))
            sock.send(dns.message.make_query(names[number % 3], "A", id=number).to_wire())
        for number, sock in enumerate(socks):
            reply = dns.message.from_wire(sock.recv(4096))
            assert reply.id == number
            assert reply.question[0].name.to_text() == names[number % 3]
    finally:
        for sock in socks:
            sock.close()


def test_datagrams_longer_than_any_query(wildcard: Kdns) -> None:
    wire = dns.message.make_query(WEB, "A", id=1).to_wire() + b"x" * 9000
    reply = ask_udp(wildcard.port, wire)
    assert reply is not None
    assert dns.message.from_wire(reply).rcode() == 1
