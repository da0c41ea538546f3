"""The change feed of kdns (RFC 8765 over RFC 8490): what is pushed, when, and what bad clients get."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest
import trustme

from tests.support.api_server import ApiServer
from tests.support.client import ask_tcp, lookup, read_framed
from tests.support.dso import (
    KEEPALIVE,
    keepalive,
    message,
    PUSH,
    RECONFIRM,
    RETRY_DELAY,
    SUBSCRIBE,
    subscribe,
    Subscriber,
    tlv,
    unsubscribe,
)
from tests.support.kube import endpoint_slice, namespace, service
from tests.support.process import Kdns, kdns, run_kdns, wait_until

pytestmark = pytest.mark.system

Z = "default.svc.cluster.local."
EXTERNAL = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "ext", "namespace": "default"},
    "spec": {"type": "ExternalName", "externalName": "www.example.com"},
}


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.put(
            namespace(),
            service("web", "10.96.0.1"),
            service("db"),
            endpoint_slice("db", "10.1.0.1", "10.1.0.2"),
            EXTERNAL,
        )
        yield api


@pytest.fixture
def server(api: ApiServer) -> Iterator[Kdns]:
    with kdns("--api-server", api.url, "--push=tcp") as server:
        server.wait_for("synced after")
        yield server


def test_what_there_is_comes_first_and_then_every_change(api: ApiServer, server: Kdns) -> None:
    with Subscriber(server.port) as client:
        assert client.subscribe(1, f"web.{Z}", "A") == 0
        assert client.read().changes == [f"+web.{Z} A 10.96.0.1"]
        assert client.subscribe(2, f"new.{Z}", "ANY") == 0
        assert client.is_quiet()
        api.put(service("new", "10.96.0.9"))
        told = client.read()
        assert (told.id, told.is_response) == (0, False)
        assert told.changes == [f"+new.{Z} A 10.96.0.9", f"+new.{Z} SRV 0 100 80 new.{Z}"]
        api.put(service("new", "10.96.0.10"))
        assert client.read().changes == [f"+new.{Z} A 10.96.0.10", f"-new.{Z} A 10.96.0.9"]
        api.delete("Service", "new")
        assert client.read().changes == [f"-new.{Z} A 10.96.0.10", f"-new.{Z} SRV 0 100 80 new.{Z}"]
        api.put(service("other", "10.96.0.11"))
        assert client.is_quiet()
        client.send(unsubscribe(2))
        api.put(service("new", "10.96.0.9"))
        assert client.is_quiet()
        assert lookup(server.port, f"new.{Z}").answer
        assert "kdns_push_subscriptions 1.0" in server.page("/metrics")[1]
    server.wait_until(lambda: "kdns_push_subscriptions 0.0" in server.page("/metrics")[1])
    assert "kdns_push_topics 0.0" in server.page("/metrics")[1]


def test_endpoints_aliases_search_paths_and_reverse_names(api: ApiServer, server: Kdns) -> None:
    with Subscriber(server.port) as client:
        for number, (name, rrtype) in enumerate(
            [(f"db.{Z}", "A"), (f"ext.{Z}", "CNAME"), ("1.0.1.10.in-addr.arpa.", "PTR")], start=1
        ):
            assert client.subscribe(number, name, rrtype) == 0
            assert client.read().tlvs[0][0] == PUSH
        # an alias is a CNAME and nothing else; what it leads to is the client's to follow
        assert client.subscribe(9, f"ext.{Z}", "A") == 0
        assert client.is_quiet()
        api.put(endpoint_slice("db", "10.1.0.2", "10.1.0.3"))
        changes = client.read().changes + client.read().changes
        assert sorted(changes) == sorted(
            [f"+db.{Z} A 10.1.0.3", f"-db.{Z} A 10.1.0.1", f"-1.0.1.10.in-addr.arpa. PTR 10-1-0-1.db.{Z}"]
        )
        api.put({**EXTERNAL, "spec": {"type": "ExternalName", "externalName": "b.example.com"}})
        assert client.read().changes == [f"+ext.{Z} CNAME b.example.com.", f"-ext.{Z} CNAME www.example.com."]
        path = "new.search.default.cluster.local.ap.k8s.io."
        assert client.subscribe(10, path, "A") == 0
        assert client.is_quiet()
        api.put(service("new", "10.96.0.9"))
        assert client.read().changes == [f"+{path} CNAME new.{Z}"]
        assert client.subscribe(11, "cluster.local.", "SOA") == 0
        first = client.read().changes
        api.put(service("later", "10.96.0.12"))
        assert client.read().changes != first  # the serial moved


def test_everything_of_a_large_service_in_messages_that_pointers_reach(api: ApiServer, server: Kdns) -> None:
    for part in range(30):
        api.put(endpoint_slice("db", *(f"10.2.{part}.{n}" for n in range(1, 101)), name=f"db-{part}"))
    server.wait_until(lambda: len(lookup(server.port, f"db.{Z}", tcp=True).answer[0]) == 3000 + 0)
    with Subscriber(server.port) as client:
        assert client.subscribe(1, f"db.{Z}", "A") == 0
        changes: list[str] = []
        while len(changes) < 3000:
            told = client.read()
            assert len(told.wire) <= 16_382
            changes += told.changes
        assert len(set(changes)) == 3000
        api.put(endpoint_slice("db", *(f"10.2.0.{n}" for n in range(1, 100)), name="db-0"))
        assert client.read().changes == [f"-db.{Z} A 10.2.0.100"]


def test_a_static_record_that_comes_and_goes(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n")
    hosts = tmp_path / "hosts"
    hosts.write_text("")
    with (
        kdns(
            "--manifests", tmp_path / "m.yaml", "--push=tcp", "--hosts", hosts, "--rewrite", f"old.{Z}=here.{Z}"
        ) as server,
        Subscriber(server.port) as client,
    ):
        assert client.subscribe(1, f"here.{Z}", "A") == 0
        assert client.subscribe(2, f"old.{Z}", "A") == 0
        hosts.write_text(f"10.9.9.9 here.{Z}\n")
        changes = client.read().changes + client.read().changes
        assert sorted(changes) == [f"+here.{Z} A 10.9.9.9", f"+old.{Z} A 10.9.9.9"]
        hosts.write_text("")
        changes = client.read().changes + client.read().changes
        assert sorted(changes) == [f"-here.{Z} A 10.9.9.9", f"-old.{Z} A 10.9.9.9"]


def test_queries_go_on_beside_a_session(server: Kdns) -> None:
    with Subscriber(server.port) as client:
        query = dns.message.make_query(f"web.{Z}", "A").to_wire()
        client.send(subscribe(1, f"no.{Z}", "A"), query, keepalive(2))
        replies = [read_framed(client.sock) for _ in range(3)]
        assert {reply[:2] for reply in replies} == {b"\0\1", b"\0\2", query[:2]}
        (answer,) = [reply for reply in replies if reply[:2] == query[:2]]
        assert dns.message.from_wire(answer).answer[0][0].to_text() == "10.96.0.1"


@pytest.mark.parametrize(
    ("wire", "rcode"),
    [
        (subscribe(7, "www.example.com.", "A"), 9),
        (subscribe(7, f"web.{Z}", "A", rclass=3), 5),
        (subscribe(7, f"web.{Z}", "A", rclass=255), 0),
        (message(7, tlv(SUBSCRIBE, b"\3web")), 1),
        (message(7, tlv(SUBSCRIBE, b"\xc0\x0c\0\1\0\1")), 1),
        (message(7, tlv(SUBSCRIBE, b"\0\0\1\0\1\0")), 1),
        (message(7, tlv(SUBSCRIBE, b"")), 1),
        (message(7, tlv(SUBSCRIBE, b"\1a\0\0\1\0\1")[:-1]), 1),
        (message(7, b""), 1),
        (message(7, b"\0\1"), 1),
        (struct.pack("!HHHHHH", 7, 0x3000, 1, 0, 0, 0) + tlv(SUBSCRIBE, b"\0\0\1\0\1"), 1),
        (message(7, tlv(KEEPALIVE, b"\0\0")), 1),
        (message(7, tlv(0x1234, b"x")), 11),
        (message(7, tlv(0xF900, b"")), 11),
        (message(7, tlv(RECONFIRM, b"")), 1),
    ],
    ids=["not-ours", "other-class", "any-class", "cut-name", "pointer", "long", "empty", "cut-tlv", "no-tlv", "half-tlv", "counts", "short-keepalive",
         "unknown", "private", "request-of-a-notice"],
)  # fmt: skip
def test_a_request_gets_the_rcode_it_deserves(server: Kdns, wire: bytes, rcode: int) -> None:
    with Subscriber(server.port) as client:
        client.send(wire)
        told = client.read()
        assert (told.id, told.is_response, told.opcode, told.rcode) == (7, True, 6, rcode)
        client.send(keepalive(8))  # and the connection goes on
        while (told := client.read()).id != 8:
            pass
        assert struct.unpack("!II", told.tlvs[0][1]) == (15_000, 60_000)


@pytest.mark.parametrize(
    "wires",
    [
        [message(0, tlv(PUSH, b""))],
        [message(0, tlv(0x1234, b""))],
        [message(0, b"\0\1")],
        [message(0, tlv(0x42, b"\0\7"))],
        [keepalive(1), unsubscribe(99)],
        [keepalive(1), message(0, tlv(0x42, b"\0"))],
        [keepalive(1), message(5, tlv(KEEPALIVE, bytes(8)), flags=0xB000)],
        [subscribe(1, f"web.{Z}", "A"), subscribe(1, f"db.{Z}", "A")],
        [subscribe(1, f"web.{Z}", "A"), subscribe(2, f"WEB.{Z}", "A")],
    ],
    ids=["push", "unknown-notice", "cut-notice", "before-any-request", "unknown-id", "short-unsubscribe", "response", "same-id", "same-name"],
)  # fmt: skip
def test_what_breaks_the_rules_is_cut(server: Kdns, wires: list[bytes]) -> None:
    with Subscriber(server.port) as client, Subscriber(server.port) as other:
        assert other.subscribe(1, f"web.{Z}", "A") == 0
        client.send(*wires)
        assert client.is_cut()
        other.send(keepalive(2))
        assert other.read().tlvs[0][0] == PUSH
        assert other.read().id == 2
        assert "kdns_push_sessions 1.0" in server.page("/metrics")[1]


def test_without_push_there_are_no_sessions(api: ApiServer) -> None:
    with kdns("--api-server", api.url) as server:
        reply = ask_tcp(server.port, keepalive(7))
        assert reply is not None
        assert reply[:4] == b"\0\7\xb0\4"  # NOTIMP, the opcode as it was


def test_over_udp_there_are_none(server: Kdns) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(keepalive(7), ("127.0.0.1", server.port))
        assert sock.recv(512)[:4] == b"\0\7\xb0\4"


def test_before_the_cluster_is_known_nothing_is_promised() -> None:
    with kdns("--api-server", "http://127.0.0.1:9", "--push=tcp") as server, Subscriber(server.port) as client:
        assert client.subscribe(1, f"web.{Z}", "A") == 2


def test_a_client_that_never_reads_is_cut_and_holds_nobody_up(api: ApiServer, server: Kdns) -> None:
    with Subscriber(server.port) as deaf, Subscriber(server.port) as good:
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        assert deaf.subscribe(1, f"db.{Z}", "A") == 0
        assert good.subscribe(1, f"web.{Z}", "A") == 0
        good.read()
        for turn in range(60):
            api.put(
                *(
                    endpoint_slice("db", *(f"10.{turn}.{part}.{n}" for n in range(1, 101)), name=f"db-{part}")
                    for part in range(20)
                )
            )
            api.put(service("web", f"10.96.1.{turn}"))
            assert any(f"+web.{Z} A 10.96.1.{turn}" in good.read().changes for _ in range(3))
            if "kdns_push_sessions 1.0" in server.page("/metrics")[1]:
                break
        server.wait_until(lambda: "kdns_push_sessions 1.0" in server.page("/metrics")[1])


def test_a_session_that_says_nothing_ends_and_one_with_subscriptions_does_not(server: Kdns) -> None:
    with Subscriber(server.port) as idle, Subscriber(server.port) as held:
        idle.send(keepalive(1))
        idle.read()
        assert held.subscribe(1, f"web.{Z}", "A") == 0
        began = time.monotonic()
        idle.sock.settimeout(60)
        assert idle.sock.recv(1) == b""
        assert time.monotonic() - began > 20
        held.send(keepalive(2))
        assert held.read().tlvs[0][0] == PUSH
        assert held.read().id == 2


def test_clients_are_told_to_go_when_the_program_stops(api: ApiServer) -> None:
    with kdns("--api-server", api.url, "--push=tcp", lameduck=3) as server:
        server.wait_for("synced after")
        with Subscriber(server.port) as client:
            assert client.subscribe(1, f"no.{Z}", "A") == 0
            server.process.send_signal(signal.SIGTERM)
            told = client.read()
            assert [kind for kind, _ in told.tlvs] == [RETRY_DELAY]
            assert lookup(server.port, f"web.{Z}").answer


def test_slow_connections_push_no_session_out(server: Kdns) -> None:
    with Subscriber(server.port) as client:
        assert client.subscribe(1, f"no.{Z}", "A") == 0
        crowd = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(400)]
        try:
            client.send(keepalive(2))
            assert client.read().id == 2
        finally:
            for sock in crowd:
                sock.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certificate(authority: trustme.CA, folder: Path, name: str) -> tuple[Path, Path]:
    cert = authority.issue_cert(name)
    paths = folder / "cert.pem", folder / "key.pem"
    for path, pems in zip(paths, (cert.cert_chain_pems, [cert.private_key_pem]), strict=True):
        new = path.with_suffix(".new")
        new.write_bytes(b"".join(pem.bytes() for pem in pems))
        os.replace(new, path)
    return paths


def test_over_tls(api: ApiServer, tmp_path: Path, authority: trustme.CA) -> None:
    cert, key = certificate(authority, tmp_path, "kdns.example")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    flags = ["--listen-tls=127.0.0.1:0", f"--tls-cert={cert}", f"--tls-key={key}"]
    with kdns("--api-server", api.url, "--push=tls", *flags) as server:
        server.wait_for("synced after")
        port = int(server.wait_for(r"answering on \S+:(\d+) \(tls\)")[1])
        reply = dns.query.tls(
            dns.message.make_query(f"web.{Z}", "A"),
            "127.0.0.1",
            port=port,
            ssl_context=trust,
            server_hostname="kdns.example",
            timeout=10,
        )
        assert reply.answer[0][0].to_text() == "10.96.0.1"
        with Subscriber(port, tls=trust, name="kdns.example") as client:
            assert client.subscribe(1, f"web.{Z}", "A") == 0
            assert client.read().changes == [f"+web.{Z} A 10.96.0.1"]
            api.put(service("web", "10.96.0.2"))
            assert client.read().changes == [f"+web.{Z} A 10.96.0.2", f"-web.{Z} A 10.96.0.1"]
        assert ask_tcp(server.port, keepalive(7)) == keepalive(7)[:2] + b"\xb0\4" + bytes(8)  # not over plain TCP
        certificate(authority, tmp_path, "renewed.example")
        server.wait_for("read anew")
        with Subscriber(port, tls=trust, name="renewed.example") as client:
            assert client.subscribe(1, f"no.{Z}", "A") == 0
        # one of two files written: the certificate that there was goes on being shown, with its key
        cert.write_bytes(b"".join(pem.bytes() for pem in authority.issue_cert("other.example").cert_chain_pems))
        server.wait_until(lambda: "--tls-cert" in server.page("/ready")[1])
        with Subscriber(port, tls=trust, name="renewed.example") as client:
            assert client.subscribe(1, f"no.{Z}", "A") == 0
        cert.write_text("nonsense")
        server.wait_until(lambda: "--tls-cert" in server.page("/ready")[1])
        with Subscriber(port, tls=trust, name="renewed.example") as client:
            assert client.subscribe(1, f"no.{Z}", "A") == 0
        # who speaks no TLS, or nothing at all, is closed and holds nobody up
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while sock.recv(100):
                pass


def test_what_is_wrong_is_told(tmp_path: Path, authority: trustme.CA) -> None:
    (tmp_path / "m.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n")
    cert, key = certificate(authority, tmp_path, "kdns.example")
    source = ["--manifests", str(tmp_path / "m.yaml")]
    for flags, part in (
        (["--push=always"], "--push: found 'always'; expected off, tls or tcp"),
        (["--push=tls"], "--push: found tls, and no --listen-tls"),
        (["--listen-tls=127.0.0.1"], "--listen-tls: found no --tls-cert"),
        ([f"--tls-cert={cert}"], "--tls-cert: found no --listen-tls"),
        (
            ["--listen-tls=127.0.0.1", f"--tls-cert={cert}", f"--tls-key={cert}"],
            f"--tls-cert {cert}, --tls-key {cert}: found what cannot be used together",
        ),
        (["--listen-tls=127.0.0.1", f"--tls-cert={key}", "--tls-key=/none"], "--tls-key: found '/none'"),
    ):
        result = run_kdns("check", *source, *flags)
        assert result.returncode == 2, flags
        assert part in result.stderr


def test_dead_sessions_leave_nothing_behind(api: ApiServer, server: Kdns) -> None:
    for _ in range(30):
        with Subscriber(server.port) as client:
            client.send(*(subscribe(n, f"n{n}.{Z}", "ANY") for n in range(1, 50)))
            client.read()
    wait_until(lambda: "kdns_push_topics 0.0" in server.page("/metrics")[1])
    assert "kdns_push_sessions 0.0" in server.page("/metrics")[1]
