"""The objects of an earlier life, in ``--state-dir``: what a restart answers from while the API server is away.

    magic · four octets of length, header in JSON · objects as ``control.framing`` has them · SHA-256 of all that

The header says which cluster they are of and what decided which objects there are and in what form; a snapshot of
another cluster, of other options, of a program that has its objects in another form, or one that is damaged, is not
used. It is written whole or not at all, and on its way to the disk when it gets its name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import trio

from kdns.config import Config
from kdns.control.client import ApiServer
from kdns.control.framing import encode, LENGTH_OCTETS, Messages, reader_of
from kdns.control.sink import Sink
from kdns.version import VERSION
from zones.fields import share
from zones.objects import Kind, Object

log = logging.getLogger(__name__)

FILE: Final = "objects.snapshot"
MAGIC: Final = b"kdns snapshot\n"
EVERY_SECONDS: Final = 60.0
SHARE_OF_TIME: Final = 0.01
"""Of the time, at most, goes to writing snapshots: a large cluster is written less often."""
LOOK_SECONDS: Final = 1.0
LEFT_SECONDS: Final = 600.0
"""A file that somebody writes to is younger than this."""
STEP_SECONDS: Final = 0.001
"""Objects are written for this long between two looks at the network."""
_DIGEST_OCTETS: Final = 32
_CHUNK_OCTETS: Final = 1 << 20
_MAX_HEADER_OCTETS: Final = 65_536


class Unusable(ValueError):
    """A snapshot that must not be served from; the message says why."""


def describe(config: Config, kinds: frozenset[Kind]) -> dict[str, str]:
    """Return what a snapshot must agree with to be used; ``config.access`` is set."""
    assert config.access is not None  # manifests need no snapshot: they are here
    chosen = (
        sorted(kind.value for kind in kinds),
        sorted(config.namespaces or ()),
        str(config.namespace_labels),
        str(config.labels),
        config.endpoints.value,
        config.endpoint_pod_names,
        config.zonal,
        bool(config.clusterset_zones),
        bool(config.external_zones),
    )
    return {"cluster": ApiServer(config.access).identity(), "options": _hash(repr(chosen)), "form": _FORM}


class Snapshots:
    """Reads the snapshot in *folder* once, and writes it as *sink* changes."""

    def __init__(self, folder: Path, agrees_with: dict[str, str], sink: Sink) -> None:
        self._path = folder / FILE
        self._agrees_with = agrees_with
        self._sink = sink
        self._failure: str | None = None
        self.made_at: float | None = None
        """When the one in the folder was made, Unix time."""
        self.written = 0

    def restore(self) -> bool:
        """Put what the snapshot has into the sink; False where there is none that can be used, which is told."""
        self._clear()
        try:
            made_at, objects = self._read()
            self._sink.restore(objects)
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as exc:
            log.warning("--state-dir: %s is not used: %s", self._path, exc)
            return False
        self.made_at = made_at
        log.warning(
            "answering from what was known %d s ago, until the API server has been heard: %s",
            max(time.time() - made_at, 0),
            self._path,
        )
        return True

    async def run(self) -> None:
        """Write one soon after the first sync, and then after changes, until cancelled."""
        seen = -1
        while True:
            wait = LOOK_SECONDS
            if self._sink.is_synced and self._sink.events != seen:
                seen, began = self._sink.events, trio.current_time()
                await self._write()
                wait = max(EVERY_SECONDS, (trio.current_time() - began) / SHARE_OF_TIME)
            await trio.sleep(wait)

    def troubles(self) -> list[str]:
        """List what is wrong with the file."""
        return [] if self._failure is None else [f"--state-dir {self._path}: {self._failure}"]

    def _clear(self) -> None:
        """Remove what those have left who were killed while they wrote."""
        for left in self._path.parent.glob(f"{self._path.name}.*.new"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT_SECONDS:
                    left.unlink()

    async def _write(self) -> None:
        new = self._path.with_suffix(f".{os.getpid()}.new")  # two generations may write at once
        try:
            made_at = time.time()
            with new.open("wb", buffering=_CHUNK_OCTETS) as file:
                digest = hashlib.sha256()
                async for octets in self._octets(made_at):
                    digest.update(octets)
                    file.write(octets)
                file.write(digest.digest())
                file.flush()
                await trio.to_thread.run_sync(os.fsync, file.fileno())
            os.replace(new, self._path)
        except OSError as exc:
            reason = exc.strerror or str(exc)
            if self._failure is None:
                log.warning("--state-dir: %s: %s", self._path, reason)
            self._failure = reason
        else:
            self._failure, self.made_at = None, made_at
            self.written += 1

    async def _octets(self, made_at: float) -> Any:
        header = json.dumps({**self._agrees_with, "made_by": VERSION, "made_at": made_at}).encode()
        yield MAGIC + len(header).to_bytes(LENGTH_OCTETS, "big") + header
        began = trio.current_time()
        for kind in self._sink.kinds:
            for key in self._sink.keys(kind):
                thing = self._sink.get(kind, key)
                if thing is not None:  # else it went meanwhile
                    yield encode(thing)
                if trio.current_time() - began > STEP_SECONDS:
                    await trio.lowlevel.checkpoint()
                    began = trio.current_time()

    def _read(self) -> tuple[float, Iterator[Object]]:
        size = self._path.stat().st_size - _DIGEST_OCTETS
        digest = hashlib.sha256()
        with self._path.open("rb") as file:
            left = size
            while left > 0 and (chunk := file.read(min(_CHUNK_OCTETS, left))):
                digest.update(chunk)
                left -= len(chunk)
            if left or digest.digest() != file.read():
                raise Unusable("damaged: its checksum is wrong")
            file.seek(0)
            if file.read(len(MAGIC)) != MAGIC:
                raise Unusable("no snapshot of kdns")
            length = int.from_bytes(file.read(LENGTH_OCTETS), "big")
            if length > _MAX_HEADER_OCTETS:
                raise Unusable("damaged: a header that cannot be")
            try:
                header = json.loads(file.read(length))
                made_at = float(header["made_at"])
            except (ValueError, LookupError, TypeError) as exc:
                raise Unusable(f"damaged: its header ({exc})") from exc
            for key, what in (
                ("form", f"made by kdns {header.get('made_by')}, which has objects in another form"),
                ("cluster", "of another cluster"),
                ("options", "made with other options, of which objects there are"),
            ):
                if header.get(key) != self._agrees_with[key]:
                    raise Unusable(what)
            start = file.tell()
        return made_at, self._objects(start, size)

    def _objects(self, start: int, end: int) -> Iterator[Object]:
        messages = Messages()
        with self._path.open("rb") as file:
            file.seek(start)
            while start < end and (chunk := file.read(min(_CHUNK_OCTETS, end - start))):
                start += len(chunk)
                for body in messages.take(chunk):
                    try:
                        thing = share(_read_object(body))
                    except Exception as exc:  # octets of any kind, with the right checksum
                        raise Unusable(f"damaged: no object ({type(exc).__name__}: {exc})") from exc
                    yield thing


_read_object: Final = reader_of(Object)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _form_of(kind: type[msgspec.Struct], seen: dict[str, str]) -> dict[str, str]:
    """Collect the fields of a kind of object and of what it is made of."""
    if kind.__name__ not in seen:
        seen[kind.__name__] = ""
        fields = msgspec.structs.fields(kind)
        seen[kind.__name__] = ", ".join(f"{field.name}: {field.type}" for field in fields)
        waiting: list[Any] = [field.type for field in fields]
        while waiting:
            found = waiting.pop()
            if isinstance(found, type) and issubclass(found, msgspec.Struct):
                _form_of(found, seen)
            waiting += get_args(found)
    return seen


def _form() -> str:
    seen: dict[str, str] = {}
    for kind in get_args(Object):
        _form_of(kind, seen)
    return _hash(repr(sorted(seen.items())))


_FORM: Final = _form()
"""Changes whenever the form of an object does, so that no version reads what another wrote differently."""
