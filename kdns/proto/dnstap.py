"""dnstap: DNS messages and what is known of them as protocol buffers (dnstap.info), in frame streams (fstrm).

Only what is needed here is encoded and read; a reader of any protocol buffer library reads it.

| frame (Frame Streams, as ``fstrm`` has them)  | octets                                                            |
|-----------------------------------------------|-------------------------------------------------------------------|
| data                                          | length (32 bits), that many octets                                |
| control                                       | zero (32 bits), length, type, and perhaps the content type        |

Both sides agree on the content first: READY, then ACCEPT by the reader, then START; at the end STOP, and FINISH by the
reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache
from typing import Final

from zones.records import address_from_text

CONTENT_TYPE: Final = b"protobuf:dnstap.Dnstap"
MAX_CONTROL_OCTETS: Final = 512


class Sort(IntEnum):
    """What a message is: ``Message.Type``."""

    CLIENT_QUERY = 5
    CLIENT_RESPONSE = 6
    FORWARDER_QUERY = 7
    FORWARDER_RESPONSE = 8


class Socket(IntEnum):
    """What it came over: ``SocketProtocol``."""

    UDP = 1
    TCP = 2
    DOT = 3


class Control(IntEnum):
    """The types of control frames."""

    ACCEPT = 1
    START = 2
    STOP = 3
    READY = 4
    FINISH = 5


def control_frame(kind: Control) -> bytes:
    """Return a control frame, with the content type where one belongs."""
    body = int(kind).to_bytes(4, "big")
    if kind not in (Control.STOP, Control.FINISH):
        body += (1).to_bytes(4, "big") + len(CONTENT_TYPE).to_bytes(4, "big") + CONTENT_TYPE
    return bytes(4) + len(body).to_bytes(4, "big") + body


def read_control(body: bytes) -> tuple[Control, list[bytes]]:
    """Return the type of a control frame and the content types in it. Raises ValueError."""
    kind = Control(int.from_bytes(body[:4], "big"))
    contents = []
    at = 4
    while at < len(body):
        size = int.from_bytes(body[at + 4 : at + 8], "big")
        if body[at : at + 4] != b"\0\0\0\1" or at + 8 + size > len(body):
            raise ValueError("a field that is none")
        contents.append(body[at + 8 : at + 8 + size])
        at += 8 + size
    return kind, contents


def data_frame(payload: bytes) -> bytes:
    """Return a data frame."""
    return len(payload).to_bytes(4, "big") + payload


def head_of(identity: str, version: str) -> bytes:
    """Return what all payloads of a program begin with: who it is, and that a message comes."""
    return _octets(1, identity.encode()) + _octets(2, version.encode()) + b"\x78\x01"


def peer_of(address: str, port: int, *, is_upstream: bool = False) -> bytes:
    """Return what says who the other side is: a client, or an upstream that is asked."""
    octets = address_from_text(address.partition("%")[0])
    family = b"\x10\1" if len(octets) == 4 else b"\x10\2"
    packed = family + (b"\x2a%c" if is_upstream else b"\x22%c") % len(octets) + octets
    return packed + (b"\x38" if is_upstream else b"\x30") + _varint(port)


def payload(
    head: bytes,
    sort: Sort,
    socket: Socket,
    peer: bytes,
    *,
    query_at: float,
    query: bytes | None = None,
    response_at: float | None = None,
    response: bytes | None = None,
) -> bytes:
    """Return what a frame holds. Times are Unix times in seconds; *peer* is of ``peer_of``."""
    body = b"\x08%c\x18%c" % (sort, socket) + peer + _time(b"\x40", b"\x4d", query_at)
    if query is not None:
        body += b"\x52" + _varint(len(query)) + query
    if response_at is not None:
        body += _time(b"\x60", b"\x6d", response_at)
    if response is not None:
        body += b"\x72" + _varint(len(response)) + response
    return head + b"\x72" + _varint(len(body)) + body


def _time(seconds_tag: bytes, rest_tag: bytes, at: float) -> bytes:
    """Return the seconds as one field, and the nanoseconds as the next, of fixed size."""
    seconds = int(at)
    return seconds_tag + _varint(seconds) + rest_tag + int((at - seconds) * 1e9).to_bytes(4, "little")


def _octets(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


@lru_cache(65_536)
def _varint(value: int) -> bytes:
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def queries_in(stream: bytes) -> Iterator[bytes]:
    """Yield the queries in a captured stream, from messages about clients. Raises ValueError for what is none.

    A capture that breaks off in the middle of a frame, as one does that is still being written, ends before it.
    """
    at = 0
    while at + 4 <= len(stream):
        size = int.from_bytes(stream[at : at + 4], "big")
        at += 4
        if not size:  # a control frame
            at += 4 + int.from_bytes(stream[at : at + 4], "big")
            continue
        if at + size > len(stream):
            return
        message = _field(stream[at : at + size], 14)
        if message is not None and _number_of(message, 1) in (1, 3, 5, 7, 9, 11) and (wire := _field(message, 10)):
            yield wire
        at += size


def _fields(octets: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(octets):
        tag, at = _read_varint(octets, at)
        match tag & 7:
            case 0:
                value, at = _read_varint(octets, at)
                yield tag >> 3, value
            case 2:
                size, at = _read_varint(octets, at)
                if at + size > len(octets):
                    raise ValueError("a field that does not end")
                yield tag >> 3, octets[at : at + size]
                at += size
            case 1 | 5:
                at += 8 if tag & 7 == 1 else 4
            case kind:
                raise ValueError(f"a field of kind {kind}")


def _field(octets: bytes, wanted: int) -> bytes | None:
    return next((value for field, value in _fields(octets) if field == wanted and isinstance(value, bytes)), None)


def _number_of(octets: bytes, wanted: int) -> int:
    return next((value for field, value in _fields(octets) if field == wanted and isinstance(value, int)), 0)


def _read_varint(octets: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(octets) and shift < 64:
        value |= (octets[at] & 0x7F) << shift
        at += 1
        if not octets[at - 1] & 0x80:
            return value, at
        shift += 7
    raise ValueError("a number that does not end")
