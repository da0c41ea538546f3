"""A stand-in for a Kubernetes API server: real HTTP list and watch, with the behaviours seen on Kubernetes 1.36.

| behaviour                                   | how a test has it                                              |
|---------------------------------------------|----------------------------------------------------------------|
| lists with ``limit`` and ``continue``       | always                                                         |
| watch from a version, bookmarks with nulls  | always; ``bookmark_seconds``                                   |
| streaming lists (``sendInitialEvents``)     | ``streaming_lists``; without it 400, or ignored: ``ignores_streaming`` |
| label and field selectors                   | always: ``a=b,c!=d``, ``status.phase!=…``, ``spec.nodeName=…`` |
| compaction: 200, then one ERROR 410         | ``compact()``; a list's continue token answers 410 itself      |
| a stream cut in the middle of a line        | ``cut()``                                                      |
| silence                                     | ``silent = True``; a version of the future is silent by itself |
| connection refused, then 403 for a while    | ``stop()``, ``start(forbidden_seconds=…)``                     |
| an API that is not there: 404               | ``remove_api(path)``, ``add_api(path)``; all of ``CUSTOM`` are missing at first |
| any other answer                            | ``fault``: path to (status, headers, body), or None            |
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import msgspec

Json = dict[str, Any]
Fault = tuple[int, dict[str, str], bytes]

PATHS = {
    "/api/v1/namespaces": ("v1", "Namespace"),
    "/api/v1/services": ("v1", "Service"),
    "/api/v1/pods": ("v1", "Pod"),
    "/apis/discovery.k8s.io/v1/endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
}
CUSTOM = {
    "/apis/multicluster.x-k8s.io/v1beta1/serviceimports": ("multicluster.x-k8s.io/v1beta1", "ServiceImport"),
    "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports": ("multicluster.x-k8s.io/v1alpha1", "ServiceImport"),
    "/apis/networking.k8s.io/v1/ingresses": ("networking.k8s.io/v1", "Ingress"),
    "/apis/gateway.networking.k8s.io/v1/gateways": ("gateway.networking.k8s.io/v1", "Gateway"),
    "/apis/gateway.networking.k8s.io/v1/httproutes": ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    "/apis/gateway.networking.k8s.io/v1/grpcroutes": ("gateway.networking.k8s.io/v1", "GRPCRoute"),
    "/apis/gateway.networking.k8s.io/v1alpha2/tlsroutes": ("gateway.networking.k8s.io/v1alpha2", "TLSRoute"),
}
"""APIs that a cluster may lack. Versions of one kind are views of the same objects."""
ALL = PATHS | CUSTOM
_EMPTY: dict[str, Json] = {
    "EndpointSlice": {"addressType": "", "endpoints": None, "ports": None},
    "Service": {"spec": {}, "status": {"loadBalancer": {}}},
    "Pod": {"spec": {"containers": None}, "status": {}},
    "Namespace": {"spec": {}, "status": {}},
}


class ApiServer:
    """The cluster's objects and the server in front of them. Use as a context manager."""

    def __init__(self) -> None:
        self.streaming_lists = True
        self.ignores_streaming = False
        self.silent = False
        self.bookmark_seconds = 60.0
        self.token: str | None = None
        self.tls: ssl.SSLContext | None = None
        self.fault: Callable[[str], Fault | None] = lambda path: None
        self.requests: list[str] = []
        self.apis = set(PATHS)
        self._objects: dict[str, dict[tuple[str, str], _Item]] = {kind: {} for _, kind in ALL.values()}
        self._history: list[tuple[int, str, _Item, _Item | None]] = []
        self._version = 100
        self._compacted = 0
        self._changed = threading.Condition()
        self._cut = 0
        self._server: ThreadingHTTPServer | None = None
        self._forbidden_until = 0.0
        self.port = 0

    # -- the cluster ----------------------------------------------------------------------------------------------

    def put(self, *objects: Json, quietly: bool = False) -> None:
        """Create or replace objects, given without a version; *quietly*: no watch is told, as where an event is lost."""
        with self._changed:
            for new in objects:
                kind = new["kind"]
                key = (new["metadata"].get("namespace", ""), new["metadata"]["name"])
                old = self._objects[kind].get(key)
                self._version += 1
                item = self._objects[kind][key] = _Item(new, self._version)
                if not quietly:
                    self._history.append((self._version, "MODIFIED" if old else "ADDED", item, old))
            self._changed.notify_all()

    def delete(self, kind: str, name: str, namespace: str = "default", *, quietly: bool = False) -> None:
        """Delete an object; *quietly* as above."""
        with self._changed:
            old = self._objects[kind].pop(("" if kind == "Namespace" else namespace, name))
            self._version += 1
            if not quietly:
                self._history.append((self._version, "DELETED", _Item(old.json(), self._version), old))
            self._changed.notify_all()

    def add_api(self, path: str) -> None:
        """Begin to serve one of ``CUSTOM``, as when its CRD is installed."""
        self.apis.add(path)

    def remove_api(self, path: str) -> None:
        """Cease to serve it, as when its CRD is deleted: the objects go, and every watch is cut."""
        with self._changed:
            self.apis.discard(path)
            _, kind = ALL[path]
            if not any(ALL[other][1] == kind for other in self.apis):
                self._objects[kind].clear()
        self.cut()

    def compact(self) -> None:
        """Forget the history: a watch from any earlier version is told 410."""
        with self._changed:
            self._version += 1
            self._history.clear()
            self._compacted = self._version
            self._changed.notify_all()

    def restore(self, version: int) -> None:
        """Go back to an earlier version, as a server restored from a backup does."""
        with self._changed:
            self._version = version
            self._history.clear()
            self._compacted = 0

    def cut(self) -> None:
        """Cut every open watch in the middle of a line."""
        with self._changed:
            self._cut += 1
            self._changed.notify_all()

    # -- the server -----------------------------------------------------------------------------------------------

    def start(self, *, forbidden_seconds: float = 0.0) -> None:
        """Listen, on the same port as before if there was one."""
        self._forbidden_until = time.monotonic() + forbidden_seconds
        cluster = self

        class Handler(_Handler):
            api = cluster

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening, and cut every watch."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        self.cut()

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self.stop()

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def count(self, part: str) -> int:
        """Count the requests whose path and query hold *part*."""
        return sum(part in request for request in self.requests)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away are what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # as a real server has it
    api: ApiServer

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        api = self.api
        url = urlsplit(self.path)
        api.requests.append(self.path)
        params = {key: values[0] for key, values in parse_qs(url.query).items()}
        if (within := re.fullmatch(r"(.*)/namespaces/([^/]+)(/[a-z]+)", url.path)) is not None:
            url = url._replace(path=within[1] + within[3])
            params["namespace"] = within[2]
        if (fault := api.fault(self.path)) is not None:
            status, headers, body = fault
            self._send(status, body, headers)
        elif time.monotonic() < api._forbidden_until:
            self._status(403, "Forbidden", f'{url.path} is forbidden: User "dns" cannot list resource')
        elif api.token is not None and self.headers.get("Authorization") != f"Bearer {api.token}":
            self._status(401, "Unauthorized", "Unauthorized")
        elif url.path not in api.apis:
            self._send(404, b"404 page not found\n", {"Content-Type": "text/plain"})
        elif params.get("watch") in ("true", "1"):
            self._watch(url.path, params)
        else:
            self._list(url.path, params)

    def _list(self, path: str, params: dict[str, str]) -> None:
        api = self.api
        version, kind = ALL[path]
        with api._changed:
            items = [item for _, item in sorted(api._objects[kind].items()) if item.is_selected(params)]
            at, made_at = 0, api._version
            if "continue" in params:
                at, made_at = map(int, params["continue"].split("-"))
                if made_at < api._compacted:
                    self._status(410, "Expired", "The provided continue parameter is too old")
                    return
        end = at + int(params["limit"]) if "limit" in params else len(items)
        meta: Json = {"resourceVersion": str(made_at)}
        if end < len(items):
            meta |= {"continue": f"{end}-{made_at}", "remainingItemCount": len(items) - end}
        # The items of a typed list leave out their kind and version, as a real server's do.
        shown = [msgspec.Raw(item.body) for item in items[at:end]]
        body = {"kind": f"{kind}List", "apiVersion": version, "metadata": meta, "items": shown}
        self._send(200, msgspec.json.encode(body))

    def _watch(self, path: str, params: dict[str, str]) -> None:
        api = self.api
        streams = params.get("sendInitialEvents") == "true"
        if streams and not api.streaming_lists:
            if not api.ignores_streaming:
                self._status(
                    400,
                    "BadRequest",
                    "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
                )
                return
            streams = False
        deadline = time.monotonic() + float(params.get("timeoutSeconds", "300"))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with api._changed:
            cut = api._cut
            if "resourceVersion" in params:
                at = int(params["resourceVersion"])
                if at < api._compacted:
                    gone = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired", "code": 410,
                            "message": f"too old resource version: {at} ({api._compacted})"}  # fmt: skip
                    self._event("ERROR", msgspec.json.encode(gone))
                    self._end()
                    return
            else:
                at = api._version
                for _, item in sorted(api._objects[ALL[path][1]].items()):
                    if item.is_selected(params):
                        self._event("ADDED", item.text())
                if streams:
                    self._bookmark(path, at, {"k8s.io/initial-events-end": "true"})
        bookmark_at = time.monotonic() + api.bookmark_seconds
        while time.monotonic() < deadline:
            with api._changed:
                api._changed.wait(0.02)
                if api._cut != cut:
                    self._chunk(b'{"type":"MODIFIED","object":{"kind":"Se')
                    self.close_connection = True
                    self.connection.close()
                    return
                news = api._history[bisect_right(api._history, at, key=lambda row: row[0]) :]
                if at < api._compacted and not news:
                    at = api._compacted
            if api.silent:
                continue
            for number, what, item, before in news:
                at = number
                if item.kind == ALL[path][1]:
                    self._change(what, item, before, params)
            if time.monotonic() >= bookmark_at:
                bookmark_at = time.monotonic() + api.bookmark_seconds
                self._bookmark(path, at, None)
        self._end()

    def _change(self, what: str, item: _Item, before: _Item | None, params: dict[str, str]) -> None:
        """Send a change as a selector makes it look: an object that begins or ceases to match is added or deleted."""
        now = what != "DELETED" and item.is_selected(params)
        was = before is not None and before.is_selected(params)
        if now or was:
            self._event("MODIFIED" if now and was else "ADDED" if now else "DELETED", item.text())

    def _bookmark(self, path: str, version: int, annotations: dict[str, str] | None) -> None:
        api_version, kind = ALL[path]
        meta: Json = {"resourceVersion": str(version)}
        if annotations:
            meta["annotations"] = annotations
        shown = {"kind": kind, "apiVersion": api_version, "metadata": meta, **_EMPTY.get(kind, {})}
        self._event("BOOKMARK", msgspec.json.encode(shown))

    def _event(self, what: str, text: bytes) -> None:
        self._chunk(b'{"type":"%s","object":%s}\n' % (what.encode(), text))

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def _status(self, code: int, reason: str, message: str) -> None:
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
        self._send(code, msgspec.json.encode(body))

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Item:
    """An object as of one version: its JSON, written as the API server does, and what selectors look at."""

    def __init__(self, new: Json, version: int) -> None:
        meta = new["metadata"]
        rest = {name: value for name, value in new.items() if name not in ("kind", "apiVersion")}
        self.kind: str = new["kind"]
        self.api_version: str = new.get("apiVersion", "")
        self.body = msgspec.json.encode({**rest, "metadata": {**meta, "resourceVersion": str(version)}})
        """Without its kind and version."""
        self._namespace = meta.get("namespace")
        self._labels = dict(meta.get("labels") or {})
        self._phase = (new.get("status") or {}).get("phase", "")
        self._node = (new.get("spec") or {}).get("nodeName")

    def text(self) -> bytes:
        head = msgspec.json.encode({"kind": self.kind, "apiVersion": self.api_version})
        return head[:-1] + b"," + self.body[1:]

    def json(self) -> Json:
        return cast(Json, msgspec.json.decode(self.text()))

    def is_selected(self, params: dict[str, str]) -> bool:
        if self._namespace != params.get("namespace", self._namespace):
            return False
        for part in filter(None, params.get("labelSelector", "").split(",")):
            key, negative, value = part.partition("!=") if "!=" in part else part.partition("=")
            if (self._labels.get(key) == value) is (negative == "!="):
                return False
        for part in filter(None, params.get("fieldSelector", "").split(",")):
            if part.startswith("status.phase!="):
                if self._phase == part.removeprefix("status.phase!="):
                    return False
            elif self._node != part.removeprefix("spec.nodeName="):
                return False
        return True
