"""kdns as a process against the stand-in API server: following changes, and surviving whatever the server does."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import dns.message
import dns.rcode
import pytest
import yaml

from tests.support.api_server import ApiServer, Fault
from tests.support.client import addresses, ask_tcp, lookup, wait_for_addresses
from tests.support.kube import endpoint_slice, Json, namespace, pod, service
from tests.support.process import kdns, run_kdns

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."
DB = "db.default.svc.cluster.local."
NEW = "new.default.svc.cluster.local."


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.put(namespace(), service("web", "10.96.0.1"), service("db"), endpoint_slice("db", "10.1.0.1", "10.1.0.2"))
        yield api


def rcode(port: int, name: str, rrtype: str = "A") -> str:
    return dns.rcode.to_text(lookup(port, name, rrtype).rcode())


def test_only_the_slices_of_headless_services(api: ApiServer) -> None:
    """By their controller's label, which the server selects by: what is not sent costs nobody anything."""
    api.put(
        endpoint_slice("db", "10.1.0.1", "10.1.0.2", labels={"service.kubernetes.io/headless": ""}),
        endpoint_slice("web", "10.2.0.1"),
    )
    with kdns("--api-server", api.url, "--endpoints", "headless") as server:
        server.wait_for("1 EndpointSlice")
        assert addresses(server.port, DB) == {"10.1.0.1", "10.1.0.2"}
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        assert rcode(server.port, f"10-2-0-1.{WEB}") == "NXDOMAIN"
        api.put(endpoint_slice("db", "10.1.0.3", labels={"service.kubernetes.io/headless": ""}))
        wait_for_addresses(server.port, DB, {"10.1.0.3"})
    asked = [request for request in api.requests if "endpointslices" in request]
    assert all("labelSelector=service.kubernetes.io" in request for request in asked), asked


@pytest.mark.parametrize("other", [("--ignore-empty-service",), ("--clusterset-zone", "clusterset.local")])
def test_what_needs_all_slices_is_told(other: tuple[str, ...]) -> None:
    done = run_kdns("check", "--manifests", ".", "--endpoints", "headless", *other)
    assert done.returncode == 2
    assert f"kdns: {other[0]}: found --endpoints headless besides; expected one of the two" in done.stderr


def test_changes_are_seen_over_tcp_as_well(api: ApiServer) -> None:
    """The same octets each time, so that the answers come from the table of finished ones."""
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        questions = [
            dns.message.make_query(name, rrtype, id=7).to_wire()
            for name, rrtype in ((NEW, "A"), ("cluster.local.", "SOA"))
        ]

        def asked() -> list[tuple[str, ...]]:
            replies = [dns.message.from_wire(ask_tcp(server.port, wire) or b"") for wire in questions]
            return [tuple(rdata.to_text() for rrset in reply.answer for rdata in rrset) for reply in replies]

        for _ in range(4):
            asked()
        for number in range(1, 4):
            before = asked()[1]
            api.put(service("new", f"10.96.0.{number}"))
            server.wait_until(lambda number=number: asked()[0] == (f"10.96.0.{number}",))  # type: ignore[misc]
            server.wait_until(lambda before=before: asked()[1] != before)  # type: ignore[misc]
            assert asked()[1] == (lookup(server.port, "cluster.local.", "SOA").answer[0][0].to_text(),)


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming-list", "pages"])
def test_follows_changes(api: ApiServer, streaming: bool) -> None:
    api.streaming_lists = streaming
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        assert server.page("/ready") == (200, "OK")
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        assert addresses(server.port, DB) == {"10.1.0.1", "10.1.0.2"}
        for _ in range(4):
            assert rcode(server.port, NEW) == "NXDOMAIN"  # and now it is in the answer table
        api.put(service("new", "10.96.0.9"))
        wait_for_addresses(server.port, NEW, {"10.96.0.9"})
        api.put(endpoint_slice("db", "10.1.0.2", "10.1.0.3"))
        wait_for_addresses(server.port, DB, {"10.1.0.2", "10.1.0.3"})
        api.delete("Service", "new")
        wait_for_addresses(server.port, NEW, set())
        assert rcode(server.port, NEW) == "NXDOMAIN"
        api.delete("Namespace", "default")
        wait_for_addresses(server.port, WEB, set())
        api.put(namespace())
        wait_for_addresses(server.port, WEB, {"10.96.0.1"})


def test_pages_of_a_list(api: ApiServer) -> None:
    api.streaming_lists = False
    api.put(*(service(f"s{number}", f"10.97.{number >> 8}.{number & 255}") for number in range(1203)))
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after .*: 1 Namespace, 1205 Services")
        assert api.count("continue=") == 2
        assert addresses(server.port, "s1202.default.svc.cluster.local.") == {"10.97.4.178"}


def test_a_continue_token_that_expires_begins_the_list_anew(api: ApiServer) -> None:
    api.streaming_lists = False
    api.put(*(service(f"s{number}", f"10.97.{number >> 8}.{number & 255}") for number in range(600)))
    expired = iter([True])

    def fault(path: str) -> Fault | None:
        if "continue=" in path and next(expired, False):
            return 410, {}, b'{"kind":"Status","code":410,"reason":"Expired","message":"too old"}'
        return None

    api.fault = fault
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after .*602 Services")


def test_starts_without_an_api_server(api: ApiServer) -> None:
    api.stop()
    with kdns("--api-server", api.url) as server:
        assert rcode(server.port, WEB) == "SERVFAIL"
        assert rcode(server.port, "cluster.local.", "SOA") == "NOERROR"
        server.wait_until(lambda: "Connection refused" in server.page("/ready")[1])
        status, body = server.page("/ready")
        assert status == 503
        assert "not synced: Service" in body
        assert server.page("/health") == (200, "OK")
        assert "kdns_synced 0.0" in server.page("/metrics")[1]
        api.start(forbidden_seconds=0.3)
        server.wait_for("synced after")
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        server.wait_until(lambda: server.page("/ready") == (200, "OK"))
        assert server.output().count("Connection refused") <= 4  # one line a kind, and none for each attempt


def test_restart_serves_on_and_takes_up_what_changed_meanwhile(api: ApiServer) -> None:
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        api.stop()
        server.wait_until(lambda: "refused" in server.page("/ready")[1])
        assert server.page("/ready")[0] == 200
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        assert rcode(server.port, NEW) == "NXDOMAIN"
        api.delete("Service", "web")
        api.put(service("new", "10.96.0.9"))
        api.compact()
        api.start(forbidden_seconds=0.05)
        wait_for_addresses(server.port, NEW, {"10.96.0.9"})
        assert rcode(server.port, WEB) == "NXDOMAIN"


def test_a_server_that_was_away_is_watched_on_and_not_listed_again(api: ApiServer) -> None:
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        lists = api.count("sendInitialEvents")
        api.stop()
        server.wait_until(lambda: "refused" in server.page("/ready")[1])
        time.sleep(1.5)  # several attempts
        api.put(service("new", "10.96.0.9"))
        api.start(forbidden_seconds=0.05)
        wait_for_addresses(server.port, NEW, {"10.96.0.9"})
        assert api.count("sendInitialEvents") == lists


def test_expired_history_in_a_loop_does_not_spin(api: ApiServer) -> None:
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        began = len(api.requests)
        gone = b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'
        api.fault = lambda path: (200, {}, gone) if "resourceVersion=" in path or "sendInitial" in path else None
        api.cut()
        time.sleep(2)
        assert len(api.requests) - began < 60
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        api.fault = lambda path: None
        api.put(service("new", "10.96.0.9"))
        wait_for_addresses(server.port, NEW, {"10.96.0.9"})


def test_a_watch_cut_in_mid_line_goes_on_where_it_was(api: ApiServer) -> None:
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        lists = api.count("sendInitialEvents")
        for number in range(3):
            api.cut()
            api.put(service("new", f"10.96.0.{number + 10}"))
            wait_for_addresses(server.port, NEW, {f"10.96.0.{number + 10}"})
        assert api.count("sendInitialEvents") == lists


NONSENSE: dict[str, Fault] = {
    "html": (200, {"Content-Type": "text/html"}, b"<html><body>Please log in</body></html>"),
    "truncated": (200, {}, b'{"kind":"ServiceList","metadata":{"resourceVersion":"1"},"items":[{"meta'),
    "bad gateway": (502, {"Content-Type": "text/html"}, b"<h1>Bad Gateway</h1>"),
    "forbidden": (403, {}, b'{"kind":"Status","message":"services is forbidden","code":403}'),
    "too many": (429, {"Retry-After": "1"}, b""),
    "error": (500, {}, b'{"kind":"Status","message":"etcdserver: leader changed","code":500}'),
    "not there": (404, {}, b"404 page not found\n"),
    "array": (200, {}, b"[]\n"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_told_and_outlived(api: ApiServer, name: str) -> None:
    api.fault = lambda path: NONSENSE[name] if "services" in path else None
    with kdns("--api-server", api.url) as server:
        server.wait_until(lambda: "/api/v1/services" in server.page("/ready")[1])
        status, body = server.page("/ready")
        assert status == 503
        assert "Services: /api/v1/services" in body
        assert rcode(server.port, WEB) == "SERVFAIL"
        api.fault = lambda path: None
        server.wait_for("synced after")
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        server.wait_until(lambda: server.page("/ready") == (200, "OK"))


def stream(*events: tuple[str, Json]) -> Fault:
    return 200, {}, b"".join(json.dumps({"type": kind, "object": thing}).encode() + b"\n" for kind, thing in events)


def bookmark(version: str, *, end: bool = False) -> tuple[str, Json]:
    annotations = {"k8s.io/initial-events-end": "true"} if end else None
    meta = {"resourceVersion": version, **({"annotations": annotations} if annotations else {})}
    return "BOOKMARK", {"kind": "Service", "apiVersion": "v1", "metadata": meta, "spec": {}, "status": {}}


def test_a_status_with_code_200_is_no_empty_list(api: ApiServer) -> None:
    api.streaming_lists = False
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        status = b'{"kind":"Status","apiVersion":"v1","metadata":{"resourceVersion":"9"},"status":"Failure"}'
        api.fault = lambda path: (200, {}, status) if "services" in path and "watch" not in path else None
        api.compact()
        api.cut()
        server.wait_until(lambda: "a Status instead of a list" in server.page("/ready")[1])
        assert addresses(server.port, WEB) == {"10.96.0.1"}


def test_deleted_and_made_again_within_one_read(api: ApiServer) -> None:
    web = service("web", "10.96.0.7")
    web["metadata"]["resourceVersion"] = "200"
    first = iter([True])
    body = stream(("ADDED", web), ("DELETED", web), ("ADDED", web), bookmark("201", end=True))
    api.fault = lambda path: body if "services" in path and "sendInitial" in path and next(first, False) else None
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        assert addresses(server.port, WEB) == {"10.96.0.7"}


def test_a_deletion_counts_whatever_else_is_wrong_with_the_object(api: ApiServer) -> None:
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        odd = service("web", "10.96.0.1")
        odd["spec"]["ports"] = "x"
        odd["metadata"]["resourceVersion"] = "300"
        first = iter([True])
        api.fault = lambda path: stream(("DELETED", odd)) if "services" in path and next(first, False) else None
        api.cut()
        wait_for_addresses(server.port, WEB, set())


@pytest.mark.parametrize(
    "fault",
    [
        stream(("ERROR", {"kind": "Status", "code": 500, "message": "unable to decode an event"})),
        (200, {}, b"garbage\n"),
        (400, {}, b'{"kind":"Status","code":400,"message":"bad"}'),
    ],
    ids=["error 500", "garbage", "400"],
)
def test_a_version_that_cannot_be_watched_is_listed_anew(api: ApiServer, fault: Fault) -> None:
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        api.fault = lambda path: fault if "services" in path and "resourceVersion=1" in path else None
        api.cut()
        api.put(service("new", "10.96.0.9"))
        wait_for_addresses(server.port, NEW, {"10.96.0.9"})


def test_an_old_server_that_ignores_the_streaming_list(api: ApiServer) -> None:
    api.streaming_lists = False
    api.ignores_streaming = True
    api.bookmark_seconds = 0.3
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        api.put(service("new", "10.96.0.9"))
        wait_for_addresses(server.port, NEW, {"10.96.0.9"})


@pytest.mark.parametrize(
    "fault",
    [
        (502, {}, b'{"message":"caf\xe9"}'),
        (503, {"Retry-After": "nan"}, b""),
        (200, {}, b'{"type":"ADDED","object":{"metadata":{"name":"x","annotations":{"a":"\xe9"}}}}\n'),
        (200, {}, b'{"type":"ADDED","object":{"metadata":{"name":"x"},"spec":' + b"[" * 5000 + b"]" * 5000 + b"}}\n"),
        (200, {}, b'{"type":"ADDED","object":{"metadata":{"name":"web","labels":{"a":1}},"spec":{}}}\n'),
    ],
    ids=["latin-1", "retry nan", "no utf-8", "deep", "labels"],
)
def test_nothing_that_arrives_ends_the_process(api: ApiServer, fault: Fault) -> None:
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        began = len(api.requests)
        api.fault = lambda path: fault if "services" in path else None
        api.cut()
        server.wait_until(lambda: len(api.requests) > began + 6)
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        api.fault = lambda path: None
        api.put(service("new", "10.96.0.9"))
        wait_for_addresses(server.port, NEW, {"10.96.0.9"})
        assert server.process.poll() is None


def test_a_port_name_of_63_characters(api: ApiServer) -> None:
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        api.put(service("new", "10.96.0.9", ports=[{"name": "p" * 63, "port": 80}]))
        wait_for_addresses(server.port, NEW, {"10.96.0.9"})


def test_one_bad_object_costs_itself_alone(api: ApiServer) -> None:
    bad = service("bad", "10.96.0.300")
    odd = service("odd", "10.96.0.3")
    odd["spec"]["ports"] = "eighty"
    api.put(bad, odd)
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        server.wait_for(
            r"Service default/bad: spec.clusterIPs\[0\]: found '10.96.0.300', expected an IP address; skipped"
        )
        server.wait_for("Service default/odd: spec.ports: .*; skipped")
        assert "kdns_bad_objects_total 2.0" in server.page("/metrics")[1]


def test_selectors_and_kinds_asked_for(api: ApiServer) -> None:
    api.put(
        namespace("team", tier="web"),
        service("a", "10.96.1.1", namespace="team", labels={"app": "a"}),
        service("b", "10.96.1.2", namespace="team", labels={"app": "b"}),
        pod("p", "10.1.2.3", namespace="team"),
        pod("gone", "10.1.2.4", namespace="team", phase="Succeeded"),
    )
    with kdns(
        "--api-server", api.url, "--namespace-labels", "tier=web", "--pods", "verified", "--labels", "app!=b"
    ) as server:
        server.wait_for("synced after")
        assert addresses(server.port, "a.team.svc.cluster.local.") == {"10.96.1.1"}
        assert rcode(server.port, "b.team.svc.cluster.local.") == "NXDOMAIN"
        assert rcode(server.port, WEB) == "NXDOMAIN"
        assert rcode(server.port, "1.0.96.10.in-addr.arpa.", "PTR") == "NXDOMAIN"
        assert addresses(server.port, "10-1-2-3.team.pod.cluster.local.") == {"10.1.2.3"}
        assert rcode(server.port, "10-1-2-4.team.pod.cluster.local.") == "NXDOMAIN"
        api.put(pod("p", "10.1.2.3", namespace="team", phase="Failed"))
        wait_for_addresses(server.port, "10-1-2-3.team.pod.cluster.local.", set())
        api.put(namespace("team", tier="db"))
        wait_for_addresses(server.port, "a.team.svc.cluster.local.", set())
    assert not any("/pods" in request for request in api.requests if "fieldSelector" not in request)


def test_no_endpoints(api: ApiServer) -> None:
    with kdns("--api-server", api.url, "--endpoints", "none") as server:
        server.wait_for("synced after")
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        assert rcode(server.port, DB) == "NXDOMAIN"
        assert not api.count("endpointslices")


def kubeconfig(folder: Path, api: ApiServer, user: Mapping[str, object]) -> Path:
    path = folder / "kubeconfig"
    context = {"name": "test", "context": {"cluster": "c", "user": "u"}}
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": api.url}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [context],
                "current-context": "test",
            }
        )
    )
    return path


def test_a_token_of_a_kubeconfig_that_is_rotated(api: ApiServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    api.token = "first"
    path = kubeconfig(tmp_path, api, {"tokenFile": str(token)})
    with kdns("--kubeconfig", path, "--context", "test") as server:
        server.wait_for("synced after")
        api.token = "second"
        api.cut()
        server.wait_for("401 Unauthorized")
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        token.write_text("second")
        api.put(service("new", "10.96.0.9"))
        wait_for_addresses(server.port, NEW, {"10.96.0.9"})


def test_an_exec_plugin_that_fails_does_not_end_the_process(api: ApiServer, tmp_path: Path) -> None:
    plugin = {
        "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/false", "interactiveMode": "Never"}
    }
    api.token = "secret"
    with kdns("--kubeconfig", kubeconfig(tmp_path, api, plugin)) as server:
        server.wait_until(lambda: "credentials: the exec plugin '/bin/false' gave none" in server.page("/ready")[1])
        assert rcode(server.port, WEB) == "SERVFAIL"


def test_stops_within_seconds_with_watches_open(api: ApiServer) -> None:
    with kdns("--api-server", api.url) as server:
        server.wait_for("synced after")
        began = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 10
