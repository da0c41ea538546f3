"""From the octets of lists and watches to objects: what one read of either brought, decoded.

An object that is bad costs itself alone; octets that no API server sends are an error of the stream.
"""

from __future__ import annotations

import threading
from typing import Any, Final, Generic, TypeVar

import msgspec

from kdns.control.client import StatusJson
from kdns.errors import ClusterError, ClusterUnavailable, ResourceExpired
from zones.decode import decode_json, Decoder, key_of
from zones.errors import BadObject
from zones.json_errors import NOT_JSON
from zones.objects import Kind, Object, ObjectKey
from zones.shapes import ChangedSliceJson, Head, HeadMeta, JSON_OF, Meta, ObjectJson

INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
TRIGGER_TIME: Final = "endpoints.kubernetes.io/last-change-trigger-time"

LARGE_OCTETS: Final = 4096
"""An event of a slice that is longer has ten endpoints or more, as a rule: most of them were said before."""

_MODIFIED: Final = b'"MODIFIED"'
"""The type is the first field of an event, as servers write them; of one that wrote it elsewhere all is read anew."""

_Shape = TypeVar("_Shape", bound=ObjectJson)


class BadStream(ClusterUnavailable):
    """What came was not what an API server sends, or an ERROR event other than 410."""


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Put(msgspec.Struct, Generic[_Shape]):
    """An event whose object is what it should be: read at once, where ``_Event`` takes two passes."""

    type: str
    object: _Shape


class _Bookmark(msgspec.Struct):
    metadata: Meta


class ListMeta(msgspec.Struct, rename="camel"):
    """What a list says of itself."""

    resource_version: str | None = None
    continue_: str | None = msgspec.field(default=None, name="continue")


class _Page(msgspec.Struct):
    metadata: ListMeta
    kind: str | None = None
    items: list[msgspec.Raw] | None = None


class Batch(msgspec.Struct):
    """What one read of a stream brought, decoded: by name, the last thing that was said of it."""

    puts: dict[ObjectKey, Object] = msgspec.field(default_factory=dict)
    deletes: dict[ObjectKey, None] = msgspec.field(default_factory=dict)
    bad: list[str] = msgspec.field(default_factory=list)
    seen: dict[ObjectKey, None] = msgspec.field(default_factory=dict)
    triggers: list[tuple[ObjectKey, str]] = msgspec.field(default_factory=list)
    version: str | None = None
    is_bookmark: bool = False
    ends_initial: bool = False
    error: ClusterError | None = None


class EventDecoder:
    """Decodes what comes of one *kind* from *path*, which only errors name."""

    def __init__(self, kind: Kind, decoder: Decoder) -> None:
        self._kind = kind
        self._decoder = decoder
        self._lock = threading.Lock()
        shape: Any = JSON_OF[kind]
        self._put: msgspec.json.Decoder[_Put[Any]] = msgspec.json.Decoder(_Put[shape])
        self._changed = self._put
        if kind is Kind.ENDPOINT_SLICE:
            self._changed = msgspec.json.Decoder(_Put[ChangedSliceJson])

    def page(self, body: bytes, path: str) -> tuple[ListMeta, Batch]:
        """Decode one page of a list. Raises BadStream."""
        try:
            page = msgspec.json.decode(body, type=_Page)
        except NOT_JSON as exc:
            raise _nonsense(path, body, exc) from exc
        # Before anything is deleted for its sake: a Status, or some other object, with code 200 is no empty list.
        if not (page.kind or "").endswith("List") or not page.metadata.resource_version:
            raise _nonsense(path, body, ValueError(f"a {page.kind} instead of a list"))
        batch = Batch()
        for item in page.items or ():
            self._object(item, batch)
        return page.metadata, batch

    def lines(self, lines: list[bytes], path: str) -> Batch:
        """Decode lines of a watch, up to the first that is an error."""
        with self._lock:  # a thread that was given up may not have ended yet
            return self._lines(lines, path)

    def _lines(self, lines: list[bytes], path: str) -> Batch:
        batch = Batch()
        for line in lines:
            try:
                is_large_change = len(line) >= LARGE_OCTETS and _MODIFIED in line[:24]
                put = (self._changed if is_large_change else self._put).decode(line)
            except NOT_JSON:
                pass  # not for this kind, or not at all: found out below, with the error to tell
            else:
                if put.type in ("ADDED", "MODIFIED"):
                    if is_large_change and isinstance(put.object, ChangedSliceJson):
                        put.object.event_octets = len(line)
                    self._build(put.object, batch)
                    continue
            try:
                event = msgspec.json.decode(line, type=_Event)
            except NOT_JSON as exc:
                batch.error = _nonsense(path, line, exc)
                return batch
            match event.type:
                case "ADDED" | "MODIFIED":
                    self._object(event.object, batch)
                case "DELETED":
                    self._object(event.object, batch, deleted=True)
                case "BOOKMARK":
                    bookmark = _bookmark(event.object)
                    batch.version = bookmark.resource_version or batch.version
                    batch.is_bookmark = True
                    if (bookmark.annotations or {}).get(INITIAL_EVENTS_END) == "true":
                        batch.ends_initial = True
                case "ERROR":
                    batch.error = _status(path, event.object)
                    return batch
        return batch

    def _object(self, text: msgspec.Raw, batch: Batch, *, deleted: bool = False) -> None:
        """Decode one object into *batch*; one that is bad costs itself alone."""
        if deleted:
            self._gone(_head(text).metadata, batch)
            return
        try:
            json = decode_json(self._kind, text)
        except BadObject as exc:
            self._bad(_head(text).metadata, exc, batch)
        else:
            self._build(json, batch)

    def _build(self, json: ObjectJson, batch: Batch) -> None:
        meta = json.metadata
        try:
            new = self._decoder.build(json)
        except BadObject as exc:
            self._bad(meta, exc, batch)
            return
        if new is None:
            self._gone(meta, batch)
            return
        key = key_of(self._kind, meta)
        batch.deletes.pop(key, None)
        batch.puts[key] = new
        batch.seen[key] = None
        if meta is None:
            return
        batch.version = meta.resource_version or batch.version
        if self._kind is Kind.ENDPOINT_SLICE and meta.annotations and (when := meta.annotations.get(TRIGGER_TIME)):
            batch.triggers.append((key, when))

    def _gone(self, meta: Meta | HeadMeta | None, batch: Batch) -> None:
        key = key_of(self._kind, meta)
        batch.version = (meta.resource_version if meta else None) or batch.version
        batch.puts.pop(key, None)
        batch.seen.pop(key, None)
        batch.deletes[key] = None

    def _bad(self, meta: Meta | HeadMeta | None, exc: BadObject, batch: Batch) -> None:
        key = key_of(self._kind, meta)
        batch.bad.append(f"{self._kind.value} {key.text}: {exc}")
        batch.version = (meta.resource_version if meta else None) or batch.version
        batch.deletes.pop(key, None)
        batch.seen[key] = None


def _nonsense(path: str, body: bytes, exc: Exception) -> ClusterError:
    start = body[:60].decode(errors="replace")
    return BadStream(f"{path}: not what an API server sends ({exc}): {start!r}")


def _status(path: str, text: msgspec.Raw) -> ClusterError:
    try:
        status = msgspec.json.decode(text, type=StatusJson)
    except NOT_JSON as exc:
        return _nonsense(path, bytes(text), exc)
    message = f"{path}: {status.code} {status.reason}: {status.message}"
    return ResourceExpired(message) if status.code == 410 else BadStream(message)


def _head(text: msgspec.Raw) -> Head:
    try:
        return msgspec.json.decode(text, type=Head)
    except NOT_JSON:
        return Head()


def _bookmark(text: msgspec.Raw) -> Meta:
    try:
        return msgspec.json.decode(text, type=_Bookmark).metadata
    except NOT_JSON:
        return Meta()
