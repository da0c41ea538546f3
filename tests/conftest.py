"""Fixtures shared by all tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import settings

from tests.support.process import Kdns, kdns, nodelocal
from tests.support.seed import IS_RANDOM
from tests.support.upstream import answer, Reply, Upstream

settings.register_profile("repeatable", derandomize=True)
if not IS_RANDOM:
    settings.load_profile("repeatable")

MANIFESTS = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]},
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"}, "spec": {"clusterIP": "None"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "big"}, "spec": {"clusterIP": "None"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "huge"}, "spec": {"clusterIP": "None"}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "ext"},
            "spec": {"type": "ExternalName", "externalName": "www.example.com"},
        },
        *(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": f"{service}-{piece}", "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4",
                "ports": [{"name": "pg", "port": 5432}],
                "endpoints": [{"addresses": [f"10.{net}.{piece}.{number}"]} for number in range(count)],
            }
            for service, net, pieces, count in (("db", 1, 1, 3), ("big", 2, 2, 100), ("huge", 3, 50, 100))
            for piece in range(pieces)
        ),
    ],
}


@pytest.fixture(scope="session")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small cluster."""
    folder = tmp_path_factory.mktemp("manifests")
    (folder / "cluster.json").write_text(json.dumps(MANIFESTS))
    return folder


@pytest.fixture(scope="session")
def server(manifests: Path) -> Iterator[Kdns]:
    """A process that serves that cluster, for tests that leave it as it was."""
    with kdns("--manifests", manifests, "--pods", "insecure") as running:
        running.wait_for("synced")
        yield running
        assert running.process.poll() is None, running.output()
        assert "Traceback" not in running.output()


def outside(query: dns.message.Message, tcp: bool) -> Reply:
    """Answer as the world outside the cluster: one name with addresses, nothing else."""
    question = query.question[0]
    name, rrtype = question.name.to_text().lower(), question.rdtype
    if name == "example.com." and rrtype in (1, 28):
        return answer(query, f"{name} 60 IN {'A 192.0.2.1' if rrtype == 1 else 'AAAA 2001:db8::1'}").to_wire()
    reply = answer(query)
    if name != "example.com.":
        reply.set_rcode(dns.rcode.NXDOMAIN)
    reply.authority.append(dns.rrset.from_text(".", 60, "IN", "SOA", "a.root. h.root. 1 2 3 4 60"))
    return reply.to_wire()


@pytest.fixture(scope="session")
def forwarder(server: Kdns) -> Iterator[Kdns]:
    """A nodelocal in front of that kdns and of an upstream outside."""
    with (
        Upstream(outside) as upstream,
        nodelocal("--cluster", f"127.0.0.1:{server.port}", "--upstream", upstream.text) as running,
    ):
        yield running
        assert running.process.poll() is None, running.output()
        assert "Traceback" not in running.output()
