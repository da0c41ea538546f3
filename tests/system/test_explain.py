"""kdns explain: which zone, rule and objects give or deny an answer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from kdns.cli import main
from tests.support.api_server import ApiServer
from tests.support.kube import endpoint_slice, namespace, service

pytestmark = pytest.mark.system


def explained(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["explain", *map(str, arguments)])


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "all.yaml"
    objects = [
        namespace(),
        service("web", "10.96.0.1"),
        service("db"),
        endpoint_slice("db", "10.1.0.1", "10.1.0.2"),
        service("none"),
        service("ext", "", type="ExternalName", externalName="www.example.com"),
    ]
    path.write_text(yaml.safe_dump_all(objects))
    return path


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["web.default.svc.cluster.local"], ["Service default/web: 10.96.0.1; ports: http tcp 80", "NOERROR"]),
        (["db.default.svc.cluster.local"], ["default/db: headless", "EndpointSlices: db-1; 2 of 2 endpoints ready"]),
        (["10-1-0-9.db.default.svc.cluster.local"], ["2 of 2 endpoints ready", "NXDOMAIN"]),
        (["none.default.svc.cluster.local"], ["without an endpoint the name of a headless Service does not exist"]),
        (["ext.default.svc.cluster.local"], ["an alias of www.example.com. (ExternalName)", "CNAME"]),
        (["no.default.svc.cluster.local"], ["there is no Service no in namespace default", "NXDOMAIN"]),
        (["web.other.svc.cluster.local"], ["there is no namespace other, or it is not shown", "NXDOMAIN"]),
        (["svc.cluster.local"], ["exists because namespaces are below it", "NOERROR"]),
        (["1-2-3-4.default.pod.cluster.local"], ["pods are disabled (--pods), so no such name exists"]),
        (["1-2-3-4.default.pod.cluster.local", "--pods", "insecure"], ["pods are insecure (--pods)", "1.2.3.4"]),
        (["1.0.96.10.in-addr.arpa", "PTR"], ["10.96.0.1 is the address of Service default/web"]),
        (["1.0.1.10.in-addr.arpa", "PTR"], ["is an endpoint, 10-1-0-1, of Service default/db"]),
        (["9.9.9.10.in-addr.arpa", "PTR"], ["10.9.9.9 is nobody's in this cluster", "NXDOMAIN"]),
        (["www.example.com"], ["in none of the zones: cluster.local.", "REFUSED"]),
        (["www.example.com", "--upstream", "192.0.2.1"], ["asked of the upstreams: www.example.com. A"]),
        (["old.test", "--rewrite", "old.test=web.default.svc.cluster.local"], ["rewritten by --rewrite", "10.96.0.1"]),
        (["a.test", "--record", "a.test 60 A 192.0.2.7"], ["a static record", "192.0.2.7"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_gives_or_denies_an_answer(manifests: Path, asked: list[str], said: list[str]) -> None:
    done = explained(*asked, "--manifests", manifests)
    assert done.exit_code == 0, done.output
    for text in said:
        assert text in done.output


def test_a_pods_search_path(manifests: Path) -> None:
    done = explained("web", "--as", "default/some-pod", "--manifests", manifests)
    assert "1. web.default.svc.cluster.local. A" in done.output
    assert done.output.endswith("ends here\n")
    done = explained("www.example.com", "--as", "default", "--manifests", manifests)
    steps = [line for line in done.output.splitlines() if line[0].isdigit()]
    assert steps == [
        "1. www.example.com.default.svc.cluster.local. A",
        "2. www.example.com.svc.cluster.local. A",
        "3. www.example.com.cluster.local. A",
        "4. www.example.com. A",
    ]
    assert "ends nowhere" in done.output
    done = explained("web.default.svc.cluster.local.", "--as", "other", "--manifests", manifests)
    assert "in 1 step at most" in done.output


def test_what_is_no_name(manifests: Path) -> None:
    done = explained("a..b", "--manifests", manifests)
    assert done.exit_code == 2
    assert "expected a domain name and a type" in done.output


def test_which_version_of_an_object_it_was() -> None:
    with ApiServer() as api:
        api.put(namespace(), service("web", "10.96.0.1"), service("db"), endpoint_slice("db", "10.1.0.1"))
        api.put(service("web", "10.96.0.2"))  # the fifth change
        done = explained("web", "--as", "default", "--api-server", api.url)
        assert f"Service default/web at version {api._version}: 10.96.0.2" in done.output
        done = explained("db.default.svc.cluster.local", "--api-server", api.url)
        assert "EndpointSlices: db-1 at version " in done.output


def test_an_api_server_that_is_not_there_is_not_waited_for_in_vain() -> None:
    with ApiServer() as api:
        url = api.url
    done = explained("web", "--as", "default", "--api-server", url)
    assert done.exit_code == 2
    assert "Connection refused" in done.output
    assert "expected one that is there, and may be listed from" in done.output


def test_an_api_server_that_asks_for_patience_is_given_it() -> None:
    with ApiServer() as api:
        api.put(namespace(), service("web", "10.96.0.1"))
        until = time.monotonic() + 1
        api.fault = lambda path: (503, {"Retry-After": "6"}, b"{}") if time.monotonic() < until else None
        done = explained("web", "--as", "default", "--api-server", api.url)
    assert done.exit_code == 0, done.output
