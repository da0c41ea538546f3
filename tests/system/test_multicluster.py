"""ServiceImports of an API server that has them, has them not, or has them later; and of manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.rcode
import pytest
import yaml

from tests.support.api_server import ApiServer, CUSTOM
from tests.support.client import addresses, lookup, wait_for_addresses
from tests.support.kube import endpoint_slice, Json, namespace, service
from tests.support.process import kdns, run_kdns

pytestmark = pytest.mark.system

WEB = "web.default.svc.clusterset.local."
DB = "db.default.svc.clusterset.local."
V1BETA1, V1ALPHA1 = list(CUSTOM)[:2]
FLAG = "--clusterset-zone=clusterset.local"


def service_import(name: str, *ips: str, version: str = "v1beta1", **spec: Any) -> Json:
    return {
        "apiVersion": f"multicluster.x-k8s.io/{version}",
        "kind": "ServiceImport",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "ClusterSetIP", "ips": list(ips), "ports": [{"name": "http", "port": 80}], **spec},
    }


def imported(service: str, cluster: str, *addresses: str, **more: Any) -> Json:
    piece = endpoint_slice(service, *addresses, name=f"{service}-{cluster}", **more)
    piece["metadata"]["labels"] = {
        "multicluster.kubernetes.io/service-name": service,
        "multicluster.kubernetes.io/source-cluster": cluster,
    }
    return piece


def rcode(port: int, name: str) -> str:
    return dns.rcode.to_text(lookup(port, name).rcode())


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.put(namespace(), service("web", "10.96.0.1"))
        yield api


@pytest.mark.parametrize("path", [V1BETA1, V1ALPHA1], ids=["v1beta1", "v1alpha1"])
def test_follows_imports(api: ApiServer, path: str) -> None:
    api.add_api(path)
    api.put(
        service_import("web", "10.112.0.9"), service_import("db", type="Headless"), imported("db", "c1", "10.1.0.1")
    )
    with kdns("--api-server", api.url, FLAG) as server:
        server.wait_for("synced after .*2 ServiceImports")
        assert addresses(server.port, WEB) == {"10.112.0.9"}
        assert addresses(server.port, DB) == {"10.1.0.1"}
        assert addresses(server.port, "web.default.svc.cluster.local.") == {"10.96.0.1"}
        api.put(imported("db", "c2", "10.2.0.1"), service_import("web", "10.112.0.10"))
        wait_for_addresses(server.port, DB, {"10.1.0.1", "10.2.0.1"})
        wait_for_addresses(server.port, WEB, {"10.112.0.10"})
        assert addresses(server.port, f"10-2-0-1.c2.{DB}") == {"10.2.0.1"}
        api.delete("ServiceImport", "web")
        wait_for_addresses(server.port, WEB, set())
        assert rcode(server.port, WEB) == "NXDOMAIN"
        # a slice that becomes a local Service's is one no more, and back again
        api.put(service("db"), endpoint_slice("db", "10.9.0.1", name="db-c2"))
        wait_for_addresses(server.port, DB, {"10.1.0.1"})
        wait_for_addresses(server.port, "db.default.svc.cluster.local.", {"10.9.0.1"})
        api.put(imported("db", "c2", "10.2.0.1"))
        wait_for_addresses(server.port, DB, {"10.1.0.1", "10.2.0.1"})
        assert rcode(server.port, "db.default.svc.cluster.local.") == "NXDOMAIN"


def test_the_api_comes_changes_its_version_and_goes(api: ApiServer) -> None:
    with kdns("--api-server", api.url, FLAG) as server:
        server.wait_for("synced after")
        assert server.page("/ready") == (200, "OK")
        assert rcode(server.port, WEB) == "NXDOMAIN"
        assert server.output().count("no such API") == 1
        api.add_api(V1ALPHA1)
        api.put(service_import("web", "10.112.0.9"))
        wait_for_addresses(server.port, WEB, {"10.112.0.9"}, seconds=40)
        assert server.output().count("has the API now") == 1
        api.add_api(V1BETA1)
        api.remove_api(V1ALPHA1)
        api.put(service_import("web", "10.112.0.11"))
        wait_for_addresses(server.port, WEB, {"10.112.0.11"}, seconds=40)
        api.remove_api(V1BETA1)
        wait_for_addresses(server.port, WEB, set(), seconds=40)
        assert addresses(server.port, "web.default.svc.cluster.local.") == {"10.96.0.1"}
        server.wait_until(lambda: server.page("/ready") == (200, "OK"))


def test_an_api_that_is_forbidden_leaves_the_cluster_zone_alone(api: ApiServer) -> None:
    api.fault = lambda path: (403, {}, b"{}") if "multicluster" in path else None
    with kdns("--api-server", api.url, FLAG) as server:
        server.wait_until(lambda: "ServiceImports" in server.page("/ready")[1])
        assert server.page("/ready")[0] == 503
        server.wait_until(lambda: rcode(server.port, "no.default.svc.cluster.local.") == "NXDOMAIN")
        assert rcode(server.port, "no.default.svc.clusterset.local.") == "SERVFAIL"
        assert addresses(server.port, "web.default.svc.cluster.local.") == {"10.96.0.1"}


def test_manifests(tmp_path: Path) -> None:
    good = [
        namespace(),
        service_import("web", "10.112.0.9", version="v1alpha1"),
        service_import("db", type="Headless"),
        imported("db", "c1", "10.1.0.1"),
    ]
    (tmp_path / "good.yaml").write_text(yaml.safe_dump_all(good))
    with kdns("--manifests", tmp_path, FLAG) as server:
        assert addresses(server.port, WEB) == {"10.112.0.9"}
        assert addresses(server.port, DB) == {"10.1.0.1"}
    nameless = imported("db", "c1", "10.1.0.1")
    del nameless["metadata"]["labels"]["multicluster.kubernetes.io/source-cluster"]
    bad = [service_import("web", "10.112.0.999"), service_import("odd", type="Strange"), nameless]
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump_all(bad))
    result = run_kdns("check", "--manifests", tmp_path, FLAG)
    assert result.returncode == 2
    for part in (
        "ServiceImport default/web: spec.ips[0]: found '10.112.0.999'",
        "spec.type: found 'Strange'",
        "source-cluster]: found None",
    ):
        assert part in result.stderr


def test_zones_that_stand_twice_are_told() -> None:
    result = run_kdns(
        "check",
        "--manifests",
        "tests",
        "--clusterset-zone=a.local",
        "--clusterset-zone=cluster.local",
        "--zonal",
        "--endpoints=none",
    )
    assert result.returncode == 2
    assert "--clusterset-zone: found cluster.local. a second time" in result.stderr
    assert "--zonal: found --endpoints none besides" in result.stderr
