"""Static records of both programs as processes: hosts files followed, what is wrong told, the rest served."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.client import addresses, lookup, wait_for_addresses
from tests.support.process import Kdns, kdns, nodelocal, run_kdns

pytestmark = pytest.mark.system

MANIFEST = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.1}
"""


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    path = tmp_path / "manifests"
    path.mkdir()
    (path / "web.yaml").write_text(MANIFEST)
    return path


def follow(server: Kdns, hosts: Path) -> None:
    assert addresses(server.port, "db.corp.example") == {"10.1.1.1"}
    for _ in range(4):
        assert addresses(server.port, "late.corp.example") == set()
    hosts.write_text("10.1.1.2 db.corp.example\n10.1.1.3 late.corp.example\nbad line\n")
    wait_for_addresses(server.port, "db.corp.example", {"10.1.1.2"})
    wait_for_addresses(server.port, "late.corp.example", {"10.1.1.3"})
    server.wait_for(r"line 3: found 'bad line'")
    assert "line 3" in server.page("/ready")[1]
    replaced = hosts.with_name("new")  # replaced as editors and ConfigMaps do
    replaced.write_text("10.1.1.4 db.corp.example\n")
    os.replace(replaced, hosts)
    wait_for_addresses(server.port, "db.corp.example", {"10.1.1.4"})
    hosts.unlink()
    server.wait_until(lambda: "No such file" in server.page("/ready")[1])
    assert addresses(server.port, "db.corp.example") == {"10.1.1.4"}
    hosts.write_text("10.1.1.5 db.corp.example\n")
    wait_for_addresses(server.port, "db.corp.example", {"10.1.1.5"})
    server.wait_until(lambda: "No such file" not in server.page("/ready")[1])


def test_kdns_follows_a_hosts_file(tmp_path: Path, manifests: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("10.1.1.1 db.corp.example\n")
    with kdns("--manifests", manifests, "--hosts", hosts, "--rewrite", "old.example=db.corp.example") as server:
        follow(server, hosts)
        assert addresses(server.port, "old.example") == {"10.1.1.5"}
        assert addresses(server.port, "web.default.svc.cluster.local") == {"10.96.0.1"}


def test_nodelocal_follows_a_hosts_file(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("10.1.1.1 db.corp.example\n")
    with nodelocal("--cluster", "127.0.0.1:1", "--upstream", "127.0.0.1:1", "--hosts", hosts) as server:
        follow(server, hosts)


def test_what_is_hidden_is_told(tmp_path: Path, manifests: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("10.1.1.1 web.default.svc.cluster.local db.corp.example\n")
    record = "--record=db.corp.example A 10.2.2.2"
    with kdns("--manifests", manifests, "--hosts", hosts, record) as server:
        server.wait_for(rf"web.default.svc.cluster.local A: {hosts} counts, the cluster's is passed over")
        server.wait_for(rf"db.corp.example A: the configuration counts, {hosts} is passed over")
        assert addresses(server.port, "web.default.svc.cluster.local") == {"10.1.1.1"}
        assert addresses(server.port, "db.corp.example") == {"10.2.2.2"}
        (manifests / "api.yaml").write_text(MANIFEST.replace("name: web", "name: api").replace("0.1", "0.2"))
        wait_for_addresses(server.port, "api.default.svc.cluster.local", {"10.96.0.2"})
        hosts.write_text("10.1.1.1 api.default.svc.cluster.local\n")
        wait_for_addresses(server.port, "api.default.svc.cluster.local", {"10.1.1.1"})
        assert addresses(server.port, "web.default.svc.cluster.local") == {"10.96.0.1"}
        server.wait_for("api.default.svc.cluster.local A: .* counts, the cluster's is passed over")
        reply = lookup(server.port, "10.0.96.10.in-addr.arpa", "PTR")
        assert not reply.answer


def test_a_zone_is_printed_with_its_static_records(tmp_path: Path, manifests: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("10.1.1.1 extra.default.svc.cluster.local other.example\n")
    result = run_kdns("zone", "--manifests", manifests, "--hosts", hosts)
    assert result.returncode == 0
    assert "extra.default.svc.cluster.local.\t5\tIN\tA\t10.1.1.1" in result.stdout
    assert "other.example" not in result.stdout


@pytest.mark.parametrize("program", ["kdns", "nodelocal"])
def test_what_is_wrong_is_told_at_once(program: str, tmp_path: Path, manifests: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("10.1.1.1\n10.1.1.2 good\n10.1.1.999 x\n")
    config = tmp_path / "config.toml"
    config.write_text('record = ["a.example A 1.2.3", "b.example MX 10 c"]\n')
    source = ["--manifests", str(manifests)] if program == "kdns" else ["--cluster", "127.0.0.1:1"]
    result = run_kdns(
        "check", *source, "--config", config, "--rewrite", "a=a", "--hosts", tmp_path / "none", program=program
    )
    assert result.returncode == 2
    for part in (
        f"{config}: record[0]: found 'a.example A 1.2.3'",
        "record[1]: found",
        "type MX",
        "--rewrite: found 'a=a' (the same name on both sides)",
        "--hosts: found",
    ):
        assert part in result.stderr
    result = run_kdns("check", *source, "--hosts", hosts, program=program)
    assert result.returncode == 2
    assert f"{hosts}: line 1: found '10.1.1.1' (no name); expected an address and names" in result.stderr
    assert f"{hosts}: line 3:" in result.stderr
    both = run_kdns("check", *source, "--record=a.example CNAME b", "--record=a.example A 10.0.0.1", program=program)
    assert both.returncode == 2
    assert "a.example. has a CNAME, and so can have nothing else" in both.stderr
    if program == "kdns":
        apex = run_kdns("check", *source, "--record=cluster.local CNAME b", program=program)
        assert "the apex of a zone" in apex.stderr
