"""Zone transfer: asked for by dnspython and dig, and by NSD and Knot as real secondaries that are notified of changes."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zone
import pytest
import yaml

from tests.support.client import ask_tcp, ask_udp, lookup, read_framed
from tests.support.kube import endpoint_slice, namespace, pod, service
from tests.support.process import kdns, run_kdns, wait_until
from tests.support.secondary import free_port, knot, needs_knot, needs_nsd, nsd
from tests.system.test_external import gateway, ingress, route
from tests.system.test_multicluster import imported, service_import

pytestmark = pytest.mark.system

ZONES = ("cluster.local", "in-addr.arpa", "ip6.arpa", "clusterset.local", "apps.example", "eu.apps.example")
OPTIONS = (
    "--clusterset-zone=clusterset.local",
    "--external-zone=apps.example",
    "--external-zone=eu.apps.example",
    "--pods=verified",
)
ALLOWED = "--transfer-to=127.0.0.0/8"

OBJECTS = [
    namespace(),
    {**service("web", "10.96.0.1", clusterIPs=["10.96.0.1", "fd00::1"], externalIPs=["192.0.2.1"])},
    service("db"),
    endpoint_slice("db", "10.1.0.1", "10.1.0.2", "10.1.0.3"),
    endpoint_slice("db", "fd00:1::1", name="db-6"),
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "out", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "www.example.com"},
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "in", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "db.default.svc.cluster.local"},
    },
    pod("p", "10.244.0.9"),
    service_import("web", "10.112.0.9"),
    service_import("far", type="Headless"),
    imported("far", "east.registry", "10.2.0.1"),
    ingress("shop", "*.shop.apps.example", at="192.0.2.10"),
    ingress("cdn", "cdn.apps.example", "www.eu.apps.example", at="cdn.cloud.example"),
    gateway("gw", "192.0.2.20"),
    route("HTTPRoute", "h", "h.apps.example"),
]


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    path = tmp_path / "manifests"
    path.mkdir()
    (path / "all.yaml").write_text(yaml.safe_dump_all(OBJECTS))
    return path


def transferred(port: int, zone: str) -> dns.zone.Zone:
    return dns.zone.from_xfr(
        dns.query.xfr("127.0.0.1", zone, port=port, lifetime=20, relativize=False), relativize=False
    )


def rrsets(zone: dns.zone.Zone) -> Iterator[dns.rrset.RRset]:
    for name, node in zone.nodes.items():
        for rdataset in node:
            yield dns.rrset.from_rdata_list(name, rdataset.ttl, list(rdataset))


def serial(port: int, zone: str, *, tcp: bool = False) -> int:
    reply = lookup(port, zone, "SOA", tcp=tcp)
    return int(reply.answer[0][0].serial) if reply.answer else 0


def test_every_zone_is_transferred_as_it_is_printed(manifests: Path) -> None:
    hosts = manifests.parent / "hosts"
    hosts.write_text("10.9.9.9 extra.default.svc.cluster.local\n10.9.9.8 web.default.svc.cluster.local\n")
    with kdns("--manifests", manifests, *OPTIONS, ALLOWED, "--hosts", hosts) as server:
        for zone in ZONES:
            ours = transferred(server.port, zone)
            printed = run_kdns(
                "zone", zone, "--manifests", manifests, *OPTIONS, "--hosts", hosts, "--listen", "127.0.0.1:5300"
            )
            theirs = dns.zone.from_text(printed.stdout, zone, relativize=False, check_origin=False)
            for some in (ours, theirs):
                some.delete_rdataset(f"{zone}.", "SOA")
            assert {r.to_text() for r in rrsets(ours)} == {r.to_text() for r in rrsets(theirs)}
        owners = {name.to_text() for name in transferred(server.port, "cluster.local")}
        assert {
            "dns-version.cluster.local.",
            "10-244-0-9.default.pod.cluster.local.",
            "extra.default.svc.cluster.local.",
        } <= owners
        delegated = {(r.name.to_text(), r.rdtype) for r in rrsets(transferred(server.port, "apps.example"))}
        assert ("eu.apps.example.", dns.rdatatype.NS) in delegated
        assert 'kdns_transfers_total{result="whole",zone="cluster.local."} 2.0' in server.page("/metrics")[1]


def query(zone: str, rrtype: str, *, ixfr: int | None = None, edns: int = -1) -> bytes:
    message = dns.message.make_query(zone, rrtype, use_edns=edns)
    if ixfr is not None:
        soa = f"{zone}. 0 IN SOA . . {ixfr} 0 0 0 0".split(None, 4)
        message.authority.append(dns.rrset.from_text(soa[0], 0, "IN", "SOA", soa[4]))
    return message.to_wire()


def rcode(reply: bytes | None) -> str:
    assert reply is not None
    return dns.rcode.to_text(dns.message.from_wire(reply, xfr=True).rcode())


def test_a_large_record_is_transferred_and_one_beyond_ends_nothing(manifests: Path) -> None:
    text = " ".join(["x" * 250] * 40)
    with kdns("--manifests", manifests, ALLOWED, "--record", f"big.cluster.local TXT {text}") as server:
        zone = transferred(server.port, "cluster.local")
        assert len(str(zone.get_rdataset("big.cluster.local.", "TXT"))) > 10_000
        assert transferred(server.port, "in-addr.arpa")


def test_zones_of_every_kind_are_delegated_to(manifests: Path) -> None:
    flags = [
        "--zone=cluster.local",
        "--zone=inner.corp.example",
        "--external-zone=corp.example",
        "--reverse=10.0.0.0/8",
        "--reverse=10.96.0.0/16",
    ]
    with kdns("--manifests", manifests, ALLOWED, *flags) as server:
        for above, below in (("corp.example", "inner.corp.example."), ("10.in-addr.arpa", "96.10.in-addr.arpa.")):
            found = list(rrsets(transferred(server.port, above)))
            assert (below, dns.rdatatype.NS) in {(r.name.to_text(), r.rdtype) for r in found}
            assert not any(
                r.name.to_text().endswith(f".{below}") and r.rdtype not in (dns.rdatatype.A, dns.rdatatype.AAAA)
                for r in found
            )


def test_who_gets_what(manifests: Path) -> None:
    with kdns("--manifests", manifests, *OPTIONS, ALLOWED) as server:
        port = server.port
        assert rcode(ask_udp(port, query("cluster.local", "AXFR"))) == "FORMERR"
        assert rcode(ask_tcp(port, query("default.svc.cluster.local", "AXFR"))) == "NOTAUTH"
        assert rcode(ask_tcp(port, query("example.com", "AXFR"))) == "NOTAUTH"
        assert rcode(ask_tcp(port, query("cluster.local.ap.k8s.io", "AXFR"))) == "REFUSED"
        assert rcode(ask_tcp(port, query("cluster.local", "AXFR", edns=1))) == "BADVERS"
        now = serial(port, "cluster.local")
        for ask in (ask_udp, ask_tcp):
            for had in (now, now + 5):
                reply = dns.message.from_wire(ask(port, query("cluster.local", "IXFR", ixfr=had)) or b"", xfr=True)
                assert [r.rdtype for r in reply.answer] == [dns.rdatatype.SOA]
                assert len(reply.answer[0]) == 1
        old = dns.message.from_wire(ask_udp(port, query("cluster.local", "IXFR", ixfr=now - 9)) or b"", xfr=True)
        assert [r.rdtype for r in old.answer] == [dns.rdatatype.SOA]
        whole = dns.message.from_wire(ask_tcp(port, query("cluster.local", "IXFR", ixfr=now - 9)) or b"", xfr=True)
        assert len(whole.answer) > 10
        assert whole.flags & dns.flags.AA
    with kdns("--manifests", manifests, "--transfer-to=192.0.2.0/24", "--transfer-to=2001:db8::1") as server:
        assert rcode(ask_tcp(server.port, query("cluster.local", "AXFR"))) == "REFUSED"
        assert rcode(ask_udp(server.port, query("cluster.local", "IXFR", ixfr=1))) == "REFUSED"
        assert 'kdns_transfers_total{result="refused",zone="cluster.local."} 2.0' in server.page("/metrics")[1]
    with kdns("--manifests", manifests) as server:
        assert rcode(ask_tcp(server.port, query("cluster.local", "AXFR"))) == "REFUSED"


def test_a_zone_that_is_not_complete_is_not_transferred() -> None:
    with kdns("--api-server", f"http://127.0.0.1:{free_port()}", ALLOWED) as server:
        assert rcode(ask_tcp(server.port, query("cluster.local", "AXFR"))) == "SERVFAIL"


@pytest.mark.skipif(shutil.which("dig") is None, reason="needs Debian's package bind9-dnsutils")
def test_dig_axfr(manifests: Path) -> None:
    with kdns("--manifests", manifests, ALLOWED) as server:
        command = ["dig", "@127.0.0.1", "-p", str(server.port), "cluster.local", "AXFR", "+noidnout"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        assert "XFR size: " in result.stdout
        assert result.stdout.count("IN\tSOA") == 2


def test_a_large_zone_goes_over_many_messages_and_changes_meanwhile_do_not_show(manifests: Path) -> None:
    many = [service(f"s{n}", f"10.97.{n >> 8}.{n & 255}") for n in range(1, 3000)]
    (manifests / "many.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": many}))
    with kdns("--manifests", manifests, ALLOWED) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire = query("cluster.local", "AXFR")
            sock.sendall(struct.pack("!H", len(wire)) + wire)
            first = dns.message.from_wire(read_framed(sock), xfr=True)
            # the secondary is slow; the zone changes; another client is served on the same connection's server
            (manifests / "many.json").unlink()
            server.wait_until(lambda: not lookup(server.port, "s2999.default.svc.cluster.local").answer)
            messages = [first]
            while sum(len([1 for r in m.answer for x in r if r.rdtype == dns.rdatatype.SOA]) for m in messages) < 2:
                messages.append(dns.message.from_wire(read_framed(sock), xfr=True))
        assert len(messages) > 10
        owners = {r.name.to_text() for m in messages for r in m.answer}
        assert {f"s{n}.default.svc.cluster.local." for n in range(1, 3000)} <= owners
        assert "s1.default.svc.cluster.local." not in {
            name.to_text() for name in transferred(server.port, "cluster.local")
        }


def test_a_secondary_that_does_not_read_holds_nobody_up(manifests: Path) -> None:
    many = [service(f"s{n}", f"10.97.{n >> 8}.{n & 255}") for n in range(1, 3000)]
    (manifests / "many.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": many}))
    with kdns("--manifests", manifests, ALLOWED) as server:
        wire = query("cluster.local", "AXFR")
        socks = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(8)]
        try:
            for sock in socks:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.sendall(struct.pack("!H", len(wire)) + wire)
            assert lookup(server.port, "web.default.svc.cluster.local").answer
            assert transferred(server.port, "cluster.local")
            server.wait_until(lambda: "kdns_tcp_connections 0.0" in server.page("/metrics")[1])
        finally:
            for sock in socks:
                sock.close()


def same_answers(ours: int, theirs: int, zone: str) -> int:
    """Ask both for everything in the zone; return how many questions that was."""
    count = 0
    for rrset in rrsets(transferred(ours, zone)):
        rrtype = dns.rdatatype.to_text(rrset.rdtype)
        replies = [lookup(port, rrset.name.to_text(), rrtype, tcp=True) for port in (ours, theirs)]
        if rrset.rdtype == dns.rdatatype.SOA:
            continue  # the serial is compared by whoever waits for it
        one, other = ({(r.name, r.rdtype, x.to_text()) for r in reply.answer for x in r} for reply in replies)
        if rrset.rdtype == dns.rdatatype.NS and not other:  # a secondary of both zones answers from the lower one
            continue
        assert one == other, (rrset.name, rrtype)
        assert replies[0].rcode() == replies[1].rcode()
        count += 1
    return count


@pytest.mark.peer
@pytest.mark.parametrize(
    "peer", [pytest.param(nsd, id="NSD", marks=needs_nsd), pytest.param(knot, id="Knot", marks=needs_knot)]
)
def test_a_real_secondary_follows(manifests: Path, peer: Any) -> None:
    port = free_port()
    with (
        kdns("--manifests", manifests, *OPTIONS, ALLOWED, f"--notify=127.0.0.1:{port}") as server,
        peer(port, server.port, ZONES),
    ):
        for zone in ZONES:
            wait_until(lambda zone=zone: _has(port, zone, serial(server.port, zone)))  # type: ignore[misc]
            assert same_answers(server.port, port, zone) > 1
        time.sleep(2.5)  # what was listed at the start moves every serial once
        wait_until(lambda: all(_has(port, zone, serial(server.port, zone)) for zone in ZONES))
        before = serial(port, "cluster.local"), serial(port, "clusterset.local")
        (manifests / "new.yaml").write_text(
            yaml.safe_dump_all([service("new", "10.96.0.77"), endpoint_slice("db", "10.1.0.9", name="db-3")])
        )
        began = time.monotonic()
        wait_until(lambda: bool(_answers(port, "new.default.svc.cluster.local")))
        assert time.monotonic() - began < 15  # by NOTIFY: the SOA's refresh is two hours
        wait_until(lambda: _has(port, "cluster.local", serial(server.port, "cluster.local")))
        assert same_answers(server.port, port, "cluster.local") > 20
        assert same_answers(server.port, port, "in-addr.arpa") > 5
        assert serial(port, "cluster.local") > before[0]
        assert serial(port, "clusterset.local") == before[1]  # nothing of it changed
        server.wait_until(lambda: "--notify" not in server.page("/ready")[1])


def _has(port: int, zone: str, wanted: int) -> bool:
    answer = _answers(port, zone, "SOA")
    return bool(answer) and answer[0][0].serial == wanted


def _answers(port: int, name: str, rrtype: str = "A") -> list[dns.rrset.RRset]:
    try:
        reply = ask_udp(port, dns.message.make_query(name, rrtype).to_wire(), quiet=True)
    except ConnectionRefusedError:  # it starts
        reply = None
    return [] if reply is None else dns.message.from_wire(reply).answer


class Secondary:
    """A secondary of the test's own, which answers NOTIFY as it is told to."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.heard: list[dns.message.Message] = []
        self.is_deaf = False
        self.rcode = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                wire, client = self.sock.recvfrom(4096)
            except OSError:
                return
            message = dns.message.from_wire(wire)
            self.heard.append(message)
            if not self.is_deaf:
                self.sock.sendto(b"\0\0" + wire[2:], client)  # of another message: no answer
                self.sock.sendto(wire[:2] + bytes((0xA4, self.rcode)) + wire[4:], client)


def test_notify_until_there_is_an_answer(manifests: Path, tmp_path: Path) -> None:
    secondary = Secondary()
    secondary.is_deaf = True
    try:
        with kdns(
            "--manifests", manifests, ALLOWED, f"--notify=127.0.0.1:{secondary.port}", "--reverse=10.96.0.0/16"
        ) as server:
            wait_until(lambda: len(secondary.heard) >= 5)  # the same two again and again
            first = secondary.heard[0]
            assert first.opcode() == 4
            assert first.flags & dns.flags.AA
            assert first.question[0].rdtype == dns.rdatatype.SOA
            assert first.answer[0][0].serial == serial(server.port, first.question[0].name.to_text())
            assert len({message.question[0].name for message in secondary.heard}) == 2
            secondary.is_deaf = False
            count = len(secondary.heard)
            wait_until(lambda: len(secondary.heard) >= count + 2)
            time.sleep(1.5)
            count = len(secondary.heard)
            time.sleep(1.5)
            assert len(secondary.heard) == count  # answered, so no more
            (manifests / "new.yaml").write_text(yaml.safe_dump(service("new", "10.96.0.77")))
            wait_until(lambda: len(secondary.heard) > count)
            assert secondary.heard[-1].answer[0][0].serial >= first.answer[0][0].serial
    finally:
        secondary.sock.close()


def test_a_serial_outlives_a_clock_that_is_set_back(manifests: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    future = int(time.time()) + 86_400
    (state / "serials.json").write_text(json.dumps({"cluster.local.": future}))
    with kdns("--manifests", manifests, "--state-dir", state) as server:
        server.wait_until(lambda: serial(server.port, "cluster.local") > future)
        assert serial(server.port, "10.in-addr.arpa") == 0
        server.wait_until(lambda: json.loads((state / "serials.json").read_text())["cluster.local."] > future)
        kept = serial(server.port, "cluster.local")
    with kdns("--manifests", manifests, "--state-dir", state) as server:
        assert serial(server.port, "cluster.local") > kept
    (state / "serials.json").write_text("nonsense")
    with kdns("--manifests", manifests, "--state-dir", state) as server:
        assert abs(serial(server.port, "cluster.local") - time.time()) < 60
        server.wait_for("serials begin at the time of day")


def test_a_secondary_that_refuses_is_told(manifests: Path) -> None:
    secondary = Secondary()
    secondary.rcode = 9
    try:
        with kdns("--manifests", manifests, ALLOWED, f"--notify=127.0.0.1:{secondary.port}") as server:
            server.wait_for("NOTAUTH to NOTIFY for cluster.local")
            server.wait_until(lambda: "NOTAUTH to NOTIFY" in server.page("/ready")[1])
            assert "kdns_source_troubles 0.0" not in server.page("/metrics")[1]
    finally:
        secondary.sock.close()


def test_what_is_wrong_is_told(manifests: Path) -> None:
    result = run_kdns(
        "check",
        "--manifests",
        manifests,
        "--transfer-to=10.0.0.1/8",
        "--notify=host:53",
        "--notify=127.0.0.1:0",
        "--state-dir=/nonexistent",
    )
    assert result.returncode == 2
    for part in (
        "--transfer-to: found '10.0.0.1/8'",
        "--notify: found 'host:53'",
        "--notify: found 127.0.0.1:0",
        "--state-dir: found '/nonexistent'",
    ):
        assert part in result.stderr


def test_many_messages_at_once_with_a_transfer(manifests: Path) -> None:
    """RFC 7766: other queries on the connection are answered beside it."""
    with (
        kdns("--manifests", manifests, ALLOWED) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock,
    ):
        wires = [
            query("cluster.local", "AXFR"),
            dns.message.make_query("web.default.svc.cluster.local", "A").to_wire(),
        ] * 5
        sock.sendall(b"".join(struct.pack("!H", len(wire)) + wire for wire in wires))
        ids = {wire[:2] for wire in wires}
        seen: list[bytes] = []
        while len(seen) < len(wires):
            seen.append(read_framed(sock)[:2])
        assert set(seen) == ids
