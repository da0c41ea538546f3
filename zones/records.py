"""Resource records: types, RRsets, and RDATA in wire form (RFC 1035 section 3, RFC 2181 section 5).

RDATA is octets here; names inside it are uncompressed. What compresses and what a record looks like
as text is known to ``kdns.proto``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv6Address
from typing import Final

import msgspec

from zones.errors import BadRecord
from zones.names import Name

A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
MX: Final = 15
TXT: Final = 16
AAAA: Final = 28
SRV: Final = 33
OPT: Final = 41
TSIG: Final = 250
IXFR: Final = 251
AXFR: Final = 252
ANY: Final = 255

IN: Final = 1
"""The one class that is served."""

MAX_TTL: Final = 2**31 - 1
"""RFC 2181 section 8."""


RRTYPE_TEXT: Final = {
    A: "A",
    NS: "NS",
    CNAME: "CNAME",
    SOA: "SOA",
    PTR: "PTR",
    13: "HINFO",
    MX: "MX",
    TXT: "TXT",
    17: "RP",
    18: "AFSDB",
    24: "SIG",
    25: "KEY",
    AAAA: "AAAA",
    29: "LOC",
    SRV: "SRV",
    35: "NAPTR",
    36: "KX",
    37: "CERT",
    39: "DNAME",
    OPT: "OPT",
    42: "APL",
    43: "DS",
    44: "SSHFP",
    45: "IPSECKEY",
    46: "RRSIG",
    47: "NSEC",
    48: "DNSKEY",
    49: "DHCID",
    50: "NSEC3",
    51: "NSEC3PARAM",
    52: "TLSA",
    53: "SMIMEA",
    55: "HIP",
    59: "CDS",
    60: "CDNSKEY",
    61: "OPENPGPKEY",
    62: "CSYNC",
    63: "ZONEMD",
    64: "SVCB",
    65: "HTTPS",
    99: "SPF",
    108: "EUI48",
    109: "EUI64",
    249: "TKEY",
    TSIG: "TSIG",
    IXFR: "IXFR",
    AXFR: "AXFR",
    253: "MAILB",
    254: "MAILA",
    ANY: "ANY",
    256: "URI",
    257: "CAA",
}
"""Mnemonics of the IANA registry that people meet; any other type is written TYPE123 (RFC 3597)."""

_BY_TEXT: Final = {text: rtype for rtype, text in RRTYPE_TEXT.items()}


def rrtype_to_text(rtype: int) -> str:
    """Return the mnemonic of *rtype*, or ``TYPE123``."""
    return RRTYPE_TEXT.get(rtype) or f"TYPE{rtype}"


def rrtype_from_text(text: str) -> int:
    """Return the type with that mnemonic (any case) or in the form ``TYPE123``. Raises BadRecord."""
    upper = text.upper()
    if (rtype := _BY_TEXT.get(upper)) is not None:
        return rtype
    if upper.startswith("TYPE") and upper[4:].isascii() and upper[4:].isdigit() and int(upper[4:]) < 65_536:
        return int(upper[4:])
    raise BadRecord(f"{text!r} is no record type")


class RRset(msgspec.Struct, frozen=True):
    """All records of one owner and type: one TTL in seconds, no order, no duplicates (RFC 2181 section 5)."""

    owner: Name
    rtype: int
    ttl: int
    rdatas: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not self.rdatas:
            raise BadRecord("an RRset without records")
        if not 0 <= self.ttl <= MAX_TTL:
            raise BadRecord(f"TTL {self.ttl}")


def address_rrsets(owner: Name, ttl: int, addresses: Iterable[bytes]) -> Iterator[RRset]:
    """Yield the A RRset and the AAAA RRset of *addresses*, which are unique, as far as there are some."""
    for rtype, octets in ((A, 4), (AAAA, 16)):
        if some := sorted(address for address in addresses if len(address) == octets):
            yield RRset(owner, rtype, ttl, tuple(some))


def srv_rdatas(entries: Collection[tuple[bytes, int, Name]]) -> tuple[bytes, ...]:
    """Return the RDATA of SRV records for *entries* of address, port and target, each port and target once.

    Priority and weight are CoreDNS's (CONTRACT row 3.3): 0, and 100 shared between the entries, at least 1.
    """
    weight = max(1, 100 // len(entries)) if entries else 0
    pairs = {(number, target) for _, number, target in entries}
    return tuple(srv_rdata(0, weight, number, target) for number, target in sorted(pairs))


def soa_rdata(mname: Name, rname: Name, *, serial: int, refresh: int, retry: int, expire: int, minimum: int) -> bytes:
    """Return the RDATA of a SOA; the five figures are unsigned 32-bit, times in seconds (RFC 1035 section 3.3.13)."""
    figures = (serial, refresh, retry, expire, minimum)
    return mname.wire + rname.wire + b"".join((figure & 0xFFFFFFFF).to_bytes(4, "big") for figure in figures)


def soa_serial(rdata: bytes) -> int:
    """Return the serial in the RDATA of a SOA."""
    return int.from_bytes(rdata[-20:-16], "big")


def srv_rdata(priority: int, weight: int, port: int, target: Name) -> bytes:
    """Return the RDATA of an SRV record (RFC 2782)."""
    return b"".join(figure.to_bytes(2, "big") for figure in (priority, weight, port)) + target.wire


def srv_target(rdata: bytes) -> Name:
    """Return the target inside the RDATA of an SRV record that this program made."""
    return Name.trusted(rdata[6:])


def txt_rdata(*strings: bytes) -> bytes:
    """Return the RDATA of a TXT record: each string behind its length (RFC 1035 section 3.3.14)."""
    if not strings or any(len(string) > 255 for string in strings):
        raise BadRecord("a TXT record needs at least one string, each of at most 255 octets")
    return b"".join(bytes((len(string),)) + string for string in strings)


def address_from_text(text: str) -> bytes:
    """Return 4 or 16 octets for an IPv4 or IPv6 address in text form, canonical or not. Raises ValueError.

    IPv4 is the strict dotted quad: no leading zeros, which some readers take for octal.
    """
    if ":" in text:
        if "%" in text:
            raise ValueError(f"{text!r} has a scope; an address in a record has none")
        return IPv6Address(text).packed
    try:
        address = bytes(map(int, text.split(".")))
    except ValueError:
        address = b""
    # What int() takes beside digits (signs, blanks, underscores, leading zeros) is not written so again.
    if len(address) != 4 or text != ".".join(map(str, address)):
        raise ValueError(f"{text!r} is no IP address")
    return address


def address_to_text(address: bytes) -> str:
    """Return the canonical text of 4 or 16 octets (RFC 5952)."""
    if len(address) == 4:
        return ".".join(map(str, address))
    return str(IPv6Address(address))


def address_rrtype(address: bytes) -> int:
    """Return A for 4 octets, AAAA for 16."""
    return A if len(address) == 4 else AAAA
