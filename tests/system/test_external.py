"""External zones of a process: followed from an API server that has some of the APIs, and from manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.api_server import ApiServer, CUSTOM
from tests.support.client import addresses, lookup, wait_for_addresses
from tests.support.kube import Json, namespace, service
from tests.support.process import kdns, run_kdns

pytestmark = pytest.mark.system

E = "apps.example"
FLAG = f"--external-zone={E}"
GATEWAY = "gateway.networking.k8s.io/v1"
OUTSIDE = [path for path in CUSTOM if "multicluster" not in path]


def made(api_version: str, kind: str, name: str, *, created: str = "", status: Json | None = None, **spec: Any) -> Json:
    meta = {"name": name, "namespace": "default", **({"creationTimestamp": created} if created else {})}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": meta,
        "spec": spec,
        **({"status": status} if status else {}),
    }


def balanced(*addresses: str) -> Json:
    return {"loadBalancer": {"ingress": [{"ip" if a[0].isdigit() else "hostname": a} for a in addresses]}}


def ingress(name: str, *hosts: str, at: str = "", created: str = "") -> Json:
    status = balanced(at) if at else None
    return made(
        "networking.k8s.io/v1",
        "Ingress",
        name,
        created=created,
        status=status,
        rules=[{"host": host} for host in hosts],
    )


def gateway(name: str, at: str, hostname: str | None = None) -> Json:
    listener = {"name": "web", "port": 80, "protocol": "HTTP", **({"hostname": hostname} if hostname else {})}
    return made(
        GATEWAY, "Gateway", name, status={"addresses": [{"type": "IPAddress", "value": at}]}, listeners=[listener]
    )


def route(kind: str, name: str, *hosts: str, version: str = "v1", accepted: str | None = None) -> Json:
    ref = {"name": "gw"}
    status = None
    if accepted is not None:
        conditions = [{"type": "Accepted", "status": accepted}]
        status = {"parents": [{"parentRef": ref, "controllerName": "example.com/gw", "conditions": conditions}]}
    return made(
        f"gateway.networking.k8s.io/{version}", kind, name, status=status, hostnames=list(hosts), parentRefs=[ref]
    )


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.put(namespace(), {**service("web", "10.96.0.1", type="LoadBalancer"), "status": balanced("192.0.2.1")})
        yield api


def test_follows_what_is_reached_from_outside(api: ApiServer) -> None:
    for path in OUTSIDE:
        api.add_api(path)
    api.put(ingress("shop", f"shop.{E}", at="192.0.2.10"), gateway("gw", "192.0.2.20"))
    api.put(
        route("HTTPRoute", "h", f"h.{E}"),
        route("GRPCRoute", "g", f"g.{E}"),
        route("TLSRoute", "t", f"t.{E}", version="v1alpha2"),
    )
    with kdns("--api-server", api.url, FLAG) as server:
        server.wait_for("synced after .*1 Ingress, 1 Gateway, 1 HTTPRoute, 1 TLSRoute, 1 GRPCRoute")
        for name, address in (
            ("web.default", "192.0.2.1"),
            ("shop", "192.0.2.10"),
            ("h", "192.0.2.20"),
            ("g", "192.0.2.20"),
            ("t", "192.0.2.20"),
        ):
            for _ in range(3):
                assert addresses(server.port, f"{name}.{E}") == {address}
        api.put(gateway("gw", "192.0.2.21"))
        for name in "hgt":
            wait_for_addresses(server.port, f"{name}.{E}", {"192.0.2.21"})
        api.put({**service("web", "10.96.0.1", externalIPs=["192.0.2.3"]), "status": balanced("192.0.2.2")})
        wait_for_addresses(server.port, f"web.default.{E}", {"192.0.2.2", "192.0.2.3"})
        ptr = lookup(server.port, "3.2.0.192.in-addr.arpa", "PTR").answer[0][0].to_text()
        assert ptr == f"web.default.{E}."
        api.put(service("web", "10.96.0.1"))
        wait_for_addresses(server.port, f"web.default.{E}", set())
        assert not lookup(server.port, "3.2.0.192.in-addr.arpa", "PTR").answer
        api.put(route("HTTPRoute", "h", f"h.{E}", accepted="False"), route("GRPCRoute", "g", f"g.{E}", accepted="True"))
        wait_for_addresses(server.port, f"h.{E}", set())
        assert addresses(server.port, f"g.{E}") == {"192.0.2.21"}
        api.delete("Ingress", "shop")
        wait_for_addresses(server.port, f"shop.{E}", set())
        assert 'kdns_objects{kind="Gateway"} 1.0' in server.page("/metrics")[1]


def test_apis_that_the_cluster_lacks_are_skipped_with_a_line(api: ApiServer) -> None:
    api.add_api(OUTSIDE[0])
    api.put(ingress("shop", f"shop.{E}", at="192.0.2.10"))
    with kdns("--api-server", api.url, FLAG) as server:
        server.wait_for("synced after")
        assert addresses(server.port, f"shop.{E}") == {"192.0.2.10"}
        assert addresses(server.port, f"web.default.{E}") == {"192.0.2.1"}
        for kind in ("Gateways", "HTTPRoutes", "TLSRoutes", "GRPCRoutes"):
            assert server.output().count(f"{kind}: the API server has no such API") == 1
        assert server.page("/ready") == (200, "OK")


def test_the_newer_of_two_claims_is_told_and_counted(api: ApiServer) -> None:
    api.add_api(OUTSIDE[0])
    api.put(ingress("new", f"x.{E}", at="192.0.2.2", created="2026-02-01T00:00:00Z"))
    with kdns("--api-server", api.url, FLAG) as server:
        server.wait_for("synced after")
        assert addresses(server.port, f"x.{E}") == {"192.0.2.2"}
        assert "kdns_hostname_conflicts 0.0" in server.page("/metrics")[1]
        api.put(ingress("old", f"x.{E}", at="192.0.2.1", created="2026-01-01T00:00:00Z"))
        wait_for_addresses(server.port, f"x.{E}", {"192.0.2.1"})
        server.wait_for(
            rf"Ingress default/new claims x\.{E}, which Ingress default/old \(of 2026-01-01T00:00:00Z\) has"
        )
        assert "kdns_hostname_conflicts 1.0" in server.page("/metrics")[1]
        api.delete("Ingress", "old")
        wait_for_addresses(server.port, f"x.{E}", {"192.0.2.2"})
        assert "kdns_hostname_conflicts 0.0" in server.page("/metrics")[1]


def test_manifests_and_what_is_wrong_in_them(tmp_path: Path) -> None:
    good = [
        namespace(),
        ingress("shop", f"*.shop.{E}", at="192.0.2.10"),
        gateway("gw", "192.0.2.20", f"*.gw.{E}"),
        route("HTTPRoute", "h", f"h.gw.{E}", version="v1beta1"),
    ]
    (tmp_path / "good.yaml").write_text(yaml.safe_dump_all(good))
    with kdns("--manifests", tmp_path, FLAG) as server:
        assert addresses(server.port, f"x.shop.{E}") == {"192.0.2.10"}
        assert addresses(server.port, f"h.gw.{E}") == {"192.0.2.20"}
    bad = [
        ingress("shop", "a.*.example", at="192.0.2.10"),
        gateway("gw", "not-an-address"),
        route("HTTPRoute", "h", "under_score.example"),
    ]
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump_all(bad))
    result = run_kdns("check", "--manifests", tmp_path, FLAG)
    assert result.returncode == 2
    for part in (
        "spec.rules[0].host: found 'a.*.example'",
        "status.addresses[0].value: found 'not-an-address'",
        "spec.hostnames[0]: found 'under_score.example'",
    ):
        assert part in result.stderr
    # without an external zone all of that is of no use, and not looked at
    assert run_kdns("check", "--manifests", tmp_path).returncode == 0
