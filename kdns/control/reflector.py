"""List and watch one kind of object, for ever (the reflector of Kubernetes' API concepts).

| what happens                                              | what follows                                         |
|-----------------------------------------------------------|------------------------------------------------------|
| start, or the version is gone (410)                       | the whole kind anew: a streaming list where the      |
|                                                           | server has them, else pages of ``PAGE_OBJECTS``; each |
|                                                           | object is applied as it comes, and what did not come |
|                                                           | is deleted at the end, so there are never two copies |
| the watch ends, is cut, or the server's time for it is up | a watch from the last version                        |
| nothing for ``silence_seconds``, no bookmark either       | a look at the server's version: a watch from the     |
|                                                           | last version, or anew if that lies in the future     |
| 403, 429, 5xx, no connection, nonsense                    | again after a back-off with jitter; what is known is |
|                                                           | served meanwhile                                     |
| 401                                                       | the same with credentials read anew                  |

The stream is read and decoded in a thread, batch by batch, and applied in the trio thread. An end by cancellation
shuts the connection down, which ends the thread's read.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import datetime, UTC
from functools import partial
from typing import Final, TypeVar

import msgspec
import trio

from kdns.control.client import ApiServer, Silence, StatusJson, Stream
from kdns.control.sink import Sink
from kdns.errors import ClusterError, ClusterUnavailable, ResourceExpired
from zones.decode import decode_json, Decoder, Head, key_of, Meta
from zones.errors import BadObject
from zones.objects import EndpointSlice, Kind, Object, ObjectKey

log = logging.getLogger(__name__)

PAGE_OBJECTS: Final = 500
INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
TRIGGER_TIME: Final = "endpoints.kubernetes.io/last-change-trigger-time"

LASTING_SECONDS: Final = 5.0
"""A watch that lasted for this long ends a row of failures; a list that succeeds between two of them does not."""

_T = TypeVar("_T")


class Resource(msgspec.Struct, frozen=True):
    """What to watch: the kind, its path in the API, and selectors in the API's form."""

    kind: Kind
    path: str
    label_selector: str = ""
    field_selector: str = ""

    @property
    def selectors(self) -> dict[str, str]:
        """The selectors as parameters of a request."""
        some = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {key: value for key, value in some.items() if value}


class Pace(msgspec.Struct, frozen=True):
    """Times in seconds. A bookmark comes about once a minute, so a watch silent for longer than that is suspect."""

    silence_seconds: float = 75.0
    watch_seconds: int = 300
    first_backoff: float = 0.05
    max_backoff: float = 15.0


class Backoff:
    """Waits that double up to a bound, each taken at random from its upper half."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._next = pace.first_backoff

    def reset(self) -> None:
        """Begin anew after a success."""
        self._next = self._pace.first_backoff

    def next(self) -> float:
        """Return the seconds to wait now."""
        wait, self._next = self._next, min(self._next * 2, self._pace.max_backoff)
        return wait * random.uniform(0.5, 1.0)


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str | None = None
    continue_: str | None = msgspec.field(default=None, name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class Batch(msgspec.Struct):
    """What one read of a stream brought, decoded."""

    puts: dict[ObjectKey, Object] = msgspec.field(default_factory=dict)
    deletes: list[tuple[Kind, ObjectKey]] = msgspec.field(default_factory=list)
    bad: list[str] = msgspec.field(default_factory=list)
    seen: list[ObjectKey] = msgspec.field(default_factory=list)
    triggers: list[tuple[ObjectKey, str]] = msgspec.field(default_factory=list)
    version: str | None = None
    ends_initial: bool = False
    error: ClusterError | None = None


class Reflector:
    """Keeps the objects of one *resource* in *sink* equal to those of *server*."""

    def __init__(
        self,
        server: ApiServer,
        resource: Resource,
        sink: Sink,
        decoder: Decoder,
        *,
        pace: Pace | None = None,
        observe_programming: Callable[[str, float], None] | None = None,
    ) -> None:
        self._server = server
        self._resource = resource
        self._sink = sink
        self._decoder = decoder
        self._pace = pace or Pace()
        self._observe_programming = observe_programming
        self._backoff = Backoff(self._pace)
        self._version: str | None = None
        self._streams_lists = True
        self._where = f"{resource.kind.value}s"
        self.kind = resource.kind
        self.lists = 0
        self._heard_at = trio.current_time()

    async def run(self) -> None:
        """Reflect until cancelled."""
        failure: type[ClusterError] | None = None
        while True:
            try:
                if self._version is None:
                    await self._list()
                else:
                    await self._watch(self._version)
            except Silence:
                await self._after_silence()
            except ResourceExpired as exc:
                log.info("%s: %s; listing again", self._where, exc)
                self._version = None
                await trio.sleep(self._backoff.next())
            except ClusterError as exc:
                self._trouble(exc)
                if type(exc) is not failure:  # a server that is back and still refuses: soon it will not
                    self._backoff.reset()
                failure = type(exc)
                wait = exc.retry_after if isinstance(exc, ClusterUnavailable) else 0.0
                await trio.sleep(max(wait, self._backoff.next()))

    def age(self) -> float:
        """Return the seconds since the server last said anything, or since the start."""
        return trio.current_time() - self._heard_at

    # -- the whole kind -------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        self.lists += 1
        if self._streams_lists:
            try:
                await self._watch(None)
            except _NoStreamingLists as exc:
                log.info("%s: no streaming lists here (%s); listing page by page", self._where, exc)
                self._streams_lists = False
            else:
                return
        seen: set[ObjectKey] = set()
        params = {"limit": str(PAGE_OBJECTS), **self._resource.selectors}
        while True:
            page, batch = await self._in_thread(partial(self._read_page, params), lambda: None)
            self._take(batch)
            seen.update(batch.seen)
            if not page.continue_:
                break
            params["continue"] = page.continue_
        self._complete(seen)
        if not page.resource_version:
            raise ClusterUnavailable(f"{self._resource.path}: a list without a version")
        self._version = page.resource_version

    def _read_page(self, params: dict[str, str]) -> tuple[_ListMeta, Batch]:
        body = self._server.get(self._resource.path, params, silence_seconds=self._pace.silence_seconds).read_all()
        try:
            page = msgspec.json.decode(body, type=_Page)
        except msgspec.DecodeError as exc:
            raise self._nonsense(body, exc) from exc
        batch = Batch()
        for item in page.items or ():
            self._decode_object(item, batch)
        return page.metadata, batch

    def _complete(self, seen: set[ObjectKey]) -> None:
        self._sink.keep_only(self._resource.kind, seen)
        self._sink.complete(self._resource.kind)

    # -- the watch ------------------------------------------------------------------------------------------------

    async def _watch(self, version: str | None) -> None:
        """Watch from *version*, or with None from a streaming list, until the stream ends."""
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(self._pace.watch_seconds, 2 * self._pace.watch_seconds)),
            **self._resource.selectors,
        }
        if version is None:
            params |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        else:
            params["resourceVersion"] = version
        began = trio.current_time()
        streams: list[Stream] = []
        initial: set[ObjectKey] | None = set() if version is None else None

        def apply(batch: Batch) -> None:
            nonlocal initial
            if batch.error is not None:
                raise batch.error
            self._take(batch)
            if initial is None:
                self._note_programming(batch)
            if trio.current_time() - began > LASTING_SECONDS:
                self._backoff.reset()
            if initial is not None:
                initial.update(batch.seen)
                initial.difference_update(key for _, key in batch.deletes)
                if batch.ends_initial:
                    self._complete(initial)
                    initial = None
            if initial is None and batch.version is not None:
                self._version = batch.version

        def read() -> None:
            try:
                stream = self._server.get(self._resource.path, params, silence_seconds=self._pace.silence_seconds)
            except ClusterUnavailable as exc:
                if version is None and exc.code in (400, 422):
                    raise _NoStreamingLists(exc.args[0]) from exc
                raise
            streams.append(stream)
            with stream:
                trio.from_thread.run_sync(self._heard)
                for lines in stream.lines():
                    trio.from_thread.run_sync(apply, self._decode_lines(lines))

        def stop() -> None:
            for stream in streams:
                stream.close()

        try:
            await self._in_thread(read, stop)
        except Silence:
            if initial is not None:
                raise _NoStreamingLists("the list did not end") from None
            raise
        if initial is not None:
            raise ClusterUnavailable(f"{self._resource.path}: the streaming list ended before its end")
        if trio.current_time() - began < LASTING_SECONDS:
            await trio.sleep(self._backoff.next())  # a server that ends every watch at once must not spin us

    def _decode_lines(self, lines: list[bytes]) -> Batch:
        batch = Batch()
        for line in lines:
            try:
                event = msgspec.json.decode(line, type=_Event)
            except msgspec.DecodeError as exc:
                batch.error = self._nonsense(line, exc)
                return batch
            match event.type:
                case "ADDED" | "MODIFIED":
                    self._decode_object(event.object, batch)
                case "DELETED":
                    self._decode_object(event.object, batch, deleted=True)
                case "BOOKMARK":
                    head = _head(event.object)
                    batch.version = head.metadata.resource_version if head.metadata else None
                    if ((head.metadata and head.metadata.annotations) or {}).get(INITIAL_EVENTS_END) == "true":
                        batch.ends_initial = True
                case "ERROR":
                    batch.error = self._status(event.object)
                    return batch
        return batch

    def _decode_object(self, text: msgspec.Raw, batch: Batch, *, deleted: bool = False) -> None:
        """Decode one object into *batch*; one that is bad costs itself alone."""
        kind = self._resource.kind
        try:
            json = decode_json(kind, text)
        except BadObject as exc:
            head = _head(text)
            key = key_of(kind, head.metadata)
            batch.bad.append(f"{kind.value} {_key_text(key)}: {exc}")
            batch.seen.append(key)
            batch.version = (head.metadata.resource_version if head.metadata else None) or batch.version
            return
        key = key_of(kind, json.metadata)
        batch.version = (json.metadata.resource_version if json.metadata else None) or batch.version
        new = None
        if not deleted:
            try:
                new = self._decoder.build(json)
            except BadObject as exc:
                batch.bad.append(f"{kind.value} {_key_text(key)}: {exc}")
                batch.seen.append(key)
                return
        if new is None:
            # The last event of a name is what counts: deletes are applied first, and take back an earlier put.
            batch.puts.pop(key, None)
            batch.deletes.append((kind, key))
        else:
            batch.puts[key] = new
            annotations = (json.metadata or Meta()).annotations or {}
            if kind is Kind.ENDPOINT_SLICE and (when := annotations.get(TRIGGER_TIME)):
                batch.triggers.append((key, when))
            batch.seen.append(key)

    def _note_programming(self, batch: Batch) -> None:
        """Tell how long it took from the pods' or the Service's change to here (CONTRACT row 11.7)."""
        if self._observe_programming is None:
            return
        now = datetime.now(UTC)
        for key, when in batch.triggers:
            piece = batch.puts.get(key)
            if not isinstance(piece, EndpointSlice):
                continue
            service = self._sink.store.service(piece.namespace, piece.service)
            try:
                seconds = (now - datetime.fromisoformat(when)).total_seconds()
            except (ValueError, TypeError):
                continue  # whoever wrote the annotation wrote no time
            if service is not None:
                # Only the slice controller sets the annotation, and only for Services with a selector.
                self._observe_programming("headless_with_selector" if service.is_headless else "cluster_ip", seconds)

    def _take(self, batch: Batch) -> None:
        self._heard()
        for message in batch.bad:
            self._sink.bad_object(self._where, message)
        self._sink.apply(batch.puts.values(), batch.deletes)

    def _heard(self) -> None:
        self._heard_at = trio.current_time()
        self._sink.trouble(self._where, None)

    def _trouble(self, exc: ClusterError) -> None:
        code = exc.code if isinstance(exc, ClusterUnavailable) else 0
        self._sink.trouble(self._where, str(exc), sort=f"{type(exc).__name__} {code}")

    async def _after_silence(self) -> None:
        """Find out whether the version watched from lies in the server's future, where every watch is silent."""
        log.info("%s: the watch was silent for %g s; renewing it", self._where, self._pace.silence_seconds)
        try:
            page, _ = await self._in_thread(partial(self._read_page, {"limit": "1"}), lambda: None)
        except Silence as exc:
            self._trouble(exc)
            return
        except ClusterError as exc:
            self._trouble(exc)
            await trio.sleep(self._backoff.next())
            return
        self._heard()
        try:
            if int(page.resource_version or "") >= int(self._version or ""):
                return
        except ValueError:
            pass  # versions that are no numbers cannot be compared: list again
        self._version = None

    # -- nonsense and threads -------------------------------------------------------------------------------------

    def _nonsense(self, body: bytes, exc: Exception) -> ClusterError:
        start = body[:60].decode(errors="replace")
        return ClusterUnavailable(f"{self._resource.path}: not what an API server sends ({exc}): {start!r}")

    def _status(self, text: msgspec.Raw) -> ClusterError:
        try:
            status = msgspec.json.decode(text, type=StatusJson)
        except msgspec.DecodeError as exc:
            return self._nonsense(bytes(text), exc)
        message = f"{self._resource.path}: {status.code} {status.reason}: {status.message}"
        return ResourceExpired(message) if status.code == 410 else ClusterUnavailable(message)

    async def _in_thread(self, work: Callable[[], _T], stop: Callable[[], None]) -> _T:
        """Run *work* in a thread; if cancelled, call *stop*, which makes it end, and leave it to."""
        try:
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=_THREADS)
        except trio.Cancelled:
            stop()
            raise


class _NoStreamingLists(ClusterError):
    """The server does not know ``sendInitialEvents``."""


_THREADS = trio.CapacityLimiter(32)
"""One thread a kind, and one more for the moment in which an abandoned one ends."""


def _head(text: msgspec.Raw) -> Head:
    try:
        return msgspec.json.decode(text, type=Head)
    except msgspec.DecodeError:
        return Head()


def _key_text(key: ObjectKey) -> str:
    return b"/".join(part for part in (key.namespace, key.name) if part).decode(errors="replace")
