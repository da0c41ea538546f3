"""Records as text: master file lines and dig's way of showing a message (RFC 1035 section 5).

dnslib knows how RDATA reads as text, and is asked for nothing else; what it cannot show (an unknown type, labels
that are not UTF-8, which it refuses though they are legal) is written in the form of RFC 3597.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import dnslib

from kdns.proto.message import Message, Record
from kdns.proto.query import RCODE_TEXT
from zones.names import Name
from zones.records import (
    A,
    AAAA,
    address_to_text,
    CNAME,
    NS,
    PTR,
    RRset,
    rrtype_to_text,
    SOA,
    SRV,
    TXT,
)

_FLAG_TEXT: Final = ((0x8000, "qr"), (0x0400, "aa"), (0x0200, "tc"), (0x0100, "rd"), (0x0080, "ra"), (0x0020, "ad"))


def rdata_to_text(rtype: int, rdata: bytes) -> str:
    """Return uncompressed RDATA in master file form."""
    match rtype:
        case _ if rtype == A and len(rdata) == 4:
            return address_to_text(rdata)
        case _ if rtype == AAAA and len(rdata) == 16:
            return address_to_text(rdata)
        case _ if rtype in (NS, CNAME, PTR):
            return Name.from_wire(rdata).to_text()
        case _ if rtype == SRV:
            figures = (int.from_bytes(rdata[at : at + 2], "big") for at in (0, 2, 4))
            return " ".join(map(str, figures)) + " " + Name.from_wire(rdata[6:]).to_text()
        case _ if rtype == SOA:
            names, rest = _two_names(rdata)
            figures = (int.from_bytes(rest[at : at + 4], "big") for at in range(0, 20, 4))
            return " ".join([*(name.to_text() for name in names), *map(str, figures)])
        case _ if rtype == TXT:
            return " ".join(_quoted(string) for string in _strings(rdata))
    known = dnslib.RDMAP.get(rrtype_to_text(rtype))
    if known is not None and rdata:
        try:
            return str(known.parse(dnslib.DNSBuffer(rdata), len(rdata)))
        except (dnslib.DNSError, ValueError, IndexError, RecursionError):
            pass  # written as octets below
    return f"\\# {len(rdata)} {rdata.hex()}".rstrip()


def record_to_text(record: Record) -> str:
    """Return one line of a master file."""
    return "\t".join(
        (
            record.owner.to_text(),
            str(record.ttl),
            "IN",
            rrtype_to_text(record.rtype),
            rdata_to_text(record.rtype, record.rdata),
        )
    )


def rrset_to_text(rrset: RRset) -> Iterator[str]:
    """Yield the lines of *rrset*."""
    for rdata in rrset.rdatas:
        yield record_to_text(Record(rrset.owner, rrset.rtype, rrset.ttl, rdata))


def message_to_text(message: Message) -> Iterator[str]:
    """Yield what a person wants to know of a reply: its RCODE and flags, then its records by section."""
    flags = " ".join(text for bit, text in _FLAG_TEXT if message.flags & bit)
    yield f"{RCODE_TEXT.get(message.rcode, message.rcode)}, flags: {flags}"
    for title, records in (("answer", message.answer), ("authority", message.authority)):
        for record in records:
            yield f"{title:9}  {record_to_text(record).expandtabs(8)}"


def _two_names(rdata: bytes) -> tuple[list[Name], bytes]:
    names = []
    at = 0
    for _ in range(2):
        end = at
        while size := rdata[end]:
            end += 1 + size
        names.append(Name.from_wire(rdata[at : end + 1]))
        at = end + 1
    return names, rdata[at:]


def _strings(rdata: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(rdata):
        yield rdata[at + 1 : at + 1 + rdata[at]]
        at += 1 + rdata[at]


def _quoted(string: bytes) -> str:
    text = "".join(
        f"\\{chr(octet)}" if octet in b'"\\' else chr(octet) if 0x20 <= octet <= 0x7E else f"\\{octet:03d}"
        for octet in string
    )
    return f'"{text}"'
