"""The sections of an entry as they are sent again: with the TTL that is left."""

from __future__ import annotations

from typing import Final

from kdns.proto.message import read_message, rrsets_of
from nodelocal.entry import Entry
from zones.names import Name
from zones.records import RRset

JUST_SECONDS: Final = 0.05
"""What came less than this long ago still has all the TTL that it came with."""


def whole_seconds(left: float) -> int:
    """Return the TTL to show where *left* seconds are left."""
    return int(left + JUST_SECONDS) if left > 0 else 0


def remaining(entry: Entry, now: float) -> int:
    """Return the TTL that is left of *entry*, in whole seconds."""
    return whole_seconds(entry.expires_at - now)


def body_with_ttl(entry: Entry, ttl: int) -> bytes:
    """Return the sections in wire form with every TTL set to *ttl*."""
    places = entry.ttl_at
    octets = ttl.to_bytes(4, "big")
    body = entry.body
    if len(places) == 1:
        at = places[0]
        return body[:at] + octets + body[at + 4 :]
    patched = bytearray(body)
    for at in places:
        patched[at : at + 4] = octets
    return bytes(patched)


def sections(entry: Entry, qname: Name, ttl: int) -> tuple[list[RRset], list[RRset]]:
    """Return answer and authority as RRsets, their TTLs set to *ttl*; *qname* is what the entry answers."""
    counts = b"\0\1%c%c%c%c\0\0" % (*divmod(entry.answers, 256), *divmod(entry.authorities, 256))
    message = read_message(b"\0\0\x80\0" + counts + qname.wire + b"\0\1\0\1" + body_with_ttl(entry, ttl))
    return rrsets_of(message.answer), rrsets_of(message.authority)
