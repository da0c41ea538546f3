"""DNS Stateful Operations and push notifications in wire form (RFC 8490, RFC 8765).

A message is a header without sections and then TLVs, of which the first says what it is about. A request has an ID
and gets a response; a unidirectional message has ID 0 and gets none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from kdns.errors import WireError
from kdns.proto.message import read_record, Record
from kdns.proto.query import FORMERR, HEADER_OCTETS
from zones.errors import BadName
from zones.names import Name
from zones.records import RRset

OPCODE: Final = 6
DSOTYPENI: Final = 11
"""RCODE: the operation is not known here (RFC 8490 section 5.1.1)."""

KEEPALIVE: Final = 1
RETRY_DELAY: Final = 2
PADDING: Final = 3
SUBSCRIBE: Final = 0x40
PUSH: Final = 0x41
UNSUBSCRIBE: Final = 0x42
RECONFIRM: Final = 0x43

MAX_PUSH_OCTETS: Final = 16_382
"""Of one PUSH message: compression pointers reach no further (RFC 8765 section 6.3.1)."""

REMOVED: Final = 0xFFFF_FFFF
"""The TTL of a record that is gone."""
ALL_REMOVED: Final = 0xFFFF_FFFE
"""The TTL of a notice that all records of a name and type, or of a name, are gone."""

_FLAGS: Final = OPCODE << 11
_MAX_ADDED_TTL: Final = 0x7FFF_FFFF


class Malformed(WireError):
    """A message that breaks the rules so that the connection has to be cut (RFC 8490 section 5.3)."""


class DsoMessage(msgspec.Struct, frozen=True):
    """One message: ``tlvs`` are (type, data), the primary one first; ``message_id`` 0 is unidirectional."""

    message_id: int
    is_response: bool
    rcode: int
    tlvs: tuple[tuple[int, bytes], ...]


def is_dso(wire: bytes) -> bool:
    """Tell whether a message of at least a header's length has the opcode."""
    return wire[2] >> 3 & 15 == OPCODE


def read_dso(wire: bytes) -> DsoMessage:
    """Read a message.

    Raises WireError for a request that is to be answered with FORMERR, and Malformed where there is nobody to answer.
    """
    message_id, flags = int.from_bytes(wire[:2], "big"), int.from_bytes(wire[2:4], "big")
    is_response = bool(flags & 0x8000)
    try:
        if any(wire[4:HEADER_OCTETS]):
            raise WireError("a DSO message with sections", FORMERR)  # RFC 8490 section 5.4
        tlvs = tuple(_tlvs(wire))
        if not tlvs and not is_response:
            raise WireError("a DSO message without a TLV", FORMERR)
    except WireError as exc:
        if is_response or not message_id:
            raise Malformed(str(exc), None) from exc
        raise
    return DsoMessage(message_id, is_response, flags & 15, tlvs)


def _tlvs(wire: bytes) -> Iterator[tuple[int, bytes]]:
    at = HEADER_OCTETS
    while at < len(wire):
        end = at + 4 + int.from_bytes(wire[at + 2 : at + 4], "big")
        if at + 4 > len(wire) or end > len(wire):
            raise WireError("a DSO TLV is cut off", FORMERR)
        yield wire[at] << 8 | wire[at + 1], wire[at + 4 : end]
        at = end


def make_dso(message_id: int, *tlvs: tuple[int, bytes]) -> bytes:
    """Return a request, or with ID 0 a unidirectional message."""
    return _message(message_id, _FLAGS, tlvs)


def make_dso_response(message_id: int, rcode: int, *tlvs: tuple[int, bytes]) -> bytes:
    """Return a response."""
    return _message(message_id, 0x8000 | _FLAGS | rcode, tlvs)


def _message(message_id: int, flags: int, tlvs: Iterable[tuple[int, bytes]]) -> bytes:
    parts = [number.to_bytes(2, "big") for number in (message_id, flags)]
    parts.append(bytes(8))
    for kind, data in tlvs:
        parts.append(kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data)
    return b"".join(parts)


# -- what the TLVs hold -----------------------------------------------------------------------------------------------


def keepalive(inactivity: float, interval: float) -> tuple[int, bytes]:
    """Return a Keepalive TLV of both timeouts, in seconds (RFC 8490 section 7.1)."""
    return KEEPALIVE, b"".join(int(seconds * 1000).to_bytes(4, "big") for seconds in (inactivity, interval))


def read_keepalive(data: bytes) -> tuple[float, float]:
    """Return inactivity timeout and keepalive interval in seconds. Raises WireError."""
    if len(data) != 8:
        raise WireError("a Keepalive TLV of another length than 8", FORMERR)
    return int.from_bytes(data[:4], "big") / 1000, int.from_bytes(data[4:], "big") / 1000


def retry_delay(seconds: float) -> tuple[int, bytes]:
    """Return a Retry Delay TLV: go, and come back after that time (RFC 8490 section 7.2)."""
    return RETRY_DELAY, int(seconds * 1000).to_bytes(4, "big")


def subscribe(name: Name, rtype: int) -> tuple[int, bytes]:
    """Return a SUBSCRIBE TLV of class IN (RFC 8765 section 6.2.1)."""
    return SUBSCRIBE, name.wire + rtype.to_bytes(2, "big") + b"\0\1"


def read_subscribe(data: bytes) -> tuple[Name, int, int]:
    """Return name, type and class. Raises WireError."""
    try:
        name = Name.from_wire(data[:-4])
    except BadName as exc:
        raise WireError(f"a SUBSCRIBE TLV with a name that cannot be read ({exc})", FORMERR) from exc
    return name, int.from_bytes(data[-4:-2], "big"), int.from_bytes(data[-2:], "big")


def unsubscribe(message_id: int) -> tuple[int, bytes]:
    """Return an UNSUBSCRIBE TLV for the subscription that was asked for with that ID (RFC 8765 section 6.4.1)."""
    return UNSUBSCRIBE, message_id.to_bytes(2, "big")


class Notice(msgspec.Struct, frozen=True, gc=False):
    """One change: a record added (its TTL in seconds) or removed, or with no RDATA all of a type (ANY: of the name)."""

    owner: Name
    rtype: int
    ttl: int
    rdata: bytes


def make_pushes(removed: Sequence[RRset], added: Sequence[RRset]) -> list[bytes]:
    """Return PUSH messages that say what is gone and what is there now, the former first (RFC 8765 section 6.3)."""
    owners: dict[bytes, int] = {}
    messages: list[bytes] = []
    body = bytearray()
    for ttl, rrset in [*((REMOVED, rrset) for rrset in removed), *((rrset.ttl, rrset) for rrset in added)]:
        fixed = rrset.rtype.to_bytes(2, "big") + b"\0\1" + ttl.to_bytes(4, "big")
        for rdata in rrset.rdatas:
            key = rrset.owner.key
            if HEADER_OCTETS + 4 + len(body) + len(key) + 10 + len(rdata) > MAX_PUSH_OCTETS and body:
                messages.append(make_dso(0, (PUSH, bytes(body))))
                body.clear()
                owners.clear()
            if key in owners:
                body += (0xC000 | owners[key]).to_bytes(2, "big")
            else:
                owners[key] = HEADER_OCTETS + 4 + len(body)
                body += rrset.owner.wire
            body += fixed + len(rdata).to_bytes(2, "big") + rdata
    if body:
        messages.append(make_dso(0, (PUSH, bytes(body))))
    return messages


def read_push(wire: bytes) -> list[Notice]:
    """Return the changes in a PUSH message whose primary TLV is that; records of other classes are left out.

    Raises Malformed.
    """
    end = HEADER_OCTETS + 4 + int.from_bytes(wire[HEADER_OCTETS + 2 : HEADER_OCTETS + 4], "big")
    at = HEADER_OCTETS + 4
    notices = []
    try:
        while at < end:
            record, rclass, ttl, at = read_record(wire[:end], at)
            if rclass in (1, 255) and (ttl <= _MAX_ADDED_TTL or ttl in (REMOVED, ALL_REMOVED)):
                notices.append(_notice(record, ttl))
    except (WireError, IndexError) as exc:
        raise Malformed(f"a PUSH that cannot be read ({exc})", None) from exc
    return notices


def _notice(record: Record, ttl: int) -> Notice:
    return Notice(record.owner, record.rtype, ttl, record.rdata)
