"""A real ``nodelocal serve`` between real sockets: spoofing defences, TCP, TLS, resolv.conf, the control socket."""

from __future__ import annotations

import collections
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
import trustme

from tests.conftest import outside
from tests.support.client import ask_udp, lookup
from tests.support.kube import pod
from tests.support.process import Kdns, kdns, nodelocal, run_kdns, wait_until
from tests.support.upstream import answer, Reply, Upstream

pytestmark = pytest.mark.system

DEAD = "127.0.0.1:9"


def anything(query: dns.message.Message, tcp: bool) -> Reply:
    """Give every name an address."""
    return answer(query, f"{query.question[0].name} 60 IN A 192.0.2.1").to_wire()


def addresses_of(port: int, name: str, *, tcp: bool = False) -> list[str]:
    return sorted(
        rdata.to_text() for rrset in lookup(port, name, tcp=tcp).answer if rrset.rdtype == 1 for rdata in rrset
    )


# -- spoofing ------------------------------------------------------------------------------------------------------------


def test_ports_and_ids_of_10000_questions_are_spread_evenly() -> None:
    """RFC 5452: a fresh port and ID each; neither predicts the next."""
    with (
        Upstream(anything) as upstream,
        nodelocal("--cluster", DEAD, "--upstream", upstream.text, "--cache-size", "1MiB") as server,
    ):
        wait_until(lambda: len(upstream.queries) > 0)  # the loop probe
        upstream.queries.clear()
        wanted = 10_000
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", server.port))
            sock.settimeout(10)
            for start in range(0, wanted, 50):
                for number in range(start, start + 50):
                    sock.send(dns.message.make_query(f"n{number}.example.", "A").to_wire())
                for _ in range(50):
                    sock.recv(4096)
        ports = [client[1] for _, _, client in upstream.queries]
        ids = [query.id for query, _, _ in upstream.queries]
        assert len(ports) >= wanted
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
        assert _is_even([(port - low) / (high + 1 - low) for port in ports])
        assert _is_even([number / 65_536 for number in ids])
        assert len(set(ports)) > 0.75 * min(wanted, high - low)
        assert max(collections.Counter(pair for pair in zip(ports, ids, strict=True)).values()) <= 2
        steps = collections.Counter(later - earlier for earlier, later in pairwise(ports))
        assert max(steps.values()) < 30, "no step between one port and the next is common"


def _is_even(shares: list[float], bins: int = 64) -> bool:
    """Chi-squared: with 63 degrees of freedom a value above 130 comes once in a million times."""
    counts = collections.Counter(int(share * bins) for share in shares)
    expected = len(shares) / bins
    return sum((counts[number] - expected) ** 2 / expected for number in range(bins)) < 130


def test_wrong_datagrams_before_the_right_one_are_passed_over() -> None:
    def script(query: dns.message.Message, tcp: bool) -> Reply:
        true = answer(query, f"{query.question[0].name} 60 IN A 192.0.2.1").to_wire()
        other_id = bytes([true[0] ^ 1]) + true[1:]
        other_name = dns.message.make_query("evil.example.", "A", id=query.id)
        not_a_reply = bytearray(true)
        not_a_reply[2] &= 0x7F
        evil = answer(other_name, "evil.example. 60 IN A 192.0.2.66").to_wire()
        return [b"", b"x", other_id, evil, bytes(not_a_reply), true[:20], true]

    with Upstream(script) as upstream, nodelocal("--cluster", DEAD, "--upstream", upstream.text) as server:
        assert addresses_of(server.port, "www.example.") == ["192.0.2.1"]
        page = server.page("/metrics")[1]
        mismatched = next(
            line for line in page.splitlines() if line.startswith("nodelocal_upstream_mismatched_replies_t")
        )
        assert float(mismatched.split()[1]) >= 4


def test_a_datagram_from_elsewhere_never_arrives() -> None:
    """The socket is connected: the system drops what another address sends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind(("127.0.0.2", 0))

        def script(query: dns.message.Message, tcp: bool) -> Reply:
            client = upstream.queries[-1][2]
            elsewhere.sendto(answer(query, f"{query.question[0].name} 60 IN A 192.0.2.66").to_wire(), client)
            time.sleep(0.05)
            return answer(query, f"{query.question[0].name} 60 IN A 192.0.2.1").to_wire()

        with Upstream(script) as upstream, nodelocal("--cluster", DEAD, "--upstream", upstream.text) as server:
            assert addresses_of(server.port, "www.example.") == ["192.0.2.1"]


# -- TCP ---------------------------------------------------------------------------------------------------------------------


class OutOfOrder:
    """A TCP server that waits for a batch of questions on one connection, and answers them the last first."""

    def __init__(self, batch: int, *, close_after: int = 0) -> None:
        self.batch = batch
        self.close_after = close_after
        self.connections = 0
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        buffer, waiting, answered = b"", [], 0
        with conn:
            while chunk := conn.recv(65_536):
                buffer += chunk
                while len(buffer) >= 2 and len(buffer) >= (end := 2 + struct.unpack("!H", buffer[:2])[0]):
                    query = dns.message.from_wire(buffer[2:end])
                    buffer = buffer[end:]
                    name = query.question[0].name.to_text()
                    wire = answer(query, f"{name} 60 IN A 192.0.2.{len(name) % 250}").to_wire()
                    if name.count(".") == 2 and len(name) > 60:  # the loop probe is answered at once
                        conn.sendall(struct.pack("!H", len(wire)) + wire)
                        continue
                    waiting.append(wire)
                if len(waiting) >= self.batch:
                    for wire in reversed(waiting):
                        conn.sendall(struct.pack("!H", len(wire))[:1])
                        time.sleep(0.001)
                        conn.sendall(struct.pack("!H", len(wire))[1:] + wire)
                        answered += 1
                        if self.close_after and answered >= self.close_after:
                            self.batch, self.close_after = 1, 0  # the others come again, on another connection
                            conn.sendall(b"\x10\x00half of a message")
                            return
                    waiting = []


def test_questions_over_tcp_share_a_connection_and_are_answered_in_any_order() -> None:
    upstream = OutOfOrder(20)
    with upstream.sock, nodelocal("--cluster", DEAD, "--upstream", f"tcp://127.0.0.1:{upstream.port}") as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", server.port))
            sock.settimeout(10)
            names = [f"{'x' * number}.example." for number in range(1, 21)]
            for name in names:
                sock.send(dns.message.make_query(name, "A").to_wire())
            for _ in names:
                reply = dns.message.from_wire(sock.recv(4096))
                name = reply.question[0].name.to_text()
                assert reply.answer[0][0].to_text() == f"192.0.2.{len(name) % 250}"
        assert upstream.connections <= 2


def test_a_connection_closed_in_mid_message_costs_no_answer() -> None:
    upstream = OutOfOrder(4, close_after=2)
    with upstream.sock, nodelocal("--cluster", DEAD, "--upstream", f"tcp://127.0.0.1:{upstream.port}") as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", server.port))
            sock.settimeout(10)
            names = [f"{'y' * number}.example." for number in range(1, 5)]
            for name in names:
                sock.send(dns.message.make_query(name, "A").to_wire())
            first = {dns.message.from_wire(sock.recv(4096)).question[0].name.to_text() for _ in range(2)}
            assert len(first) == 2
            replies = [dns.message.from_wire(sock.recv(4096)) for _ in range(2)]
            assert all(reply.answer for reply in replies)
        assert upstream.connections >= 2


def test_the_cluster_is_asked_over_tcp_on_few_connections() -> None:
    with Upstream(anything) as upstream, nodelocal("--cluster", upstream.text, "--upstream", DEAD) as server:
        for number in range(50):
            assert addresses_of(server.port, f"s{number}.team.svc.cluster.local") == ["192.0.2.1"]
        assert all(tcp for _, tcp, _ in upstream.queries)
        assert upstream.connections <= 2
        page = server.page("/metrics")[1]
        labels = f'{{proto="tcp",proxy_name="forward",to="tcp://{upstream.text}"}}'
        assert f"coredns_proxy_conn_cache_hits_total{labels}" in page
        assert f"coredns_proxy_conn_cache_misses_total{labels}" in page


# -- TLS ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def tls_server(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def test_tls_by_name_and_by_address(authority: trustme.CA, trusted: Path) -> None:
    for certified, suffix in (("dns.example", "#dns.example"), ("127.0.0.1", "")):
        with (
            Upstream(anything, tls=tls_server(authority, certified)) as upstream,
            nodelocal("--cluster", DEAD, "--upstream", f"tls://{upstream.text}{suffix}", "--tls-ca", trusted) as server,
        ):
            for number in range(20):
                assert addresses_of(server.port, f"n{number}.example.") == ["192.0.2.1"]
            assert upstream.connections == 1
            assert all(tcp for _, tcp, _ in upstream.queries)


def test_a_certificate_for_another_name_is_no_answer_and_told(authority: trustme.CA, trusted: Path) -> None:
    with (
        Upstream(anything, tls=tls_server(authority, "other.example")) as upstream,
        nodelocal("--cluster", DEAD, "--upstream", f"tls://{upstream.text}#dns.example", "--tls-ca", trusted) as server,
    ):
        assert lookup(server.port, "www.example.").rcode() == dns.rcode.SERVFAIL
        server.wait_for(r"tls://.*#dns\.example: its certificate does not verify: .*dns\.example")
        assert upstream.queries == []
        assert 'coredns_proxy_healthcheck_failures_total{proxy_name="forward",to="tls://' in server.page("/metrics")[1]


def test_a_certificate_of_an_unknown_authority(authority: trustme.CA) -> None:
    with (
        Upstream(anything, tls=tls_server(authority, "dns.example")) as upstream,
        nodelocal("--cluster", DEAD, "--upstream", f"tls://{upstream.text}#dns.example") as server,
    ):
        assert lookup(server.port, "www.example.").rcode() == dns.rcode.SERVFAIL
        server.wait_for("certificate does not verify")
        assert upstream.queries == []


# -- trouble -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dead", "silent", "nonsense", "closes"])
def test_a_bad_upstream_beside_a_good_one(kind: str) -> None:
    def bad(query: dns.message.Message, tcp: bool) -> Reply:
        if kind == "closes" and tcp:
            raise ConnectionError
        return None if kind in ("silent", "closes") else b"\xff" * 600

    with Upstream(bad) as first, Upstream(anything) as second:
        scheme = "tcp://" if kind == "closes" else ""
        where = DEAD if kind == "dead" else f"{scheme}{first.text}"
        with nodelocal("--cluster", DEAD, "--upstream", where, "--upstream", second.text) as server:
            for number in range(5):
                began = time.monotonic()
                assert addresses_of(server.port, f"n{number}.example.") == ["192.0.2.1"]
                assert time.monotonic() - began < 3


def test_a_resolv_conf_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 127.0.0.254\nsearch one.test\n")
    with nodelocal("--cluster", DEAD, "--upstream", path) as server:
        assert "127.0.0.254:53" in _stats(server)
        path.write_text("nameserver 127.0.0.253\nsearch two.test\n")
        server.wait_until(lambda: "127.0.0.253:53" in _stats(server))
        path.write_text("nameserver 127.0.0.252.1\n")
        server.wait_until(lambda: "127.0.0.253:53" in _stats(server) and "it last named stay in use" in server.output())


def _stats(server: Kdns) -> str:
    return control(server, "stats").stdout


def control(server: Kdns, *command: str) -> subprocess.CompletedProcess[str]:
    arguments = server.process.args
    assert isinstance(arguments, list)
    path = arguments[arguments.index("--control") + 1]
    name, *rest = command
    return run_kdns(name, "--control", str(path), *rest, program="nodelocal")


def test_a_loop_through_another_forwarder_is_found() -> None:
    """nodelocal asks a forwarder that asks nodelocal: only that upstream is refused."""
    with Upstream(anything) as good:
        port = 0

        def pass_on(query: dns.message.Message, tcp: bool) -> Reply:
            return ask_udp(port, query.to_wire(), quiet=True) if port else None

        with (
            Upstream(pass_on) as looping,
            nodelocal("--cluster", DEAD, "--upstream", looping.text, "--upstream", good.text) as server,
        ):
            port = server.port
            server.wait_for(rf"upstream {looping.text} asks this server in turn: it is not asked any more")
            assert addresses_of(server.port, "www.example.") == ["192.0.2.1"]
            assert "it asks this server in turn" in server.page("/ready")[1]
            assert (
                f'nodelocal_upstream_looping{{group="upstream",to="{looping.text}"}} 1.0' in server.page("/metrics")[1]
            )


# -- the control socket --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(manifests: Path) -> Iterator[tuple[Kdns, Upstream]]:
    """kdns, nodelocal in front of it, and the world outside."""
    with (
        kdns("--manifests", manifests) as cluster,
        Upstream(outside) as upstream,
        nodelocal(
            "--cluster", f"127.0.0.1:{cluster.port}", "--upstream", upstream.text, "--search", "corp.test"
        ) as server,
    ):
        cluster.wait_for("synced")
        server.wait_until(lambda: ": kdns" in _stats(server))
        yield server, upstream


def test_one_question_to_kdns_and_three_outside(pair: tuple[Kdns, Upstream]) -> None:
    server, upstream = pair
    control(server, "flush")
    upstream.queries.clear()
    for rrtype in ("A", "AAAA"):
        reply = lookup(server.port, "example.com.default.svc.cluster.local", rrtype)
        assert [rrset.rdtype for rrset in reply.answer] == [5, 1 if rrtype == "A" else 28]
        assert reply.answer[0].to_text().endswith("IN CNAME example.com.")
    asked = [(q.question[0].name.to_text(), q.question[0].rdtype) for q, _, _ in upstream.queries]
    assert asked == [("example.com.corp.test.", 1), ("example.com.", 1), ("example.com.", 28)]


def test_explain(pair: tuple[Kdns, Upstream]) -> None:
    server, _ = pair
    text = control(server, "explain", "example.com.default.svc.cluster.local").stdout
    assert "route: cluster.local. → cluster" in text
    assert "search path of namespace default, transparent form, for example.com:" in text
    assert "example.com.search.default.cluster.local.ap.k8s.io.: nxdomain" in text
    assert "example.com.corp.test.: nxdomain" in text
    assert "ends at example.com." in text
    assert re.search(r"example\.com\. (60|59|58) IN A 192\.0\.2\.1", text)
    text = control(server, "explain", "web.default.svc.cluster.local", "AAAA").stdout
    assert "not expanded: a prefix of one label, which may mean just that" in text
    assert "NOERROR" in text
    for name, why in (
        ("www.example.com", "not below <namespace>.svc of a cluster zone"),
        ("_http._tcp.web.default.svc.cluster.local", "_port._proto.<service> asks for a port of that Service"),
        ("a.b.c.d.e.f.default.svc.cluster.local", "a prefix of five dots or more is tried as it is first"),
    ):
        assert f"not expanded: {why}" in control(server, "explain", name).stdout
    for command in (("explain", "example.com", "ANY"), ("explain", "example.com", "--from", "nonsense")):
        refused = control(server, *command)
        assert (refused.returncode, refused.stdout) == (2, "")
    text = control(server, "explain", "db-9.db.default.svc.cluster.local").stdout
    assert "is not walked: the name may have been meant as it stands" in text


def test_dump_and_flush(pair: tuple[Kdns, Upstream]) -> None:
    server, _ = pair
    lookup(server.port, "example.com")
    lookup(server.port, "web.default.svc.cluster.local")
    text = control(server, "dump", "example.com").stdout
    assert "example.com. A: NOERROR" in text
    assert "web.default" not in text
    assert "web.default.svc.cluster.local. A" in control(server, "dump").stdout
    assert re.fullmatch(r"(1 entry|[2-9] entries) forgotten\n", control(server, "flush", "example.com").stdout)
    gone = control(server, "dump", "example.com")
    assert (gone.stdout, gone.stderr) == ("", "nodelocal: nothing is cached of that name\n")
    assert control(server, "flush", "cluster.local").returncode == 0
    assert "web.default.svc.cluster.local. A" not in control(server, "dump").stdout


def test_flush_takes_the_search_paths_of_a_name_along(pair: tuple[Kdns, Upstream]) -> None:
    server, _ = pair
    name = "example.com.default.svc.cluster.local"
    for flushed in (name, "cluster.local"):
        lookup(server.port, name)
        explicit = "example.com.search.default.cluster.local.ap.k8s.io"
        assert explicit in control(server, "dump").stdout
        control(server, "flush", flushed)
        assert explicit not in control(server, "dump").stdout


def test_stats(pair: tuple[Kdns, Upstream]) -> None:
    server, _ = pair
    text = _stats(server)
    for line in ("queries: ", "  max_octets: 33554432", "search paths:", "  won: ", "upstreams:"):
        assert line in text
    assert ": kdns" in text


def test_control_troubles(pair: tuple[Kdns, Upstream], tmp_path: Path) -> None:
    server, _ = pair
    gone = run_kdns("stats", "--control", tmp_path / "none.sock", program="nodelocal")
    assert gone.returncode == 2
    assert "found No such file or directory; expected the control socket of a running nodelocal" in gone.stderr
    bad = control(server, "explain", "a..b")
    assert bad.returncode == 2
    assert "empty label" in bad.stderr
    assert control(server, "explain", "example.com", "NOTYPE").returncode == 2


def test_nothing_said_at_the_control_socket_ends_the_program(pair: tuple[Kdns, Upstream]) -> None:
    server, _ = pair
    arguments = server.process.args
    assert isinstance(arguments, list)
    path = arguments[arguments.index("--control") + 1]
    for said in (
        b'{"do": "explain", "name": null}', b'{"do": "explain", "name": "a", "type": 5}', b"[" * 4000, b"[]", b"\xff",
        b'{"do": "explain", "name": "a", "from": 7}', b'{"do": "dump", "name": 5}', b'{"do": {}}', b"x" * 5000, b"",
    ):  # fmt: skip
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(10)
            sock.connect(str(path))
            sock.sendall(said + b"\n")
            assert b"error" in sock.recv(4096)
    assert server.process.poll() is None
    assert _stats(server)


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("resolv.conf", "nameserver fe80::1%gone0"),
        ("resolv.conf", "nameserver 192.0.2.1%eth0"),
        ("upstream", "fe80::1%gone0"),
    ],
)
def test_an_upstream_on_an_interface_that_is_gone(tmp_path: Path, where: str, line: str) -> None:
    with Upstream(anything) as good:
        if where == "resolv.conf":
            path = tmp_path / "resolv.conf"
            path.write_text(f"{line}\n")
            line = str(path)
        with nodelocal("--cluster", DEAD, "--upstream", line, "--upstream", good.text) as server:
            assert addresses_of(server.port, "www.example.") == ["192.0.2.1"]
            assert server.process.poll() is None


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with nodelocal("--cluster", DEAD, control=path) as server:
        assert path.stat().st_mode & 0o777 == 0o600
        second = run_kdns(
            "serve", "--cluster", DEAD, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--control", path,
            program="nodelocal",
        )  # fmt: skip
        assert second.returncode == 2
        assert "a socket that another process answers at" in second.stderr
        server.process.kill()
        server.process.wait()
        with nodelocal("--cluster", DEAD, control=path) as again:
            assert again.stop() == 0
        assert not path.exists()
    path.write_text("something else")
    for where, found in (
        (path, "a file that is no socket"),
        (tmp_path, "a folder"),
        (tmp_path / "none" / "control.sock", "a folder that is not there"),
    ):
        done = run_kdns(
            "serve", "--cluster", DEAD, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--control", where,
            program="nodelocal",
        )  # fmt: skip
        assert done.returncode == 2
        assert f"found {found}" in done.stderr
    assert path.read_text() == "something else"


# -- metrics and the rest --------------------------------------------------------------------------------------------------------


def test_metrics_have_the_names_that_dashboards_read(pair: tuple[Kdns, Upstream]) -> None:
    server, _ = pair
    lookup(server.port, "example.com")
    lookup(server.port, "example.com.default.svc.cluster.local")
    lookup(server.port, "no.example.com")
    page = server.page("/metrics")[1]
    for name in (
        "coredns_build_info{",
        'coredns_cache_entries{server="dns://127.0.0.1:',
        "coredns_cache_hits_total{",
        "coredns_cache_misses_total{",
        "coredns_cache_requests_total{",
        "coredns_cache_evictions_total{",
        "coredns_cache_prefetch_total{",
        "coredns_cache_served_stale_total{",
        "coredns_cache_drops_total{",
        "coredns_forward_requests_total{",
        "coredns_forward_responses_total{",
        "coredns_forward_request_duration_seconds_bucket{",
        "coredns_forward_max_concurrent_rejects_total ",
        "coredns_forward_healthcheck_broken_total ",
        'coredns_proxy_request_duration_seconds_bucket{le="0.00025",proxy_name="forward",rcode="NOERROR",to="',
        "coredns_autopath_success_total{",
        'coredns_nodecache_setup_errors_total{errortype="iptables"} 0.0',
        "coredns_dns_requests_total{",
        'coredns_dns_responses_total{plugin="forward",rcode="NXDOMAIN"',
        "process_resident_memory_bytes",
    ):
        assert name in page, name


def test_what_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    done = run_kdns(
        "serve", "--stub", "corp.example=192.0.2.1", "--stub", "corp.example=192.0.2.2", "--stub", "nonsense",
        "--upstream", "tls://192.0.2.1#", "--expand", "sometimes", "--cache-size", "12", "--search", "a..b",
        "--client-rate", "-1", "--kubeconfig", tmp_path / "none", "--min-ttl", "100", "--max-ttl", "10",
        program="nodelocal", env={"KUBE_DNS_UPSTREAM_SERVICE_HOST": "nowhere"},
    )  # fmt: skip
    assert done.returncode == 2
    for text in (
        "--stub: found corp.example. twice; expected each zone once",
        "--stub: found 'nonsense' (no ZONE=ADDR); expected a zone and its servers",
        "--upstream: found 'tls://192.0.2.1#'",
        "--expand: found 'sometimes'; expected transparent, explicit or off",
        "--cache-size: found '12' (out of range); expected a size from 1MiB to 64GiB",
        "--search: found 'a..b'",
        "--client-rate: found '-1'",
        "--kubeconfig: found",
        "$KUBE_DNS_UPSTREAM_SERVICE_HOST: found 'nowhere'",
        "--min-ttl: found 100, above max-ttl 10",
    ):
        assert text in done.stderr, text
    assert "Traceback" not in done.stderr


def test_an_upstream_that_is_this_server_itself() -> None:
    done = run_kdns(
        "serve", "--listen", "127.0.0.1:5353", "--cluster", "127.0.0.1:5353", "--upstream", "127.0.0.1:5353",
        "--stub", "corp.example=127.0.0.1:5353", program="nodelocal",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("found this server itself; expected another server") == 3


def test_check_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "nodelocal.toml"
    path.write_text('cluster = ["10.96.0.10"]\nstub = ["corp.example=192.0.2.1"]\nexpand = "off"\n')
    done = run_kdns("check", "--config", path, program="nodelocal")
    assert done.returncode == 0, done.stderr
    assert "corp.example.                192.0.2.1:53" in done.stdout
    assert "in-addr.arpa.                tcp://10.96.0.10:53, then /etc/resolv.conf" in done.stdout
    path.write_text("clusters = []\n")
    done = run_kdns("check", "--config", path, program="nodelocal")
    assert done.returncode == 2
    assert "an unknown key; expected cluster?" in done.stderr


def test_it_stops_after_its_lame_duck_and_keeps_answering_meanwhile() -> None:
    with (
        Upstream(anything) as upstream,
        nodelocal("--cluster", DEAD, "--upstream", upstream.text, lameduck=1) as server,
    ):
        assert server.page("/health") == (200, "OK")
        assert server.page("/ready")[0] == 200
        server.process.terminate()
        server.wait_for("SIGTERM: unready")
        assert server.page("/ready")[0] == 503
        assert addresses_of(server.port, "www.example.") == ["192.0.2.1"]
        assert server.process.wait(10) == 0


def test_the_pods_of_the_node_are_watched() -> None:
    from tests.support.api_server import ApiServer

    with ApiServer() as api, Upstream(outside) as upstream:
        ours = pod("client", "127.0.0.1", namespace="team")
        ours["spec"]["nodeName"] = "node-a"
        theirs = pod("other", "127.0.0.9", namespace="team")
        theirs["spec"]["nodeName"] = "node-b"
        api.put(ours, theirs)
        with nodelocal(
            "--cluster", upstream.text, "--upstream", upstream.text, "--node", "node-a", "--api-server", api.url
        ) as server:
            server.wait_until(lambda: server.page("/ready")[0] == 200)
            assert "nodelocal_node_pods 1.0" in server.page("/metrics")[1]
            reply = lookup(server.port, "example.com.team.svc.cluster.local")
            assert reply.answer[-1].name.to_text() == "example.com."
            assert lookup(server.port, "example.com.other.svc.cluster.local").rcode() == dns.rcode.NXDOMAIN
            assert all("spec.nodeName%3Dnode-a" in path for path in api.requests), api.requests
            api.delete("Pod", "client", "team")
            server.wait_until(lambda: "nodelocal_node_pods 0.0" in server.page("/metrics")[1])
            assert lookup(server.port, "example.com.team.svc.cluster.local").rcode() == dns.rcode.NXDOMAIN
            assert "pod" not in control(server, "explain", "a.b.team.svc.cluster.local").stderr


def test_the_demo_counts_what_expansion_saves(tmp_path: Path) -> None:
    done = run_kdns("demo", "--no-keep", program="nodelocal", env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    part = done.stdout.split("\nwww.example.com\n  A name of the outside world")[1].split("\nweb.bakery\n")[0]
    counts = dict(
        re.findall(r"^    (client to nodelocal|nodelocal to kdns|nodelocal to outside) +(\d+ +\d+)$", part, re.M)
    )
    assert {title: tuple(map(int, text.split())) for title, text in counts.items()} == {
        "client to nodelocal": (10, 2),
        "nodelocal to kdns": (3, 1),
        "nodelocal to outside": (3, 3),
    }
    assert "www.example.com.default.svc.cluster.local.      5       IN      CNAME   www.example.com." in part
    assert "The demo is over." in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_probes_ask_at_the_control_socket(tmp_path: Path) -> None:
    control = tmp_path / "control.sock"

    def probe(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nodelocal", "probe", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert probe("live", "--control", str(control)).returncode == 1
    assert probe("alive").returncode == 2
    with nodelocal("--cluster", DEAD, "--upstream", DEAD, control=control):
        assert probe("live", "--control", str(control)).returncode == 0
        assert probe("ready", "--control", str(control)).returncode == 0
    flags = ["--cluster", DEAD, "--upstream", DEAD, "--node", "n1", "--api-server", "http://127.0.0.1:1"]
    with nodelocal(*flags, control=control):
        assert probe("live", "--control", str(control)).returncode == 0
        done = probe("ready", "--control", str(control))
        assert done.returncode == 1
        assert done.stderr == "nodelocal: not ready: not synced: Pod\n"
