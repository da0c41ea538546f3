"""Objects, and what is said of them, as octets: messages in msgpack behind four octets of length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from zones.names import Name

LENGTH_OCTETS: Final = 4
MAX_MESSAGE_OCTETS: Final = 64 * 2**20


def _octets_of(value: Any) -> bytes:
    if isinstance(value, Name):
        return value.wire
    raise NotImplementedError(type(value))  # as msgspec wants it of a hook


def _name_of(kind: type, value: Any) -> Name:
    if kind is Name and isinstance(value, bytes):
        return Name.trusted(value)
    raise NotImplementedError(kind)


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_octets_of)


def encode(message: msgspec.Struct) -> bytes:
    """Return a message with its length in front."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_OCTETS, "big") + body


def reader_of(kind: Any) -> Callable[[bytes], Any]:
    """Return what reads the body of a message of a type, or union of types, and raises ``msgspec.MsgspecError``."""
    return msgspec.msgpack.Decoder(kind, dec_hook=_name_of).decode


class Messages:
    """Cuts a stream into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the messages that *chunk* completes. Raises ValueError for a length that cannot be."""
        data = self._rest + chunk if self._rest else chunk
        at, end = 0, len(data)
        while end - at >= LENGTH_OCTETS:
            size = int.from_bytes(data[at : at + LENGTH_OCTETS], "big")
            if size > MAX_MESSAGE_OCTETS:
                raise ValueError(f"a message of {size} octets")
            if end - at - LENGTH_OCTETS < size:
                break
            at += LENGTH_OCTETS
            yield data[at : at + size]
            at += size
        self._rest = data[at:]
