"""The stand-in API server agrees with what a real one of Kubernetes 1.36 sent (``tests/recordings``)."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import ApiServer
from tests.support.kube import endpoint_slice, namespace, pod, service

pytestmark = pytest.mark.system

RECORDINGS = Path(__file__).parent.parent / "recordings"
PATHS = {
    "services": "/api/v1/services",
    "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
    "namespaces": "/api/v1/namespaces",
    "pods": "/api/v1/pods",
}


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.put(namespace(), *(service(f"s{number}", f"10.96.0.{number}") for number in range(1, 9)))
        api.put(endpoint_slice("s1", "10.1.0.1"), pod("p", "10.1.0.1"))
        yield api


def recorded(name: str) -> tuple[int, str, list[bytes]]:
    """Return status, content type and the lines of the body."""
    head, _, body = (RECORDINGS / name).read_bytes().replace(b"\r\n", b"\n").rpartition(b"\n\n")
    status, *headers = head.decode().rpartition("\n\n")[2].splitlines()
    kind = next(line.split(": ")[1] for line in headers if line.lower().startswith("content-type"))
    return int(status.split()[1]), kind, body.splitlines()


def asked(api: ApiServer, path: str) -> tuple[int, str, list[bytes]]:
    """Return the same of the stand-in; a watch is told to end after a moment."""
    try:
        with urllib.request.urlopen(api.url + path, timeout=10) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().splitlines()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.headers["Content-Type"], exc.read().splitlines()


def shape(value: Any) -> Any:
    """Return the keys of a JSON object, and of what matters in it."""
    return set(value) - {"message", "details"}


def test_pages_of_a_list(api: ApiServer) -> None:
    real, ours = recorded("list-services-page1.http"), asked(api, PATHS["services"] + "?limit=4")
    assert real[:2] == ours[:2]
    theirs, mine = json.loads(real[2][0]), json.loads(ours[2][0])
    assert shape(theirs) == shape(mine)
    assert shape(theirs["metadata"]) == shape(mine["metadata"])
    assert theirs["kind"] == mine["kind"]
    assert len(theirs["items"]) == len(mine["items"]) == 4
    assert theirs["metadata"]["remainingItemCount"] == 5
    assert all("kind" not in item and "apiVersion" not in item for item in (*theirs["items"], *mine["items"]))
    token = mine["metadata"]["continue"]
    real, ours = recorded("list-services-page2.http"), asked(api, f"{PATHS['services']}?limit=4&continue={token}")
    theirs, mine = json.loads(real[2][0]), json.loads(ours[2][0])
    assert mine["metadata"]["resourceVersion"] == token.partition("-")[2]
    assert theirs["kind"] == mine["kind"] == "ServiceList"


@pytest.mark.parametrize("name", PATHS)
def test_bookmarks(api: ApiServer, name: str) -> None:
    api.bookmark_seconds = 0.1
    _, _, lines = asked(api, f"{PATHS[name]}?watch=true&allowWatchBookmarks=true&resourceVersion=9999&timeoutSeconds=1")
    mine = next(json.loads(line) for line in lines if b"BOOKMARK" in line)
    theirs = next(json.loads(line) for line in recorded(f"watch-{name}.http")[2] if b"BOOKMARK" in line)
    mine["object"]["metadata"] = theirs["object"]["metadata"] = {}
    assert mine == theirs


def test_a_streaming_list(api: ApiServer) -> None:
    parameters = (
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    )
    real, ours = recorded("watch-list-endpointslices.http"), asked(api, f"{PATHS['endpointslices']}?{parameters}")
    assert real[:2] == ours[:2]
    for lines in (real[2], ours[2]):
        events = [json.loads(line) for line in lines]
        kinds = [event["type"] for event in events]
        end = kinds.index("BOOKMARK")
        assert set(kinds[:end]) == {"ADDED"}
        assert events[end]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert all(event["object"]["kind"] == "EndpointSlice" for event in events)


def test_a_watch_of_an_old_version(api: ApiServer) -> None:
    api.compact()
    real, ours = recorded("watch-old-version-410.http"), asked(api, f"{PATHS['services']}?watch=true&resourceVersion=1")
    assert real[:2] == ours[:2]
    theirs, mine = json.loads(real[2][0]), json.loads(ours[2][0])
    assert theirs["type"] == mine["type"] == "ERROR"
    assert shape(theirs["object"]) == shape(mine["object"])
    for key in ("kind", "status", "reason", "code"):
        assert theirs["object"][key] == mine["object"][key]


def test_a_watch_of_the_future_is_silent(api: ApiServer) -> None:
    assert asked(api, f"{PATHS['services']}?watch=true&resourceVersion=999999&timeoutSeconds=1")[2] == []


def test_refusals(api: ApiServer) -> None:
    api.token = "secret"
    real, ours = recorded("unauthorized.http"), asked(api, PATHS["services"])
    assert real[:2] == ours[:2]
    assert json.loads(real[2][0]) == json.loads(ours[2][0])
    api.stop()
    api.start(forbidden_seconds=60)
    for name in ("forbidden.http", "restart-403.http"):
        real, ours = recorded(name), asked(api, PATHS["services"])
        assert real[:2] == ours[:2]
        assert shape(json.loads(real[2][0])) == shape(json.loads(ours[2][0]))


def test_an_api_that_is_not_there(api: ApiServer) -> None:
    real = recorded("list-of-an-api-that-is-not-there.http")
    ours = asked(api, "/apis/nowhere/v1/things")
    assert (real[0], real[1].split(";")[0], real[2]) == (ours[0], ours[1].split(";")[0], ours[2])


def test_changes_through_a_selector(api: ApiServer) -> None:
    """An object that begins or ceases to match is added or deleted, as a real server has it."""
    version = json.loads(asked(api, PATHS["services"])[2][0])["metadata"]["resourceVersion"]
    api.put(service("s1", "10.96.0.1", labels={"app": "web"}))
    api.put(service("s1", "10.96.0.2", labels={"app": "web"}))
    api.put(service("s1", "10.96.0.2"))
    query = f"?watch=true&resourceVersion={version}&labelSelector=app%3Dweb&timeoutSeconds=1"
    events = [json.loads(line)["type"] for line in asked(api, PATHS["services"] + query)[2]]
    assert events == ["ADDED", "MODIFIED", "DELETED"]
