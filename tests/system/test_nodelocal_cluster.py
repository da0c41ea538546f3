"""``--cluster kubernetes``: the ready endpoints of the cluster DNS Service are asked, and left the moment they are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import dns.message
import dns.rcode
import pytest

from tests.support.api_server import ApiServer
from tests.support.client import lookup
from tests.support.kube import Json, pod
from tests.support.process import Kdns, nodelocal
from tests.support.upstream import answer, Reply, Upstream

pytestmark = pytest.mark.system


def _server(address: str) -> Upstream:
    def script(query: dns.message.Message, tcp: bool) -> Reply:
        return answer(query, f"{query.question[0].name} 0 IN A {address}").to_wire()

    return Upstream(script)


def _slice(name: str, upstream: Upstream, *, ready: bool = True, zone: str = "", service: str = "kube-dns") -> Json:
    endpoint: Json = {"addresses": ["127.0.0.1"], "conditions": {"ready": ready}}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "kube-system", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [endpoint | ({"zone": zone} if zone else {})],
        "ports": [
            {"name": "dns", "protocol": "UDP", "port": 1},
            {"name": "dns-tcp", "protocol": "TCP", "port": upstream.port},
        ],
    }


def _asked(server: Kdns, number: int) -> str:
    reply = lookup(server.port, f"n{number}.cluster.local.")
    return reply.answer[0][0].to_text() if reply.answer else dns.rcode.to_text(reply.rcode())


def _is_asked(server: Kdns, address: str) -> bool:
    return _asked(server, 1) == address


@contextmanager
def _three() -> Iterator[tuple[ApiServer, Upstream, Upstream, Upstream]]:
    with ApiServer() as api, _server("192.0.2.1") as one, _server("192.0.2.2") as two, _server("192.0.2.3") as plain:
        yield api, one, two, plain


@pytest.mark.parametrize("flags", [[], ["--supervise"]], ids=["alone", "supervised"])
def test_ready_endpoints_are_asked_and_left_when_they_are_not(flags: list[str]) -> None:
    with _three() as (api, one, two, plain):
        api.put(_slice("a", one), _slice("b", two, ready=False), _slice("other", plain, service="metrics"))
        with nodelocal(
            "--cluster",
            "kubernetes",
            "--cluster",
            plain.text,
            "--upstream",
            "127.0.0.1:1",
            "--api-server",
            api.url,
            *flags,
        ) as server:
            server.wait_until(lambda: _asked(server, 1) == "192.0.2.1")
            api.put(_slice("b", two))
            api.put(_slice("a", one, ready=False))
            server.wait_until(lambda: _asked(server, 2) == "192.0.2.2")
            seen = len(one.queries)
            assert {_asked(server, number) for number in range(10, 30)} == {"192.0.2.2"}
            assert len(one.queries) == seen
            api.delete("EndpointSlice", "a", "kube-system")
            api.delete("EndpointSlice", "b", "kube-system")
            server.wait_until(lambda: _asked(server, 3) == "192.0.2.3")
            server.wait_for("the cluster's DNS has no ready endpoint")
        assert all("/namespaces/kube-system/endpointslices" in path for path in api.requests)


def test_the_zone_comes_first_and_the_node_before_it() -> None:
    with _three() as (api, one, two, _):
        api.put(_slice("a", one, zone="west"), _slice("b", two, zone="east"))
        flags = ["--cluster", "kubernetes", "--upstream", "127.0.0.1:1", "--api-server", api.url]
        for zone, first in (("east", "192.0.2.2"), ("west", "192.0.2.1")):
            with nodelocal(*flags, "--zone", zone) as server:
                server.wait_until(partial(_is_asked, server, first))
                assert {_asked(server, number) for number in range(10, 20)} == {first}


def test_pods_are_known_beside_the_servers() -> None:
    with _three() as (api, one, _, _):
        api.put(_slice("a", one), pod("web", "127.0.0.1") | {"spec": {"nodeName": "n1", "dnsPolicy": "ClusterFirst"}})
        flags = ["--cluster", "kubernetes", "--upstream", "127.0.0.1:1", "--api-server", api.url, "--node", "n1"]
        with nodelocal(*flags) as server:
            server.wait_until(lambda: server.page("/ready")[0] == 200)
            server.wait_until(lambda: _asked(server, 1) == "192.0.2.1")


def test_a_service_that_is_none(tmp_path: object) -> None:
    for wrong in ("kubernetes:", "kubernetes:kube-system", "kubernetes:a/b/c"):
        with nodelocal("--cluster", wrong, "--upstream", "127.0.0.1:1", wait=False) as server:
            assert server.process.wait(20) == 2
            assert f"--cluster: found '{wrong}'" in server.output()
    with nodelocal("--cluster", "kubernetes", "--upstream", "127.0.0.1:1", wait=False) as server:
        assert server.process.wait(20) == 2
        assert "--cluster: found no API server" in server.output()
