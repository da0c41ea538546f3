"""Responses in wire form: sections, name compression, truncation, EDNS (RFC 1035 section 4, RFC 6891).

A response is made and kept without the two octets of its ID, which alone differ between askers: everything
here is called a *tail*. Names are compressed where every reader must understand it: owners, and the RDATA of
the types of RFC 1035 (RFC 3597 section 4); never inside SRV (RFC 2782), though later owners may point there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final

from kdns.proto.query import (
    BADVERS,
    HEADER_OCTETS,
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
    flags: int = 0,
    options: bytes = b"",
) -> tuple[bytes, ...]:
    """Return the response's tail, or with *rotate* several of them that differ in the order of the last RRset.

    Whole records that do not fit are left out: of the answer and the authority with TC set (RFC 2181 section 9),
    of the additional section silently. *additional* is read only as far as there is room. *flags* are further header
    flags (AD, CD), *options* EDNS options, sent if the query has EDNS.
    """
    opt = opt_record(query, rcode, options)
    writer = _Writer(query, query.limit - len(opt))
    fits = all(writer.add(rrset) for rrset in answer[:-1])
    at, before = len(writer.buf), writer.records
    records: list[bytes] = []
    if answer and fits:
        last = answer[-1]
        if rotate and last.rtype in (A, AAAA):
            records = writer.encode(last)
            if fits := at + sum(map(len, records)) <= writer.limit:
                writer.buf += b"".join(records)
                writer.records += len(records)
        elif not (fits := writer.add(last)) and rotate:
            writer.cut(at, before)
            records = writer.encode(last)
        if not fits and records:
            return _subsets(query, writer, before, records, opt, rcode=rcode, aa=aa, ra=ra, flags=flags)
    answers = writer.records
    fits = fits and all(writer.add(rrset) for rrset in authority)
    authorities = writer.records - answers
    if fits:
        for rrset in additional:
            if not writer.add(rrset, whole=True):
                break
    additionals = writer.records - answers - authorities + bool(opt)
    head = _head(query, (answers, authorities, additionals), rcode=rcode, aa=aa, tc=not fits, ra=ra, more=flags)
    tail = head + bytes(writer.buf[len(head) :]) + opt
    if len(records) < 2:
        return (tail,)
    front, rest = tail[:at], tail[at + sum(map(len, records)) :]
    count = min(len(records), MAX_ROTATIONS, max(1, MAX_ROTATED_OCTETS // len(tail)))
    twice = records + records
    starts = [number * len(records) // count for number in range(count)]
    return tuple(front + b"".join(twice[start : start + len(records)]) + rest for start in starts)


def make_transfer(query: Query, rrsets: Iterable[RRset], *, max_octets: int, ra: bool) -> Iterator[bytes]:
    """Yield the tails of the messages that hold *rrsets*, in their order, each of about *max_octets* at most.

    A record larger than that has a message of its own. Each message repeats the question (RFC 5936 section 2.2.1).
    """
    opt = opt_record(query, 0, b"")
    writer = _Writer(query, max_octets - len(opt))
    for rrset in rrsets:
        rest = rrset
        while not writer.add(rest):
            if not writer.records:
                writer.limit = MAX_MESSAGE_OCTETS - len(opt) - 2
                alone = RRset(rrset.owner, rrset.rtype, rrset.ttl, rest.rdatas[:1])
                if not writer.add(alone):
                    break  # more than any message holds: RDATA of 64 KiB
                left = len(rest.rdatas) - 1
            else:
                left = len(rest.rdatas) - writer.added
            yield _transferred(query, writer, opt, ra=ra)
            writer = _Writer(query, max_octets - len(opt))
            if not left:
                break
            rest = RRset(rrset.owner, rrset.rtype, rrset.ttl, rrset.rdatas[len(rrset.rdatas) - left :])
    if writer.records:
        yield _transferred(query, writer, opt, ra=ra)


def _transferred(query: Query, writer: _Writer, opt: bytes, *, ra: bool) -> bytes:
    counts = (writer.records, 0, int(bool(opt)))
    head = _head(query, counts, rcode=0, aa=True, tc=False, ra=ra, more=0)
    return head + bytes(writer.buf[len(head) :]) + opt


def _subsets(
    query: Query,
    writer: _Writer,
    before: int,
    records: list[bytes],
    opt: bytes,
    *,
    rcode: int,
    aa: bool,
    ra: bool,
    flags: int,
) -> tuple[bytes, ...]:
    """Return truncated responses, each with as many of *records* as fit behind what *writer* holds.

    They begin at different records: together they show all, unless that would take more than ``MAX_ROTATIONS``.
    """
    front = bytes(writer.buf)
    room = writer.limit - len(front)
    shown = max(1, room * len(records) // sum(map(len, records)))
    count = min(len(records), MAX_ROTATIONS, max(-(-len(records) // shown) + 1, MAX_ROTATED_OCTETS // writer.limit))
    tails = []
    for number in range(count):
        some, octets = [], 0
        start = number * len(records) // count
        for record in chain(islice(records, start, None), islice(records, start)):
            if octets + len(record) > room:
                break
            some.append(record)
            octets += len(record)
        head = _head(query, (before + len(some), 0, bool(opt)), rcode=rcode, aa=aa, tc=True, ra=ra, more=flags)
        tails.append(head + front[len(head) :] + b"".join(some) + opt)
    return tuple(tails)


def _head(query: Query, counts: tuple[int, int, int], *, rcode: int, aa: bool, tc: bool, ra: bool, more: int) -> bytes:
    """Return the header without its ID."""
    flags = more | 0x8000 | query.flags & 0x0100 | aa << 10 | tc << 9 | ra << 7 | rcode & 15
    return b"".join(number.to_bytes(2, "big") for number in (flags, 1, *counts))


def make_negative(query: Query, *, rcode: int, soa: RRset, aa: bool, ra: bool, options: bytes = b"") -> bytes:
    """Return the tail of a denial whose SOA hangs from a suffix of the question: one record behind the question.

    The commonest response of all, so it is put together without a table of names: the SOA's own names, which lie
    in the zone as well, point into the question too.
    """
    origin = soa.owner
    offset = 12 + len(query.qname.wire) - len(origin.wire)
    record = soa_fragment(soa, offset)
    flags = 0x8000 | query.flags & 0x0100 | aa << 10 | ra << 7 | rcode & 15
    if query.edns is None and not options:
        return flags.to_bytes(2, "big") + b"\0\1\0\0\0\1\0\0" + query.question + record
    opt = opt_record(query, rcode, options)
    head = b"%c%c\0\1\0\0\0\1\0%c" % (*divmod(flags, 256), bool(opt))
    return head + query.question + record + opt


def make_nxdomain(query: Query, soa: RRset) -> bytes:
    """Return what ``make_negative`` does of an authoritative NXDOMAIN to a query without EDNS, in half the time."""
    fragment = soa_fragment(soa, HEADER_OCTETS + len(query.qname.wire) - len(soa.owner.wire))
    return nxdomain_head(query.flags >> 8) + query.question + fragment


def nxdomain_head(flags: int) -> bytes:
    """Return the header without its ID of what ``make_nxdomain`` makes; *flags* are the upper octet of the query's."""
    return _NXDOMAIN_RD if flags & 1 else _NXDOMAIN


_NXDOMAIN: Final = b"\x84\x03\0\1\0\0\0\1\0\0"
_NXDOMAIN_RD: Final = b"\x85\x03\0\1\0\0\0\1\0\0"


_fragments: dict[tuple[int, int], tuple[RRset, bytes]] = {}


def soa_fragment(soa: RRset, offset: int) -> bytes:
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


def make_badvers(query: Query, *, ra: bool) -> bytes:
    """Return the tail for an EDNS version that is not known: version 0, no answer (RFC 6891 section 6.1.3)."""
    return make_response(query, rcode=BADVERS, ra=ra)[0]


def make_badkey(query: Query, *, ra: bool) -> bytes:
    """Return the tail for a signature by a key that is not known: NOTAUTH, unsigned (RFC 8945 section 5.2.1)."""
    tail = make_response(query, rcode=NOTAUTH, ra=ra)[0]
    if not isinstance(query.signed, Tsig):
        return tail
    signed = query.signed
    rdata = signed.algorithm + signed.time_and_fudge + b"\0\0" + query.id + _BADKEY.to_bytes(2, "big") + b"\0\0"
    record = signed.key.wire + b"%c%c\0\xff\0\0\0\0" % divmod(TSIG, 256) + len(rdata).to_bytes(2, "big") + rdata
    if len(tail) + 2 + len(record) > query.limit:  # names near their longest: the RCODE alone has room
        return tail
    return tail[:9] + bytes((tail[9] + 1,)) + tail[10:] + record


def ede(code: int, text: str = "") -> bytes:
    """Return an Extended DNS Error option (RFC 8914)."""
    data = code.to_bytes(2, "big") + text.encode()
    return b"\0\x0f" + len(data).to_bytes(2, "big") + data


def opt_record(query: Query, rcode: int, options: bytes) -> bytes:
    """Return the OPT record of a response to *query*: nothing if that has none (RFC 6891 section 7)."""
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

    __slots__ = ("_names", "_qname", "added", "buf", "limit", "records")

    def __init__(self, query: Query, limit: int) -> None:
        self._qname = query.qname
        self._names: dict[bytes, int] | None = None
        self.buf = bytearray(10) + query.question
        self.limit = min(limit, MAX_MESSAGE_OCTETS) - 2
        self.records = 0
        self.added = 0
        """How many records the last ``add`` left in place."""

    def add(self, rrset: RRset, *, whole: bool = False) -> bool:
        """Append the records of *rrset*, or with *whole* either all or none; tell whether all of them fitted."""
        start, before = len(self.buf), self.records
        self.added = 0
        for rdata in rrset.rdatas:
            at = len(self.buf)
            self._name(rrset.owner)
            self.buf += _fixed(rrset.rtype, rrset.ttl)
            self._rdata(rrset.rtype, rdata)
            if len(self.buf) > self.limit:
                self.cut(*((start, before) if whole else (at, self.records)))
                return False
            self.records += 1
            self.added += 1
        return True

    def encode(self, rrset: RRset) -> list[bytes]:
        """Return the records of an RRset of addresses or SRV one by one, not appended; they may stand anywhere."""
        at = len(self.buf)
        self._name(rrset.owner)
        head = bytes(self.buf[at:]) + _fixed(rrset.rtype, rrset.ttl)
        self.cut(at, self.records)
        if rrset.rtype in (A, AAAA):
            head += len(rrset.rdatas[0]).to_bytes(2, "big")
            return [head + rdata for rdata in rrset.rdatas]
        return [head + len(rdata).to_bytes(2, "big") + rdata for rdata in rrset.rdatas]

    def cut(self, at: int, records: int) -> None:
        """Take back what was appended from octet *at* on, so that *records* are left."""
        del self.buf[at:]
        self.records = records
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
