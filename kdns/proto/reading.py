"""A query from its octets, without building more than is needed (RFC 1035 section 4, RFC 6891).

Header checks run in a fixed order: too short or a response → silence; opcode → NOTIMP; counts → FORMERR;
question; then the other records, of which OPT, TSIG and SIG(0) are looked into. What is well-formed and yet not
to be answered (a class, a type, an EDNS version) is the responder's to say.
"""

from __future__ import annotations

from typing import Final

from kdns.errors import WireError
from kdns.proto import peer
from kdns.proto.query import Edns, HEADER_OCTETS, NOTIMP, Query, Transport, Tsig
from zones.names import MAX_LABEL_OCTETS, MAX_NAME_OCTETS, Name
from zones.records import OPT, TSIG

MAX_POINTERS: Final = 126
"""Compression pointers in one name: with more, some label would be shorter than one octet."""

_QR = 0x80
_SIG = 24
_COOKIE, _KEEPALIVE = 10, 11


def read_query(wire: bytes, transport: Transport) -> Query:
    """Read one message. Raises WireError, and nothing else, for octets of any kind."""
    try:
        return _read(wire, transport)
    except IndexError as exc:
        raise WireError("the message ends too early") from exc


def _read(wire: bytes, transport: Transport) -> Query:
    total = len(wire)
    if total < HEADER_OCTETS:
        raise WireError("shorter than a header", None)
    first = wire[2]
    if first & _QR:
        raise WireError("a response", None)  # answering one would start a game of ping-pong
    if first & 0x78:
        raise WireError(f"opcode {first >> 3 & 15}", NOTIMP)
    counts = wire[4:12]
    if counts != _ONE_QUESTION and counts != _ONE_QUESTION_ONE_ADDITIONAL:
        _check_counts(counts)
    lower = wire.lower()
    size = wire[HEADER_OCTETS]
    at = HEADER_OCTETS + 1 + size
    end = wire.find(0, at) + 1
    # Compiled, a slice that ends before it begins is an error; there is no end where no zero follows.
    parent = _parents.get(lower[at:end]) if end and 0 < size <= MAX_LABEL_OCTETS else None
    if parent is not None:
        labels = (lower[HEADER_OCTETS + 1 : at], *parent)
        at = end
    else:
        labels, at = _labels(wire, lower)
    if at - HEADER_OCTETS > MAX_NAME_OCTETS or at + 4 > total:
        raise WireError("the question is too long or cut off")
    qname = _new_name(Name)
    qname.wire = wire[HEADER_OCTETS:at]
    qname.key = lower[HEADER_OCTETS:at]
    qname.labels = labels
    end = at + 4
    query = Query(
        wire[:2],
        first << 8 | wire[3],
        qname,
        wire[at] << 8 | wire[at + 1],
        wire[at + 2] << 8 | wire[at + 3],
        wire[HEADER_OCTETS:end],
        total,
        transport,
    )
    if counts != _ONE_QUESTION:
        end = _read_records(wire, end, counts, query)
    if end != total:
        raise WireError(f"{total - end} octets after the message")  # RFC 9267 section 4
    return query


_new_name: Final = Name.__new__

MAX_PARENTS: Final = 4096
_parents: dict[bytes, tuple[bytes, ...]] = {}
"""The labels of names, in lower case, that other names were seen right below, by their wire form. Octets that begin
like one of these read as it whatever follows them, for a name in wire form says itself where it ends."""


def _labels(wire: bytes, lower: bytes) -> tuple[tuple[bytes, ...], int]:
    """Return the labels of the question's name, in lower case, and where the octets behind it begin."""
    labels = []
    at = HEADER_OCTETS
    while size := wire[at]:
        if size > MAX_LABEL_OCTETS:  # a pointer too: there is no earlier name that it could point to
            raise WireError(f"label type or length 0x{size:02x} in the question")
        end = at + 1 + size
        labels.append(lower[at + 1 : end])
        at = end
    at += 1
    if len(labels) > 1 and at - HEADER_OCTETS <= MAX_NAME_OCTETS and at <= len(wire):
        if len(_parents) >= MAX_PARENTS:
            _parents.clear()
        _parents[lower[HEADER_OCTETS + 1 + len(labels[0]) : at]] = tuple(labels[1:])
    return tuple(labels), at


_ONE_QUESTION = b"\0\1\0\0\0\0\0\0"
_ONE_QUESTION_ONE_ADDITIONAL = b"\0\1\0\0\0\0\0\1"


def _check_counts(counts: bytes) -> None:
    questions, answers, authorities, additionals = (int.from_bytes(counts[at : at + 2], "big") for at in (0, 2, 4, 6))
    if questions != 1:
        raise WireError(f"{questions} questions")  # RFC 9619 section 4
    if answers > 1 or authorities > 1 or additionals > 2:
        raise WireError("more records than a query has")


def _read_records(wire: bytes, at: int, counts: bytes, query: Query) -> int:
    """Read the records behind the question into *query*; return where they end."""
    additionals_from = counts[3] + counts[5]
    total = additionals_from + counts[7]
    for number in range(total):
        owner_at = at
        at = skip_name(wire, at)
        rtype, rdata_at = wire[at] << 8 | wire[at + 1], at + 10
        end = rdata_at + (wire[at + 8] << 8 | wire[at + 9])
        if end > len(wire):
            raise WireError("a record ends after the message")
        if rtype == OPT:
            if number < additionals_from or query.edns is not None or wire[owner_at]:
                raise WireError("an OPT record out of place")  # RFC 6891 section 6.1.1
            query.edns = _read_opt(wire, at, rdata_at, end, query.transport)
        elif rtype == TSIG:
            if number != total - 1 or number < additionals_from or wire[at + 2 : at + 8] != b"\0\xff\0\0\0\0":
                raise WireError("a TSIG record out of place")  # RFC 8945 sections 4.2 and 5.1
            query.signed = _read_tsig(wire, owner_at, rdata_at, end)
        elif rtype == _SIG and number >= additionals_from and wire[rdata_at:end][:2] == b"\0\0":
            query.signed = "sig0"
        at = end
    return at


def _read_opt(wire: bytes, at: int, option_at: int, end: int, transport: Transport) -> Edns:
    keepalive = is_peer = False
    while option_at < end:
        if option_at + 4 > end:
            raise WireError("an EDNS option is cut off")
        code = wire[option_at] << 8 | wire[option_at + 1]
        octets = wire[option_at + 2] << 8 | wire[option_at + 3]
        option_at += 4 + octets
        if option_at > end:
            raise WireError("an EDNS option ends after its record")
        if code == _COOKIE and octets != 8 and not 16 <= octets <= 40:
            raise WireError(f"a cookie of {octets} octets")  # RFC 7873 section 5.2.2
        if code == _KEEPALIVE and transport is Transport.TCP:  # over UDP it means nothing (RFC 7828 section 3.2.1)
            if octets:
                raise WireError("a keepalive option with a timeout in a query")
            keepalive = True
        if code == peer.CODE and not octets:
            is_peer = True
    return Edns(wire[at + 2] << 8 | wire[at + 3], wire[at + 5], bool(wire[at + 6] & 0x80), keepalive, is_peer)


def _read_tsig(wire: bytes, owner_at: int, at: int, end: int) -> Tsig:
    key, _ = read_name(wire, owner_at)
    algorithm, at = read_name(wire, at)
    mac_at = at + 10
    other_at = mac_at + (wire[at + 8] << 8 | wire[at + 9]) + 6
    if other_at > end or other_at + (wire[other_at - 2] << 8 | wire[other_at - 1]) != end:
        raise WireError("a TSIG record of the wrong length")
    return Tsig(key, algorithm.wire, wire[at : at + 8])


def read_name(wire: bytes, at: int) -> tuple[Name, int]:
    """Read a name that may be compressed; return it and where the octets behind it begin. Raises WireError, IndexError.

    A pointer must lead to an earlier octet than the name or the pointer's own target before it began at, so
    reading always ends; pointers and octets are counted as well (RFC 9267 section 2).
    """
    parts = []
    octets = 1
    end = -1
    pointers = 0
    lowest = at
    while size := wire[at]:
        if size >= 0xC0:
            target = (size & 0x3F) << 8 | wire[at + 1]
            if end < 0:
                end = at + 2
            pointers += 1
            if target >= lowest or target < HEADER_OCTETS or pointers > MAX_POINTERS:
                raise WireError(f"a compression pointer to octet {target}")
            at = lowest = target
            continue
        if size > MAX_LABEL_OCTETS:
            raise WireError(f"label type 0x{size:02x}")
        octets += 1 + size
        if octets > MAX_NAME_OCTETS:
            raise WireError("a name of more than 255 octets")
        part = wire[at : at + 1 + size]
        if len(part) <= size:
            raise WireError("a name is cut off")
        parts.append(part)
        at += 1 + size
    return Name.trusted(b"".join(parts) + b"\0"), (at + 1 if end < 0 else end)


def skip_name(wire: bytes, at: int) -> int:
    """Check a name and return where the octets behind it begin."""
    if not wire[at]:
        return at + 1
    return read_name(wire, at)[1]
