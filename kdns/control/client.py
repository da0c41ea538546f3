"""The Kubernetes client's one home: credentials, TLS and HTTP are its, everything above is ours.

All of it blocks, so it runs in threads. Only its credentials and its HTTP are used, and no more of it is imported:
the generated API classes, and what stands beside them, cost 17 MB and 0.17 s of CPU (most of which a kubeconfig does
cost). A refused credential is read anew before the next request: a rotated token, a renewed certificate or an exec
plugin's new answer is taken up that way.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import urllib3
import yaml

from kdns.control.partial import not_run
from kdns.errors import AccessDenied, ClusterError, ClusterUnavailable, ResourceExpired
from kdns.version import VERSION
from zones.json_errors import NOT_JSON

CONNECT_SECONDS: Final = 5.0
CHUNK_OCTETS: Final = 2**18
"""Read at a time, at most."""

MAX_BODY_OCTETS: Final = 256 * 2**20
"""The most that one page of a list may have; 500 slices of 100 endpoints each have 15 MB."""

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Access(msgspec.Struct, frozen=True):
    """How to reach an API server: a URL, a kubeconfig with a context, or neither: the pod's service account."""

    url: str | None = None
    kubeconfig: Path | None = None
    context: str | None = None


class Observer(Protocol):
    """Is told of every request: method, host, HTTP code (0: none came) and seconds until it did. Called in threads."""

    def __call__(self, method: str, host: str, code: int, seconds: float) -> None:
        """Note one request."""


class StatusJson(msgspec.Struct):
    """``v1`` Status: what an API server says instead of what was asked for."""

    message: str | None = None
    reason: str | None = None
    code: int | None = None


class Stream:
    """The body of a response, read as it comes. ``close`` may be called from another thread and ends a blocked read."""

    def __init__(self, response: urllib3.HTTPResponse, where: str) -> None:
        self._response = response
        self._where = where

    def read_all(self) -> bytes:
        """Return the whole body. Raises ClusterUnavailable."""
        with self:
            parts = []
            octets = 0
            for part in self._chunks():
                parts.append(part)
                octets += len(part)
                if octets > MAX_BODY_OCTETS:
                    raise ClusterUnavailable(f"{self._where}: a body of more than {MAX_BODY_OCTETS} octets")
            return b"".join(parts)

    def lines(self) -> Iterator[list[bytes]]:
        """Yield the lines that each read completed; what is cut in mid-line is dropped. Raises ClusterUnavailable."""
        parts: list[bytes] = []
        octets = 0
        for chunk in self._chunks():
            *lines, rest = chunk.split(b"\n")
            if lines:
                if parts:
                    lines[0] = b"".join((*parts, lines[0]))
                    parts, octets = [], 0
                yield [line for line in lines if line.strip()]
            if rest:
                parts.append(rest)
                octets += len(rest)
                if octets > MAX_BODY_OCTETS:
                    raise ClusterUnavailable(f"{self._where}: a line of more than {MAX_BODY_OCTETS} octets")

    def _chunks(self) -> Iterator[bytes]:
        try:
            if self._response.chunked:  # a chunk is an event, whole: half the work of whatever has come so far
                yield from self._response.read_chunked(CHUNK_OCTETS, decode_content=True)
            else:
                while chunk := self._response.read1(CHUNK_OCTETS):
                    yield chunk
        except urllib3.exceptions.ReadTimeoutError as exc:
            raise Silence(f"{self._where}: silent for too long") from exc
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as exc:
            # ValueError, AttributeError: what reading from a connection that another thread shut down ends in
            raise ClusterUnavailable(f"{self._where}: cut off ({_reason(exc)})") from exc

    def close(self) -> None:
        """End the response and its connection."""
        for end in (self._response.shutdown, self._response.close):
            try:
                end()
            except (urllib3.exceptions.HTTPError, OSError, ValueError, RuntimeError, AttributeError):
                continue  # closed already

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Silence(ClusterUnavailable):
    """Nothing came for as long as something should have."""


class ApiServer:
    """An API server. Methods block; errors are ClusterErrors of one line, with the path asked for."""

    def __init__(self, access: Access, *, observe: Observer | None = None) -> None:
        self._access = access
        self._observe = observe or (lambda method, host, code, seconds: None)
        self._client: Any = None
        self._lock = threading.Lock()

    def check_files(self) -> None:
        """Read the credentials that lie on this machine. Raises ClusterError when they cannot be used."""
        self._rest_client(run_plugins=False)

    def get(self, path: str, params: dict[str, str], *, silence_seconds: float) -> Stream:
        """Send a GET; the body is read from the stream, each read waiting *silence_seconds* at most."""
        client = self._rest_client()
        began = time.monotonic()
        code = 0
        try:
            url = f"{client.configuration.host}{path}" + (f"?{urlencode(params, quote_via=quote)}" if params else "")
            headers = {"Accept": "application/json", "User-Agent": f"kdns/{VERSION}"}
            for setting in client.configuration.auth_settings().values():  # a token that was renewed is read here
                headers[setting["key"]] = setting["value"]
            response = client.request(
                "GET", url, headers=headers, _request_timeout=(CONNECT_SECONDS, silence_seconds)
            ).response
            code = response.status
        except urllib3.exceptions.ReadTimeoutError as exc:
            raise Silence(f"{path}: no answer within {silence_seconds:g} s") from exc
        except Exception as exc:
            self._client = None
            raise ClusterUnavailable(f"{path}: {_reason(exc)}") from exc
        finally:
            self._observe("GET", self.host, code, time.monotonic() - began)
        if code == 200:
            return Stream(response, path)
        raise self._error(path, code, response)

    def identity(self) -> str:
        """Return what tells this cluster from others, without asking it: where it is, and who signs for it."""
        access, parts = self._access, []
        if access.url is not None:
            parts = [access.url.encode()]
        elif access.kubeconfig is not None:
            parts = _identity_in_kubeconfig(access)
        else:
            parts = [os.environ.get("KUBERNETES_SERVICE_HOST", "").encode()]
            with suppress(OSError):
                parts.append((SERVICE_ACCOUNT / "ca.crt").read_bytes())
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]

    @property
    def host(self) -> str:
        """The host and port that requests go to, as far as it is known."""
        client = self._client  # other threads may drop it meanwhile
        return urlsplit(client.configuration.host if client is not None else self._access.url or "").netloc

    def _error(self, path: str, code: int, response: urllib3.HTTPResponse) -> ClusterError:
        try:
            body = response.read(4096)
        except (urllib3.exceptions.HTTPError, OSError):
            body = b""
        finally:
            response.close()
        try:
            said = msgspec.json.decode(body, type=StatusJson).message or ""
        except NOT_JSON:
            said = body.decode(errors="replace").strip().splitlines()[0][:200] if body.strip() else ""
        text = f"{path}: {code} {response.reason or ''}".rstrip() + (f": {said}" if said else "")
        match code:
            case 410:
                return ResourceExpired(text)
            case 401:
                self._client = None  # read the credentials anew
                return AccessDenied(text)
            case 403:
                return AccessDenied(text)
        try:
            wait = float(response.headers.get("Retry-After", "0"))
        except ValueError:
            wait = 0.0
        return ClusterUnavailable(text, code=code, retry_after=min(wait, 60.0) if 0 < wait < float("inf") else 0.0)

    def _rest_client(self, *, run_plugins: bool = True) -> Any:
        with self._lock:  # one thread reads credentials, and runs a plugin, for all
            return self._make_rest_client(run_plugins=run_plugins)

    def _make_rest_client(self, *, run_plugins: bool) -> Any:
        if self._client is None:
            access = self._access
            config: Any  # untyped
            with not_run("kubernetes", "kubernetes.config", "kubernetes.utils"):
                from kubernetes.client.configuration import Configuration
                from kubernetes.client.rest import RESTClientObject

                if access.kubeconfig is not None:
                    from kubernetes.config import kube_config as config
                else:
                    from kubernetes.config import incluster_config as config
            configuration = Configuration()
            try:
                if access.url is not None:
                    configuration.host = access.url.rstrip("/")
                elif access.kubeconfig is not None:
                    if not run_plugins:
                        _check_kubeconfig(access, config)
                        return None
                    config.load_kube_config(
                        config_file=str(access.kubeconfig),
                        context=access.context,
                        client_configuration=configuration,
                        persist_config=False,
                    )
                    _check_plugin(access, configuration)
                else:
                    config.load_incluster_config(client_configuration=configuration)
            except ClusterError:
                raise
            except Exception as exc:  # a kubeconfig can break its reader in many ways
                raise ClusterUnavailable(f"credentials: {_reason(exc)}") from exc
            configuration.retries = False  # the reflector knows better when to ask again
            configuration.keep_alive = True
            self._client = RESTClientObject(configuration)
        return self._client


def _check_plugin(access: Access, configuration: Any) -> None:
    """Refuse to go on without credentials where a plugin was to give some: the client only logs that it failed."""
    assert access.kubeconfig is not None  # the one caller has looked
    document = yaml.safe_load(access.kubeconfig.read_text(encoding="utf-8"))
    context = access.context or document.get("current-context")
    contexts = {entry["name"]: entry["context"] for entry in document.get("contexts") or ()}
    users = {entry["name"]: entry["user"] for entry in document.get("users") or ()}
    plugin = (users.get((contexts.get(context) or {}).get("user")) or {}).get("exec")
    if plugin and not configuration.api_key.get("BearerToken") and not configuration.cert_file:
        raise ClusterUnavailable(f"credentials: the exec plugin {plugin.get('command')!r} gave none")


def _identity_in_kubeconfig(access: Access) -> list[bytes]:
    assert access.kubeconfig is not None  # the one caller has looked
    try:
        document = yaml.safe_load(access.kubeconfig.read_text(encoding="utf-8"))
        contexts = {entry["name"]: entry["context"] for entry in document["contexts"]}
        clusters = {entry["name"]: entry["cluster"] for entry in document["clusters"]}
        cluster = clusters[contexts[access.context or document["current-context"]]["cluster"]]
        authority = str(cluster.get("certificate-authority-data", "")).encode()
        if path := cluster.get("certificate-authority"):
            authority = (access.kubeconfig.parent / str(path)).read_bytes()
        return [str(cluster["server"]).encode(), authority]
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError):
        return [str(access).encode()]  # nothing will come of it either


def _check_kubeconfig(access: Access, config: Any) -> None:
    """Read the file and look its context up, without running anything that it names."""
    try:
        contexts, _ = config.list_kube_config_contexts(config_file=str(access.kubeconfig))
    except (TypeError, AttributeError, KeyError) as exc:
        raise ClusterUnavailable(f"not of a kubeconfig's form: {_reason(exc)}") from exc
    names = [context["name"] for context in contexts]
    if access.context is not None and access.context not in names:
        raise ClusterUnavailable(f"no context {access.context!r}; there are: {', '.join(names) or 'none'}")


def _reason(exc: BaseException) -> str:
    """Return the first line of what an exception of the client says, or its name."""
    reason = getattr(exc, "reason", None)  # urllib3's of what it wraps, or ApiException's text
    text = str(reason or (exc.args[0] if exc.args and isinstance(exc.args[0], str) else exc))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(exc).__name__
