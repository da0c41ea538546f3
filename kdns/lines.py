"""JSON objects, one a line, over a stream: what processes of one program say to each other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import trio

MAX_LINE_OCTETS: Final = 2**20
_CHUNK_OCTETS: Final = 65_536

Json = dict[str, Any]


def encode(said: Json) -> bytes:
    """Return the line."""
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


async def lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[Json]:
    """Yield each object until the stream ends. Raises ValueError for anything else, trio.BrokenResourceError."""
    rest = b""
    while chunk := await stream.receive_some(_CHUNK_OCTETS):
        *some, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_OCTETS:
            raise ValueError("a line that does not end")
        for line in some:
            try:
                said = json.loads(line)
            except RecursionError as exc:
                raise ValueError("an object too deep") from exc
            if not isinstance(said, dict):
                raise ValueError("not an object")  # noqa: TRY004 - what cannot be read is one error
            yield said
