"""The cache on its way from one process to the next: written to a file, read once, and only by the same version."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec
import trio

from nodelocal.cache import Cache
from nodelocal.entry import Entry
from zones.names import Name

log = logging.getLogger(__name__)

FILE: Final = "cache.warm"
VERSION: Final = 1
MAX_OCTETS: Final = 2**30
ENTRIES_AT_ONCE: Final = 200
"""Between two turns of everybody else: about a millisecond."""
MAX_AGE_SECONDS: Final = 60.0
"""An older file was left behind by somebody who never came to hand over."""


class _Kept(msgspec.Struct, array_like=True):
    """An entry; times in seconds of the system's clock, which both processes share."""

    key: bytes
    rcode: int
    is_denial: bool
    is_authentic: bool
    answers: int
    authorities: int
    body: bytes
    ttl_at: tuple[int, ...]
    ttl: int
    target: bytes | None
    note: int | None
    stored_at: float
    expires_at: float
    hits: int


class _Head(msgspec.Struct, array_like=True):
    version: int
    at: float


async def write(cache: Cache, path: Path, now: float) -> int:
    """Write what *cache* holds to *path*, a little at a time; return how many entries. Raises OSError."""
    offset = time.time() - now
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        count = await _write(cache, part, offset)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)  # a full disk must not stay full of it
    return count


async def _write(cache: Cache, part: Path, offset: float) -> int:
    encoder = msgspec.msgpack.Encoder()
    count = 0
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: ASYNC230 - local, small
        for body in chain((_Head(VERSION, time.time()),), _kept(cache, offset)):
            octets = encoder.encode(body)
            file.write(len(octets).to_bytes(4, "big") + octets)
            count += 1
            if not count % ENTRIES_AT_ONCE:
                await trio.lowlevel.checkpoint()
    return count - 1


async def read(cache: Cache, path: Path, now: float) -> int:
    """Fill *cache* with what lies at *path*, and remove it; return how many entries. What cannot be read is not."""
    data = _taken(path)
    offset = time.time() - now
    count = at = 0
    try:
        while at < len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            body = data[at + 4 : end]
            if not at:
                head = msgspec.msgpack.decode(body, type=_Head)
                if head.version != VERSION or not 0 <= time.time() - head.at < MAX_AGE_SECONDS:
                    log.info("the cache that was handed over is of version %d, and not read", head.version)
                    return 0
            else:
                kept = msgspec.msgpack.decode(body, type=_Kept)
                cache.restore(kept.key, _entry(kept, offset))
                count += 1
                if not count % ENTRIES_AT_ONCE:
                    await trio.lowlevel.checkpoint()
            at = end
    except (msgspec.MsgspecError, ValueError) as exc:
        log.warning("the cache that was handed over ends in something else (%s)", exc)
    return count


def _taken(path: Path) -> bytes:
    """Return what lies at *path*, and remove it; nothing where there is nothing, or something that is not ours."""
    try:
        is_fit = path.stat().st_uid == os.geteuid() and path.stat().st_size <= MAX_OCTETS
        data = path.read_bytes() if is_fit else b""
        path.unlink()
    except OSError:
        return b""
    return data


def _kept(cache: Cache, offset: float) -> Iterator[_Kept]:
    for key, entry in cache.items():
        target = None if entry.target is None else entry.target.wire
        yield _Kept(
            key, entry.rcode, entry.is_denial, entry.is_authentic, entry.answers, entry.authorities, entry.body,
            entry.ttl_at, entry.ttl, target, entry.note, entry.stored_at + offset, entry.expires_at + offset,
            entry.hits,
        )  # fmt: skip


def _entry(kept: _Kept, offset: float) -> Entry:
    return Entry(
        rcode=kept.rcode,
        is_denial=kept.is_denial,
        is_authentic=kept.is_authentic,
        answers=kept.answers,
        authorities=kept.authorities,
        body=kept.body,
        ttl_at=kept.ttl_at,
        ttl=kept.ttl,
        target=None if kept.target is None else Name.trusted(kept.target),
        note=kept.note,
        stored_at=kept.stored_at - offset,
        expires_at=kept.expires_at - offset,
        hits=kept.hits,
    )
