"""Messages of other servers: questions to them, and their replies read into our own records.

Everything is checked here and nothing is taken on trust: names by ``read_name``, lengths against the message. RDATA
of types whose names may be compressed comes out uncompressed (RFC 3597 section 4), of any other type as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from kdns.errors import WireError
from kdns.proto.query import HEADER_OCTETS, MAX_UDP_OCTETS
from kdns.proto.reading import read_name
from zones.names import Name
from zones.records import CNAME, IN, MAX_TTL, MX, NS, OPT, PTR, RRset, SOA, SRV

MAX_RECORDS: Final = 4096
"""Records of one reply that are read: more fit into 64 KiB only as empty RDATA, which no honest server sends."""

_NAMES_BEFORE: Final = {
    NS: (0, 1),
    3: (0, 1),  # MD
    4: (0, 1),  # MF
    CNAME: (0, 1),
    SOA: (0, 2),
    7: (0, 1),  # MB
    8: (0, 1),  # MG
    9: (0, 1),  # MR
    PTR: (0, 1),
    14: (0, 2),  # MINFO
    MX: (2, 1),
    17: (0, 2),  # RP
    18: (2, 1),  # AFSDB
    21: (2, 1),  # RT
    26: (2, 2),  # PX
    SRV: (6, 1),
    36: (2, 1),  # KX
    39: (0, 1),  # DNAME
}
"""Octets of RDATA before its names, and how many names: the types that a reader must be ready to decompress."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of class IN, RDATA uncompressed, TTL in seconds and never above RFC 2181's bound."""

    owner: Name
    rtype: int
    ttl: int
    rdata: bytes


class Message(msgspec.Struct, frozen=True):
    """A reply. ``rcode`` is the extended one; records of classes other than IN are left out.

    ``options`` is the RDATA of its OPT record: EDNS options in wire form.
    """

    id: bytes
    flags: int
    rcode: int
    question: tuple[Name, int, int] | None
    answer: tuple[Record, ...]
    authority: tuple[Record, ...]
    additional: tuple[Record, ...]
    options: bytes = b""

    @property
    def is_truncated(self) -> bool:
        """Whether TC is set."""
        return bool(self.flags & 0x0200)

    @property
    def is_authoritative(self) -> bool:
        """Whether AA is set."""
        return bool(self.flags & 0x0400)


def make_question(
    message_id: bytes, qname: Name, qtype: int, *, do: bool = False, recursion_desired: bool = True, edns: bool = True
) -> bytes:
    """Return a query that asks for at most 1232 octets over UDP (RFC 9715)."""
    opt = b""
    if edns:
        opt = b"\0\0\x29%c%c\0\0%c\0\0\0" % (*divmod(MAX_UDP_OCTETS, 256), 0x80 * do)
    head = message_id + bytes((recursion_desired, 0)) + b"\0\1\0\0\0\0\0" + bytes((edns,))
    return head + qname.wire + b"%c%c\0\1" % divmod(qtype, 256) + opt


def make_notify(message_id: bytes, soa: RRset) -> bytes:
    """Return a NOTIFY that says that the zone of *soa* has changed (RFC 1996 section 3.7)."""
    question = soa.owner.wire + b"\0\6\0\1"
    rdata = soa.rdatas[0]
    record = b"\xc0\x0c\0\6\0\1" + soa.ttl.to_bytes(4, "big") + len(rdata).to_bytes(2, "big") + rdata
    return message_id + b"\x24\0" + b"\0\1\0\1\0\0\0\0" + question + record


def read_message(wire: bytes) -> Message:
    """Read a whole message. Raises WireError, and nothing else, for octets of any kind."""
    try:
        return _read(wire)
    except IndexError as exc:
        raise WireError("the message ends too early") from exc


def _read(wire: bytes) -> Message:
    if len(wire) < HEADER_OCTETS:
        raise WireError("shorter than a header")
    flags, questions, *counts = (int.from_bytes(wire[at : at + 2], "big") for at in range(2, 12, 2))
    if questions > 1:
        raise WireError(f"{questions} questions")
    if sum(counts) > MAX_RECORDS:
        raise WireError(f"{sum(counts)} records")
    at = HEADER_OCTETS
    question = None
    if questions:
        qname, at = read_name(wire, at)
        question = qname, wire[at] << 8 | wire[at + 1], wire[at + 2] << 8 | wire[at + 3]
        at += 4
    rcode = flags & 15
    options = b""
    names: dict[int, Name] = {}
    sections: list[list[Record]] = [[], [], []]
    for section, count in zip(sections, counts, strict=True):
        for _ in range(count):
            owner, at = _name(wire, at, names)
            rtype, rclass = wire[at] << 8 | wire[at + 1], wire[at + 2] << 8 | wire[at + 3]
            ttl = int.from_bytes(wire[at + 4 : at + 8], "big")
            rdata_at = at + 10
            end = rdata_at + (wire[at + 8] << 8 | wire[at + 9])
            if end > len(wire):
                raise WireError("a record ends after the message")
            if rtype == OPT:
                if section is sections[2]:
                    rcode |= ttl >> 24 << 4
                    options = wire[rdata_at:end]
            elif rclass == IN:
                # A TTL with its top bit set is large, not negative (RFC 8767 section 4).
                section.append(Record(owner, rtype, min(ttl, MAX_TTL), _rdata(wire, rtype, rdata_at, end, names)))
            at = end
    if at != len(wire):
        raise WireError(f"{len(wire) - at} octets after the message")
    answer, authority, additional = map(tuple, sections)
    return Message(wire[:2], flags, rcode, question, answer, authority, additional, options)


def read_record(wire: bytes, at: int) -> tuple[Record, int, int, int]:
    """Read one record of any class at octet *at*; return it, its class, its TTL as it stands, and where it ends.

    Raises WireError, IndexError.
    """
    names: dict[int, Name] = {}
    owner, at = _name(wire, at, names)
    rtype, rclass = wire[at] << 8 | wire[at + 1], wire[at + 2] << 8 | wire[at + 3]
    ttl = int.from_bytes(wire[at + 4 : at + 8], "big")
    end = at + 10 + (wire[at + 8] << 8 | wire[at + 9])
    if end > len(wire):
        raise WireError("a record ends after the message")
    rdata = _rdata(wire, rtype, at + 10, end, names) if end > at + 10 else b""
    return Record(owner, rtype, min(ttl, MAX_TTL), rdata), rclass, ttl, end


def _name(wire: bytes, at: int, names: dict[int, Name]) -> tuple[Name, int]:
    """Read a name as ``read_name`` does; *names* are those that pointers led to before, by their place.

    Thousands of pointers to one name of 127 labels would otherwise take a second.
    """
    if wire[at] < 0xC0:
        return read_name(wire, at)
    target = (wire[at] & 0x3F) << 8 | wire[at + 1]
    name = names.get(target)
    if name is None:
        name, _ = read_name(wire, at)
        names[target] = name
    return name, at + 2


def option_of(options: bytes, code: int) -> bytes | None:
    """Return the data of the first EDNS option of that *code*, None without one; what is cut off is passed over."""
    at = 0
    while at + 4 <= len(options):
        end = at + 4 + (options[at + 2] << 8 | options[at + 3])
        if options[at] << 8 | options[at + 1] == code and end <= len(options):
            return options[at + 4 : end]
        at = end
    return None


def _rdata(wire: bytes, rtype: int, at: int, end: int, names: dict[int, Name]) -> bytes:
    layout = _NAMES_BEFORE.get(rtype)
    if layout is None:
        return wire[at:end]
    before, count = layout
    parts = [wire[at : at + before]]
    at += before
    for _ in range(count):
        name, at = _name(wire, at, names)
        parts.append(name.wire)
    if at > end or (rtype != SOA and at != end) or (rtype == SOA and at + 20 != end):
        raise WireError(f"the RDATA of a record of type {rtype} has another length than it says")
    parts.append(wire[at:end])
    return b"".join(parts)


def rrsets_of(records: Sequence[Record]) -> list[RRset]:
    """Group *records* by owner and type, in the order of their first; each with its smallest TTL (RFC 2181 5.2)."""
    groups: dict[tuple[Name, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.owner, record.rtype), []).append(record)
    return [
        RRset(owner, rtype, min(record.ttl for record in some), tuple(dict.fromkeys(record.rdata for record in some)))
        for (owner, rtype), some in groups.items()
    ]
