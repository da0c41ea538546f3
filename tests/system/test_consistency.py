"""kdns --compare-every: an event that a watch lost is found and made good, and a cluster that agrees costs no list anew."""

from __future__ import annotations

import time
from collections.abc import Iterator

import dns.rcode
import pytest

from tests.support.api_server import ApiServer
from tests.support.client import addresses, lookup, wait_for_addresses
from tests.support.kube import endpoint_slice, namespace, service
from tests.support.process import Kdns, kdns

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."
DB = "db.default.svc.cluster.local."


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.put(namespace(), service("web", "10.96.0.1"), service("db"), endpoint_slice("db", "10.1.0.1", "10.1.0.2"))
        yield api


def total(server: Kdns, name: str) -> float:
    lines = server.page("/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name + "_total{"))


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "two workers"])
def test_lost_events_are_found(api: ApiServer, workers: tuple[str, ...]) -> None:
    with kdns("--api-server", api.url, "--compare-every", "1", *workers) as server:
        server.wait_for("synced")
        api.put(endpoint_slice("db", "10.1.0.3"), service("new", "10.96.0.7"), quietly=True)
        api.delete("Service", "web", quietly=True)
        wait_for_addresses(server.port, DB, {"10.1.0.3"})
        wait_for_addresses(server.port, "new.default.svc.cluster.local.", {"10.96.0.7"})
        assert lookup(server.port, WEB).rcode() == dns.rcode.NXDOMAIN
        server.wait_for(r"EndpointSlices: 1 not as the API server has them \(default/db-\w+\)")
        server.wait_for(r"Services: 2 not as the API server has them \(default/new, default/web\)")
        assert total(server, "kdns_inconsistencies") == 3
        api.put(service("web", "10.96.0.2"))  # and the watches go on
        wait_for_addresses(server.port, WEB, {"10.96.0.2"})


def test_a_cluster_that_agrees_and_changes_all_the_time_is_let_be(api: ApiServer) -> None:
    with kdns("--api-server", api.url, "--compare-every", "1") as server:
        server.wait_for("synced")
        lists = total(server, "kdns_lists")
        number = 0
        while total(server, "kdns_consistency_checks") < 6:
            number += 1
            api.put(service("web", f"10.96.1.{number % 200}"), endpoint_slice("db", f"10.1.1.{number % 200}"))
            time.sleep(0.01)
        assert total(server, "kdns_lists") == lists
        assert total(server, "kdns_inconsistencies") == 0


def test_a_server_that_does_not_answer_the_comparison_changes_nothing(api: ApiServer) -> None:
    with kdns("--api-server", api.url, "--compare-every", "1") as server:
        server.wait_for("synced")
        api.fault = lambda path: (429, {"Retry-After": "1"}, b"{}") if "watch" not in path else None
        time.sleep(2.5)
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        assert total(server, "kdns_inconsistencies") == 0
        assert server.page("/ready")[0] == 200
