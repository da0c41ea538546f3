"""Upstreams as users write them, resolv.conf files, and the order to ask in."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdns.upstream.servers import Protocol, read_resolv_conf, Server, server_from_text, ServerList

UDP, TCP, TLS = Protocol.UDP, Protocol.TCP, Protocol.TLS


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.1", Server("192.0.2.1", 53)),
        ("192.0.2.1:5353", Server("192.0.2.1", 5353)),
        ("2001:db8::1", Server("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", Server("2001:db8::1", 5353)),
        ("udp://192.0.2.1", Server("192.0.2.1", 53)),
        ("tcp://192.0.2.1:54", Server("192.0.2.1", 54, TCP)),
        ("tcp://[2001:db8::1]", Server("2001:db8::1", 53, TCP)),
        ("tls://192.0.2.1", Server("192.0.2.1", 853, TLS)),
        ("tls://192.0.2.1#dns.example", Server("192.0.2.1", 853, TLS, "dns.example")),
        ("tls://[2001:db8::1]:8853#dns.example", Server("2001:db8::1", 8853, TLS, "dns.example")),
        ("fe80::1%lo", Server("fe80::1%lo", 53)),
    ],
)
def test_what_is_read_is_written_again(text: str, server: Server) -> None:
    assert server_from_text(text) == server
    assert server_from_text(str(server)) == server


def test_without_a_scheme_the_default_counts() -> None:
    assert server_from_text("192.0.2.1", default=TCP) == Server("192.0.2.1", 53, TCP)
    assert server_from_text("udp://192.0.2.1", default=TCP) == Server("192.0.2.1", 53)
    assert str(Server("192.0.2.1", 53, TCP)) == "tcp://192.0.2.1:53"


@pytest.mark.parametrize(
    "text",
    ["", "dns.example", "192.0.2.1:", "192.0.2.1:x", "192.0.2.1:0", "192.0.2.1:65536", "[2001:db8::1", "[2001:db8::1]:",
     "https://192.0.2.1", "tls://192.0.2.1#", "192.0.2.1#name", "tcp://192.0.2.1#name", "192.0.2.300", "tls://", "192.0.2.1%eth0", "fe80::1%",
     "tls://192.0.2.1#.dns.example", "tls://192.0.2.1#a..b"],
)  # fmt: skip
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(ValueError):
        server_from_text(text)


def test_a_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# nameserver 192.0.2.9\n; nameserver 192.0.2.8\nnameserver 192.0.2.1 # first\nnameserver nonsense\n"
        "nameserver\nnameserver 2001:db8::1\nsearch old.test\ndomain older.test\nsearch one.test a..b two.test .\n"
        "options ndots:5\n\xff\n",
        encoding="latin-1",
    )
    conf = read_resolv_conf(path)
    assert conf.servers == (Server("192.0.2.1"), Server("2001:db8::1"))
    assert [name.to_text() for name in conf.search] == ["one.test.", "two.test."]


def test_order_backoff_and_loops() -> None:
    first, second = Server("192.0.2.1"), Server("192.0.2.2")
    servers = ServerList([first, second])
    assert servers.in_order(0) == (first, second)
    servers.failed(first, 0)
    assert servers.in_order(0) == (first, second), "one failure is none"
    servers.failed(first, 0)
    assert servers.in_order(0.5) == (second, first)
    assert servers.in_order(1.1) == (first, second), "its back-off has ended"
    servers.failed(first, 1.1)
    assert servers.in_order(2.5) == (second, first), "and is longer now"
    servers.succeeded(first)
    assert servers.in_order(2.5) == (first, second)
    assert servers.set_looping(second, True)
    assert not servers.set_looping(second, True), "no news"
    assert servers.in_order(3) == (first,)
    assert servers.all(3) == (first, second)
    assert servers.set_looping(second, False)
    assert servers.in_order(3) == (first, second)


def test_a_file_is_followed_and_what_it_last_named_stays(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\nnameserver 192.0.2.99\nsearch a.test\n")
    own = Server("192.0.2.99")
    servers = ServerList([path, Server("192.0.2.3")], own=lambda server: server == own)
    assert servers.in_order(0) == (Server("192.0.2.1"), Server("192.0.2.3"))
    assert [name.to_text() for name in servers.search(0)] == ["a.test."]
    path.write_text("nameserver 192.0.2.2\nsearch b.test\n")
    assert servers.in_order(0.5)[0] == Server("192.0.2.1"), "looked at once a second"
    assert servers.in_order(1.1)[0] == Server("192.0.2.2")
    assert [name.to_text() for name in servers.search(1.1)] == ["b.test."]
    path.write_text("nothing\n")
    assert servers.in_order(2.2)[0] == Server("192.0.2.2")
    path.unlink()
    assert servers.in_order(3.3)[0] == Server("192.0.2.2")
