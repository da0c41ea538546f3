"""nodelocal behind a kdns that pushes: what its cache holds follows the cluster, whatever the TTLs are."""

from __future__ import annotations

import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.rcode
import pytest
import trustme

from tests.support.api_server import ApiServer, CUSTOM
from tests.support.client import addresses, lookup
from tests.support.kube import endpoint_slice, namespace, pod, service
from tests.support.process import Kdns, kdns, nodelocal, wait_until
from tests.support.secondary import free_port
from tests.system.test_external import ingress
from tests.system.test_multicluster import service_import

pytestmark = pytest.mark.system

Z = "default.svc.cluster.local."
NEW = f"new.{Z}"
TTL = "--ttl=600"


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.put(namespace(), service("web", "10.96.0.1"), service("db"), endpoint_slice("db", "10.1.0.1", "10.1.0.2"))
        yield api


def rcode(server: Kdns, name: str, rrtype: str = "A") -> str:
    return dns.rcode.to_text(lookup(server.port, name, rrtype).rcode())


def metric(server: Kdns, name: str) -> float:
    for line in server.page("/metrics")[1].splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    return 0.0


def subscribed(server: Kdns, count: int) -> None:
    wait_until(lambda: metric(server, "nodelocal_push_subscriptions") >= count)
    time.sleep(0.1)  # and answered


def becomes(what: Callable[[], object], wanted: object, *, seconds: float = 20.0) -> float:
    """Wait until it does; return how long it took."""
    began = time.monotonic()
    while (found := what()) != wanted:
        assert time.monotonic() - began < seconds, (found, wanted)
    return time.monotonic() - began


@pytest.mark.parametrize("scheme", ["", "udp://"])
def test_a_denied_name_resolves_as_soon_as_it_exists(api: ApiServer, scheme: str) -> None:
    with (
        kdns("--api-server", api.url, "--push=tcp", TTL) as server,
        nodelocal("--cluster", f"{scheme}127.0.0.1:{server.port}", "--upstream", "127.0.0.1:9") as node,
    ):
        server.wait_for("synced after")
        for _ in range(5):
            assert rcode(node, NEW) == "NXDOMAIN"
        subscribed(node, 1)
        api.put(service("new", "10.96.0.9"))
        becomes(lambda: addresses(node.port, NEW), {"10.96.0.9"})
        assert addresses(node.port, NEW, "AAAA") == set()
        subscribed(node, 3)
        api.put(service("new", "10.96.0.10"))
        becomes(lambda: addresses(node.port, NEW), {"10.96.0.10"})
        api.put(service("new", "10.96.0.10", clusterIPs=["10.96.0.10", "fd00::10"]))
        becomes(lambda: addresses(node.port, NEW, "AAAA"), {"fd00::10"})
        api.delete("Service", "new")
        becomes(lambda: rcode(node, NEW), "NXDOMAIN")
        assert metric(node, "nodelocal_push_dropped_total") >= 3
        # what nobody told of is still what the cache holds
        hits = metric(server, "coredns_dns_requests_total")
        for _ in range(20):
            assert rcode(node, f"other.{Z}") == "NXDOMAIN"
        assert metric(server, "coredns_dns_requests_total") == hits


def test_endpoints_and_aliases_are_followed(api: ApiServer) -> None:
    alias = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "ext", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "db.default.svc.cluster.local"},
    }
    api.put(alias)
    with (
        kdns("--api-server", api.url, "--push=tcp", TTL) as server,
        nodelocal("--cluster", f"127.0.0.1:{server.port}", "--upstream", "127.0.0.1:9") as node,
    ):
        server.wait_for("synced after")
        both = {"10.1.0.1", "10.1.0.2"}
        assert addresses(node.port, f"db.{Z}") == addresses(node.port, f"ext.{Z}") == both
        subscribed(node, 2)
        api.put(endpoint_slice("db", "10.1.0.2", "10.1.0.3"))
        becomes(lambda: addresses(node.port, f"db.{Z}"), {"10.1.0.2", "10.1.0.3"})
        becomes(lambda: addresses(node.port, f"ext.{Z}"), {"10.1.0.2", "10.1.0.3"})
        api.put({**alias, "spec": {"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}})
        becomes(lambda: addresses(node.port, f"ext.{Z}"), {"10.96.0.1"})


def test_search_paths_are_followed(api: ApiServer) -> None:
    with (
        kdns("--api-server", api.url, "--push=tcp", TTL) as server,
        kdns("--api-server", api.url, "--upstream", "127.0.0.1:9") as outside,
    ):
        flags = [
            "--cluster",
            f"127.0.0.1:{server.port}",
            "--upstream",
            f"127.0.0.1:{outside.port}",
            "--search",
            "corp.test",
        ]
        api.put(pod("p", "127.0.0.1"), namespace("other"))
        with nodelocal(*flags) as node:
            server.wait_for("synced after")
            path = f"api.other.{Z}"  # walked for: api.other.svc.cluster.local may be meant
            for _ in range(3):
                lookup(node.port, path)
            explicit = "fresh.search.default.cluster.local.ap.k8s.io."
            lookup(node.port, explicit)
            subscribed(node, 2)
            api.put(service("api", "10.96.0.20", namespace="other"), service("fresh", "10.96.0.21"))
            becomes(lambda: addresses(node.port, path), {"10.96.0.20"})
            becomes(lambda: addresses(node.port, explicit), {"10.96.0.21"})


def test_a_lost_connection_is_renewed_and_nothing_is_missed(api: ApiServer) -> None:
    port = free_port()
    with nodelocal("--cluster", f"127.0.0.1:{port}", "--upstream", "127.0.0.1:9") as node:
        flags = ("--api-server", api.url, "--push=tcp", TTL)
        with kdns(*flags, listen=[f"127.0.0.1:{port}"]) as server:
            server.wait_for("synced after")
            assert rcode(node, NEW) == "NXDOMAIN"
            assert addresses(node.port, f"web.{Z}") == {"10.96.0.1"}
            assert addresses(node.port, f"db.{Z}") == {"10.1.0.1", "10.1.0.2"}
            subscribed(node, 3)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
        wait_until(lambda: metric(node, "nodelocal_push_connected") == 0)
        # ordinary TTLs: what is held is answered from, with nobody to ask
        assert addresses(node.port, f"web.{Z}") == {"10.96.0.1"}
        api.put(service("new", "10.96.0.9"))
        api.delete("Service", "db")
        with kdns(*flags, listen=[f"127.0.0.1:{port}"]) as server:
            server.wait_for("synced after")
            becomes(lambda: addresses(node.port, NEW), {"10.96.0.9"}, seconds=25)
            becomes(lambda: rcode(node, f"db.{Z}"), "NXDOMAIN", seconds=25)
            asked = metric(server, 'coredns_dns_requests_total{family="1",proto="tcp"')
            assert addresses(node.port, f"web.{Z}") == {"10.96.0.1"}
            assert metric(server, 'coredns_dns_requests_total{family="1",proto="tcp"') == asked
            wait_until(lambda: metric(node, "nodelocal_push_connected") == 1)


def test_a_kdns_that_goes_hands_over_to_the_next(api: ApiServer) -> None:
    ports = free_port(), free_port()
    flags = ("--api-server", api.url, "--push=tcp", TTL)
    cluster = [part for port in ports for part in ("--cluster", f"127.0.0.1:{port}")]
    with (
        kdns(*flags, listen=[f"127.0.0.1:{ports[0]}"], lameduck=2) as first,
        kdns(*flags, listen=[f"127.0.0.1:{ports[1]}"]) as second,
        nodelocal(*cluster, "--upstream", "127.0.0.1:9") as node,
    ):
        first.wait_for("synced after")
        second.wait_for("synced after")
        assert rcode(node, NEW) == "NXDOMAIN"
        subscribed(node, 1)
        first.process.send_signal(signal.SIGTERM)
        first.process.wait(20)
        rcode(node, f"another.{Z}")  # who answers now is asked to tell
        wait_until(lambda: metric(second, "kdns_push_subscriptions") >= 2)
        api.put(service("new", "10.96.0.9"))
        becomes(lambda: addresses(node.port, NEW), {"10.96.0.9"})


def test_a_kdns_that_does_not_push_is_not_asked_to(api: ApiServer) -> None:
    with (
        kdns("--api-server", api.url) as server,
        nodelocal("--cluster", f"127.0.0.1:{server.port}", "--upstream", "127.0.0.1:9") as node,
    ):
        server.wait_for("synced after")
        assert addresses(node.port, f"web.{Z}") == {"10.96.0.1"}
        time.sleep(0.5)
        assert metric(node, "nodelocal_push_connected") == 0
        assert metric(node, "nodelocal_push_connections_lost_total") == 0


def test_off_means_off(api: ApiServer) -> None:
    with (
        kdns("--api-server", api.url, "--push=tcp") as server,
        nodelocal("--cluster", f"127.0.0.1:{server.port}", "--upstream", "127.0.0.1:9", "--subscribe=off") as node,
    ):
        server.wait_for("synced after")
        assert addresses(node.port, f"web.{Z}") == {"10.96.0.1"}
        time.sleep(0.5)
        assert metric(server, "kdns_push_sessions") == 0


def test_over_tls(api: ApiServer, tmp_path: Path) -> None:
    authority = trustme.CA()
    cert = authority.issue_cert("kdns.example")
    paths = [tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem")]
    paths[0].write_bytes(b"".join(pem.bytes() for pem in cert.cert_chain_pems))
    paths[1].write_bytes(cert.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(paths[2]))
    tls = ["--listen-tls=127.0.0.1:0", f"--tls-cert={paths[0]}", f"--tls-key={paths[1]}"]
    assert ssl.HAS_TLSv1_2
    with kdns("--api-server", api.url, "--push=tls", TTL, *tls) as server:
        port = int(server.wait_for(r"answering on \S+:(\d+) \(tls\)")[1])
        server.wait_for("synced after")
        with nodelocal(
            "--cluster", f"tls://127.0.0.1:{port}#kdns.example", "--tls-ca", paths[2], "--upstream", "127.0.0.1:9"
        ) as node:
            assert rcode(node, NEW) == "NXDOMAIN"
            subscribed(node, 1)
            api.put(service("new", "10.96.0.9"))
            becomes(lambda: addresses(node.port, NEW), {"10.96.0.9"})
        with nodelocal("--cluster", f"127.0.0.1:{server.port}", "--upstream", "127.0.0.1:9") as node:
            # asked over plain TCP, where it takes no sessions: asked for one once
            assert rcode(node, f"x.{Z}") == "NXDOMAIN"
            node.wait_for("it takes no sessions")
            assert metric(node, "nodelocal_push_connected") == 0


def test_stats_tell_of_it(api: ApiServer, tmp_path: Path) -> None:
    from tests.support.process import run_kdns

    control = tmp_path / "control.sock"
    with (
        kdns("--api-server", api.url, "--push=tcp") as server,
        nodelocal("--cluster", f"127.0.0.1:{server.port}", "--upstream", "127.0.0.1:9", control=control) as node,
    ):
        server.wait_for("synced after")
        assert addresses(node.port, f"web.{Z}") == {"10.96.0.1"}
        subscribed(node, 1)
        shown = run_kdns("stats", "--control", control, program="nodelocal")
        assert shown.returncode == 0
        assert f"tcp://127.0.0.1:{server.port}" in shown.stdout
        assert "subscriptions" in shown.stdout
        assert os.path.exists(control)


def test_the_clusterset_and_external_zones_are_cluster_zones_as_well(api: ApiServer) -> None:
    for path in CUSTOM:
        api.add_api(path)
    zones = ["--clusterset-zone=clusterset.local", "--external-zone=apps.example"]
    with (
        kdns("--api-server", api.url, "--push=tcp", TTL, *zones) as server,
        nodelocal("--cluster", f"127.0.0.1:{server.port}", "--upstream", "127.0.0.1:9", "--cluster-zone=cluster.local",
                  "--cluster-zone=clusterset.local", "--cluster-zone=apps.example") as node,
    ):  # fmt: skip
        server.wait_for("synced after")
        name, path, host = (
            "far.default.svc.clusterset.local.",
            "far.search.default.clusterset.local.ap.k8s.io.",
            "shop.apps.example.",
        )
        for asked in (name, host):
            assert rcode(node, asked) == "NXDOMAIN"
        assert rcode(node, path) == "SERVFAIL"  # its steps outside the cluster have nobody to ask
        subscribed(node, 3)
        api.put(service_import("far", "10.112.0.9"), ingress("shop", "*.apps.example", at="192.0.2.10"))
        becomes(lambda: addresses(node.port, name), {"10.112.0.9"})
        becomes(lambda: addresses(node.port, path), {"10.112.0.9"})
        becomes(lambda: addresses(node.port, host), {"192.0.2.10"})
        api.put(service_import("far", "10.112.0.10"), ingress("shop", "*.apps.example", at="192.0.2.11"))
        becomes(lambda: addresses(node.port, name), {"10.112.0.10"})
        becomes(lambda: addresses(node.port, path), {"10.112.0.10"})
        becomes(lambda: addresses(node.port, host), {"192.0.2.11"})
