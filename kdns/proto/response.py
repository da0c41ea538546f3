"""Responses in wire form: sections, name compression, truncation, EDNS (RFC 1035 section 4, RFC 6891).

A response is made and kept without the two octets of its ID, which alone differ between askers: everything
here is called a *tail*. Names are compressed where every reader must understand it: owners, and the RDATA of
the types of RFC 1035 (RFC 3597 section 4); never inside SRV (RFC 2782), though later owners may point there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from kdns.proto.query import (
    BADVERS,
    MAX_MESSAGE_OCTETS,
    MAX_UDP_OCTETS,
    NOTAUTH,
    Query,
    Transport,
    Tsig,
)
from zones.names import Name
from zones.records import A, AAAA, CNAME, MX, NS, PTR, RRset, SOA, SRV, TSIG

MAX_ROTATIONS: Final = 16
"""Orders of one answer that are kept: enough to spread clients, few enough to keep."""

MAX_ROTATED_OCTETS: Final = 16_384
"""What all orders of one answer may hold together; a large answer is kept in fewer of them."""

KEEPALIVE_TENTHS: Final = 100
"""What a client over TCP is told when it asks: idle connections are closed after 10 s (RFC 7828)."""

_QUESTION_POINTER: Final = b"\xc0\x0c"
_MAX_POINTER: Final = 0x3FFF
"""RFC 1035 section 4.1.4: an offset has 14 bits."""

_BADKEY: Final = 17
_ONE_NAME: Final = frozenset((NS, CNAME, PTR))


def make_response(
    query: Query,
    *,
    rcode: int,
    answer: Sequence[RRset] = (),
    authority: Sequence[RRset] = (),
    additional: Iterable[RRset] = (),
    rotate: bool = False,
    aa: bool = False,
    ra: bool = False,
    options: bytes = b"",
) -> tuple[bytes, ...]:
    """Return the response's tail, or with *rotate* several of them that differ in the order of the last RRset.

    Whole records that do not fit are left out: of the answer and the authority with TC set (RFC 2181 section 9),
    of the additional section silently. *additional* is read only as far as there is room. *options* are EDNS
    options, sent if the query has EDNS.
    """
    opt = _opt(query, rcode, options)
    writer = _Writer(query, query.limit - len(opt))
    rotating = answer[-1] if rotate and answer and answer[-1].rtype in (A, AAAA) else None
    fits = all(writer.add(rrset) for rrset in (answer[:-1] if rotating else answer))
    answers = writer.records
    at = len(writer.buf)
    records: list[bytes] = []
    if rotating is not None and fits:
        records = writer.encode(rotating)
        room = (writer.limit - at) // len(records[0])
        shown = min(room, len(records))
        fits = shown == len(records)
        writer.buf += b"".join(records[:shown])
        answers += shown
        writer.records += shown
    fits = fits and all(writer.add(rrset) for rrset in authority)
    authorities = writer.records - answers
    if fits:
        for rrset in additional:
            if not writer.add(rrset, whole=True):
                break
    additionals = writer.records - answers - authorities + bool(opt)
    flags = 0x8000 | query.flags & 0x0100 | aa << 10 | (not fits) << 9 | ra << 7 | rcode & 15
    writer.buf[:10] = b"%c%c\0\1%c%c%c%c%c%c" % (
        *divmod(flags, 256),
        *divmod(answers, 256),
        *divmod(authorities, 256),
        *divmod(additionals, 256),
    )
    writer.buf += opt
    tail = bytes(writer.buf)
    if len(records) < 2:
        return (tail,)
    return _rotations(tail, at, records, shown)


def _rotations(tail: bytes, at: int, records: list[bytes], shown: int) -> tuple[bytes, ...]:
    """Return *tail* with its *shown* records at octet *at* replaced by others of *records*, all of one size."""
    end = at + shown * len(records[0])
    least = 1 if shown == len(records) else 4  # what is left out of one order stands in another
    count = min(len(records), max(least, min(MAX_ROTATIONS, MAX_ROTATED_OCTETS // len(tail))))
    head, rest = tail[:at], tail[end:]
    twice = records + records
    starts = [number * len(records) // count for number in range(count)]
    return tuple(head + b"".join(twice[start : start + shown]) + rest for start in starts)


def make_negative(query: Query, *, rcode: int, soa: RRset, aa: bool, ra: bool, options: bytes = b"") -> bytes:
    """Return the tail of a denial whose SOA hangs from a suffix of the question: one record behind the question.

    The commonest response of all, so it is put together without a table of names: the SOA's own names, which lie
    in the zone as well, point into the question too.
    """
    origin = soa.owner
    offset = 12 + len(query.qname.wire) - len(origin.wire)
    record = _soa_fragment(soa, offset)
    flags = 0x8000 | query.flags & 0x0100 | aa << 10 | ra << 7 | rcode & 15
    if query.edns is None and not options:
        return b"%c%c\0\1\0\0\0\1\0\0" % divmod(flags, 256) + query.question + record
    opt = _opt(query, rcode, options)
    head = b"%c%c\0\1\0\0\0\1\0%c" % (*divmod(flags, 256), bool(opt))
    return head + query.question + record + opt


_fragments: dict[tuple[int, int], tuple[RRset, bytes]] = {}


def _soa_fragment(soa: RRset, offset: int) -> bytes:
    """Return the SOA as a record whose owner points to *offset*; made once for each SOA and offset."""
    found = _fragments.get((id(soa), offset))
    if found is not None and found[0] is soa:
        return found[1]
    if len(_fragments) > 4096:
        _fragments.clear()
    pointer = (0xC000 | offset).to_bytes(2, "big")
    origin = soa.owner
    rdata = soa.rdatas[0]
    out = bytearray()
    at = 0
    for _ in range(2):
        name, at = _name_at(rdata, at)
        if name.is_under(origin):
            out += name.wire[: len(name.wire) - len(origin.wire)] + pointer
        else:
            out += name.wire
    out += rdata[at:]
    fragment = pointer + _fixed(SOA, soa.ttl) + len(out).to_bytes(2, "big") + bytes(out)
    _fragments[id(soa), offset] = soa, fragment
    return fragment


def make_bare(wire: bytes, rcode: int, *, ra: bool) -> bytes:
    """Return the tail for a message that could not be read as a query: a header and no sections."""
    flags = 0x8000 | (wire[2] & 0x79) << 8 | ra << 7 | rcode & 15
    return flags.to_bytes(2, "big") + bytes(8)


def make_badvers(query: Query) -> bytes:
    """Return the tail for an EDNS version that is not known: version 0, no answer (RFC 6891 section 6.1.3)."""
    return make_response(query, rcode=BADVERS)[0]


def make_badkey(query: Query) -> bytes:
    """Return the tail for a signature by a key that is not known: NOTAUTH, unsigned (RFC 8945 section 5.2.1)."""
    tail = make_response(query, rcode=NOTAUTH)[0]
    if not isinstance(query.signed, Tsig):
        return tail
    signed = query.signed
    rdata = signed.algorithm + signed.time_and_fudge + b"\0\0" + query.id + _BADKEY.to_bytes(2, "big") + b"\0\0"
    record = signed.key.wire + b"%c%c\0\xff\0\0\0\0" % divmod(TSIG, 256) + len(rdata).to_bytes(2, "big") + rdata
    return tail[:9] + bytes((tail[9] + 1,)) + tail[10:] + record


def ede(code: int, text: str = "") -> bytes:
    """Return an Extended DNS Error option (RFC 8914)."""
    data = code.to_bytes(2, "big") + text.encode()
    return b"\0\x0f" + len(data).to_bytes(2, "big") + data


def _opt(query: Query, rcode: int, options: bytes) -> bytes:
    edns = query.edns
    if edns is None:
        return b""
    if edns.keepalive and query.transport is Transport.TCP:
        options += b"\0\x0b\0\2" + KEEPALIVE_TENTHS.to_bytes(2, "big")
    return b"\0\0\x29%c%c%c\0%c\0%c%c%s" % (
        *divmod(MAX_UDP_OCTETS, 256),
        rcode >> 4,
        0x80 * edns.do,
        *divmod(len(options), 256),
        options,
    )


def _fixed(rtype: int, ttl: int) -> bytes:
    return rtype.to_bytes(2, "big") + b"\0\1" + ttl.to_bytes(4, "big")


def _name_at(rdata: bytes, at: int) -> tuple[Name, int]:
    end = at
    while size := rdata[end]:
        end += 1 + size
    return Name.trusted(rdata[at : end + 1]), end + 1


class _Writer:
    """Records behind a question. Offsets in ``buf`` are two less than in the message, which has its ID in front."""

    __slots__ = ("_names", "_qname", "buf", "limit", "records")

    def __init__(self, query: Query, limit: int) -> None:
        self._qname = query.qname
        self._names: dict[bytes, int] | None = None
        self.buf = bytearray(10) + query.question
        self.limit = min(limit, MAX_MESSAGE_OCTETS) - 2
        self.records = 0

    def add(self, rrset: RRset, *, whole: bool = False) -> bool:
        """Append the records of *rrset*, or with *whole* either all or none; tell whether all of them fitted."""
        start, before = len(self.buf), self.records
        for rdata in rrset.rdatas:
            at = len(self.buf)
            self._name(rrset.owner)
            self.buf += _fixed(rrset.rtype, rrset.ttl)
            self._rdata(rrset.rtype, rdata)
            if len(self.buf) > self.limit:
                if whole:
                    at, self.records = start, before
                self._cut(at)
                return False
            self.records += 1
        return True

    def encode(self, rrset: RRset) -> list[bytes]:
        """Return the records of an address RRset one by one, not appended."""
        at = len(self.buf)
        self._name(rrset.owner)
        owner = bytes(self.buf[at:])
        self._cut(at)
        head = owner + _fixed(rrset.rtype, rrset.ttl) + len(rrset.rdatas[0]).to_bytes(2, "big")
        return [head + rdata for rdata in rrset.rdatas]

    def _cut(self, at: int) -> None:
        del self.buf[at:]
        if self._names:
            self._names = {key: offset for key, offset in self._names.items() if offset < at + 2}

    def _name(self, name: Name) -> None:
        if name.key == self._qname.key:
            self.buf += _QUESTION_POINTER if len(name.key) > 1 else b"\0"
            return
        self._compressed(name, point=True)

    def _compressed(self, name: Name, *, point: bool) -> None:
        """Append *name*, remembering where each of its suffixes stands; with *point* the known ones are pointed to."""
        names = self._names
        if names is None:
            names = self._names = {}
            self._remember(names, self._qname, 12)
        key, wire = name.key, name.wire
        at = 0
        while size := key[at]:
            offset = names.get(key[at:])
            if offset is not None and point:
                self.buf += wire[:at] + (0xC000 | offset).to_bytes(2, "big")
                return
            if offset is None and (here := len(self.buf) + 2 + at) <= _MAX_POINTER:
                names[key[at:]] = here
            at += 1 + size
        self.buf += wire

    @staticmethod
    def _remember(names: dict[bytes, int], name: Name, offset: int) -> None:
        key = name.key
        at = 0
        while size := key[at]:
            names.setdefault(key[at:], offset + at)
            at += 1 + size

    def _rdata(self, rtype: int, rdata: bytes) -> None:
        buf = self.buf
        length_at = len(buf)
        buf += b"\0\0"
        if rtype in _ONE_NAME:
            self._compressed(Name.trusted(rdata), point=True)
        elif rtype == SRV:
            buf += rdata[:6]
            self._compressed(Name.trusted(rdata[6:]), point=False)
        elif rtype == MX:
            buf += rdata[:2]
            self._compressed(Name.trusted(rdata[2:]), point=True)
        elif rtype == SOA:
            at = 0
            for _ in range(2):
                name, at = _name_at(rdata, at)
                self._compressed(name, point=True)
            buf += rdata[at:]
        else:
            buf += rdata
        buf[length_at : length_at + 2] = (len(buf) - length_at - 2).to_bytes(2, "big")
