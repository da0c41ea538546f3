"""ROBUSTNESS section 1, row by row, over UDP and TCP, to a real process."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from kdns.proto.query import Transport
from tests.support.client import ask
from tests.support.process import Kdns

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."
ID = b"\x12\x34"
UDP, TCP = Transport.UDP, Transport.TCP


def name(text: str) -> bytes:
    wire = dns.name.from_text(text).to_wire()
    assert wire is not None
    return wire


def header(flags: int = 0x0100, counts: tuple[int, int, int, int] = (1, 0, 0, 0)) -> bytes:
    return ID + struct.pack("!5H", flags, *counts)


def question(owner: bytes | str = WEB, rrtype: int = 1, rclass: int = 1) -> bytes:
    return (name(owner) if isinstance(owner, str) else owner) + struct.pack("!2H", rrtype, rclass)


def opt(*, size: int = 1232, version: int = 0, flags: int = 0, options: bytes = b"", owner: bytes = b"\0") -> bytes:
    return owner + struct.pack("!HHBBHH", 41, size, 0, version, flags, len(options)) + options


def option(code: int, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("!HH", code, len(data) if length is None else length) + data


def query(
    owner: bytes | str = WEB, rrtype: int = 1, rclass: int = 1, *, flags: int = 0x0100, edns: bytes = b""
) -> bytes:
    return header(flags, (1, 0, 0, 1 if edns else 0)) + question(owner, rrtype, rclass) + edns


RECORD = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 4) + bytes(4)
TSIG = name("key.") + struct.pack("!HHI", 250, 255, 0)
TSIG_RDATA = name("hmac-sha256.") + bytes(6) + struct.pack("!HH", 300, 4) + b"abcd" + ID + bytes(4)
SIG0 = b"\0" + struct.pack("!HHIH", 24, 255, 0, 19) + bytes(18) + b"\0"
LONG = [b"a" * 63] * 3


@dataclass(frozen=True)
class Row:
    """A packet and what must come back; ``rcode`` None: silence. *check* looks at the reply."""

    row: str
    wire: bytes
    rcode: str | None
    check: Callable[[dns.message.Message, bytes], bool] = lambda message, wire: True
    transports: tuple[Transport, ...] = (UDP, TCP)


def has_address(message: dns.message.Message, _: bytes) -> bool:
    return [rrset.rdtype for rrset in message.answer] == [dns.rdatatype.A]


def is_empty(message: dns.message.Message, _: bytes) -> bool:
    return not message.answer and not message.authority


def is_denial(message: dns.message.Message, _: bytes) -> bool:
    return not message.answer and [rrset.rdtype for rrset in message.authority] == [dns.rdatatype.SOA]


def echoes(expected: bytes) -> Callable[[dns.message.Message, bytes], bool]:
    return lambda _, wire: wire[12 : 12 + len(expected)] == expected


def edns(message: dns.message.Message) -> bool:
    return message.edns == 0 and message.payload == 1232


def of_octets(octets: int) -> bytes:
    """A name below the zone of so many octets."""
    tail = name("cluster.local.")
    labels = bytearray()
    while (left := octets - len(labels) - len(tail)) > 64:
        labels += b"\x1f" + b"a" * 31
    return bytes(labels) + bytes([left - 1]) + b"a" * (left - 1) + tail


ROWS = [
    Row("QR=1", query(flags=0x8180), None),
    *(Row(f"{octets} octets", query()[:octets], None) for octets in (0, 1, 11)),
    Row("12 octets, no question", header(), "FORMERR", is_empty),
    Row("12 octets then garbage", header() + b"\xff" * 7, "FORMERR"),
    Row("QDCOUNT 0", header(counts=(0, 0, 0, 0)), "FORMERR"),
    Row("QDCOUNT 2", header(counts=(2, 0, 0, 0)) + question() * 2, "FORMERR"),
    Row("AN 2", header(counts=(1, 2, 0, 0)) + question() + RECORD * 2, "FORMERR"),
    Row("NS 2", header(counts=(1, 0, 2, 0)) + question() + RECORD * 2, "FORMERR"),
    Row("AR 3", header(counts=(1, 0, 0, 3)) + question() + RECORD * 3, "FORMERR"),
    *(
        Row(f"opcode {opcode}", header(opcode << 11) + question(), "NOTIMP", lambda m, w, o=opcode: w[2] >> 3 & 15 == o)  # type: ignore[misc]
        for opcode in (1, 2, 4, 5, 6, 15)
    ),
    Row("UPDATE without a question", header(5 << 11, (0, 0, 0, 0)), "NOTIMP"),
    Row("Z bit set", query(flags=0x0140), "NOERROR", lambda m, w: has_address(m, w) and not w[3] & 0x40),
    Row("AD", query(flags=0x0120), "NOERROR", lambda m, w: has_address(m, w) and not w[3] & 0x20),
    Row("CD", query(flags=0x0110), "NOERROR", lambda m, w: has_address(m, w) and not w[3] & 0x10),
    Row("AD and CD", query(flags=0x0130), "NOERROR", lambda m, w: has_address(m, w) and not w[3] & 0x30),
    Row("RD 0", query(flags=0), "NOERROR", lambda m, w: has_address(m, w) and not w[2] & 1),
    Row("pointer to itself", query(b"\xc0\x0c"), "FORMERR"),
    Row("pointer forward", query(b"\xc0\x20"), "FORMERR"),
    Row("pointer into the header", query(b"\x01a\xc0\x00"), "FORMERR"),
    Row(
        "chain of 3000 pointers",
        header(counts=(1, 0, 0, 1))
        + question()
        + b"".join(struct.pack("!H", 0xC000 | 12 + 2 * at) for at in range(3000)),
        "FORMERR",
    ),
    *(
        Row(f"label type {octet:#x}", query(bytes([octet]) + b"a" * octet + b"\0"), "FORMERR")
        for octet in (0x40, 0x80, 0xBF)
    ),
    Row("label cut off", header() + b"\x3fabc", "FORMERR"),
    Row(
        "name of 255 octets",
        query(of_octets(255)),
        "NXDOMAIN",
        lambda m, w: is_denial(m, w) and w[12 : 12 + 255] == of_octets(255),
    ),
    Row("name of 256 octets", query(of_octets(256)), "FORMERR"),
    Row(
        "name of 255 octets, by pointer",
        header(counts=(1, 0, 0, 1))
        + question(of_octets(191))
        + b"\x3f"
        + b"a" * 63
        + b"\xc0\x0c"
        + struct.pack("!HHIH", 1, 1, 0, 0),
        "NXDOMAIN",
    ),
    Row(
        "name of 256 octets, by pointer",
        header(counts=(1, 0, 0, 1)) + question(of_octets(255)) + b"\x01a\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 0),
        "FORMERR",
    ),
    *(
        Row(
            f"label with {octet!r}",
            query(b"\x03x" + octet + b"y" + name("default.svc.cluster.local.")),
            "NXDOMAIN",
            echoes(b"\x03x" + octet + b"y"),
        )
        for octet in (b"\0", b".", b"\xff", b" ", b"/", b"\\")
    ),
    Row("a dot inside a label is no two labels", query(b"\x0bweb.default" + name("svc.cluster.local.")), "NXDOMAIN"),
    Row(
        "mixed case", query("wEb.DeFaUlT.sVc.cLuStEr.LoCaL."), "NOERROR", echoes(name("wEb.DeFaUlT.sVc.cLuStEr.LoCaL."))
    ),
    Row("only A-Z fold", query(b"\x03\xd7eb" + name("default.svc.cluster.local.")), "NXDOMAIN"),
    Row("class CH", query("version.bind.", 16, 3), "REFUSED", is_empty),
    *(Row(f"class {rclass}", query(rclass=rclass), "REFUSED", is_empty) for rclass in (254, 0, 255)),
    *(Row(f"type {rrtype}", query(rrtype=rrtype), "NOERROR", is_denial) for rrtype in (65280, 0, 62347, 46)),
    *(Row(f"meta type {rrtype}", query(rrtype=rrtype), "FORMERR") for rrtype in (41, 250, 249, 253, 254)),
    Row("ANY: one RRset", query("db.default.svc.cluster.local.", 255), "NOERROR", lambda m, w: len(m.answer) == 1),
    Row("AXFR over UDP", query("cluster.local.", 252), "FORMERR", transports=(UDP,)),
    Row("AXFR over TCP", query("cluster.local.", 252), "REFUSED", transports=(TCP,)),
    Row("IXFR", query("cluster.local.", 251), "REFUSED"),
    Row("outside the zones", query("example.com."), "REFUSED", is_empty),
    Row("the root", query(b"\0"), "REFUSED", is_empty),
    *(
        Row(
            f"EDNS version {version}",
            query(edns=opt(version=version)),
            "BADVERS",
            lambda m, w: edns(m) and is_empty(m, w),
        )
        for version in (1, 100)
    ),
    Row(
        "unknown EDNS option",
        query(edns=opt(options=option(100, b"x"))),
        "NOERROR",
        lambda m, w: edns(m) and not m.options,
    ),
    Row("EDNS flag 0x40", query(edns=opt(flags=0x40)), "NOERROR", lambda m, w: edns(m) and m.ednsflags & 0xFFFF == 0),
    Row("DO", query(edns=opt(flags=0x8000)), "NOERROR", lambda m, w: bool(m.ednsflags & dns.flags.DO)),
    Row("no DO", query(edns=opt()), "NOERROR", lambda m, w: not m.ednsflags & dns.flags.DO),
    Row("two OPTs", header(counts=(1, 0, 0, 2)) + question() + opt() * 2, "FORMERR"),
    Row("OPT with an owner", query(edns=opt(owner=b"\x01a\0")), "FORMERR"),
    Row("OPT as answer", header(counts=(1, 1, 0, 0)) + question() + opt(), "FORMERR"),
    Row("OPT as authority", header(counts=(1, 0, 1, 0)) + question() + opt(), "FORMERR"),
    Row("option past its record", query(edns=opt(options=option(100, b"x", 9))), "FORMERR"),
    Row("option cut in its head", query(edns=opt(options=b"\0\x64\0")), "FORMERR"),
    Row("RDLENGTH past the message", query(edns=opt()[:-1] + b"\x05"), "FORMERR"),
    *(
        Row(
            f"payload {size} counts as 512",
            query("big.default.svc.cluster.local.", edns=opt(size=size)),
            "NOERROR",
            lambda m, w: len(w) <= 512 and bool(m.flags & dns.flags.TC),
            transports=(UDP,),
        )
        for size in (0, 100, 511, 512)
    ),
    Row(
        "payload 65535 is capped at 1232",
        query("big.default.svc.cluster.local.", edns=opt(size=65535)),
        "NOERROR",
        lambda m, w: 1200 < len(w) <= 1232 and bool(m.flags & dns.flags.TC),
        transports=(UDP,),
    ),
    Row(
        "over TCP it is whole",
        query("big.default.svc.cluster.local."),
        "NOERROR",
        lambda m, w: len(m.answer[0]) == 200 and not m.flags & dns.flags.TC,
        transports=(TCP,),
    ),
    Row(
        "over 64 KiB: as much as fits, TC",
        query("huge.default.svc.cluster.local."),
        "NOERROR",
        lambda m, w: len(m.answer[0]) > 4000 and len(w) <= 65535 and bool(m.flags & dns.flags.TC),
        transports=(TCP,),
    ),
    Row("no OPT, no OPT", query(), "NOERROR", lambda m, w: m.edns == -1 and has_address(m, w)),
    Row(
        "no OPT: 512 at most",
        query("big.default.svc.cluster.local."),
        "NOERROR",
        lambda m, w: len(w) <= 512 and bool(m.flags & dns.flags.TC),
        transports=(UDP,),
    ),
    Row("an octet behind the message", query() + b"\0", "FORMERR"),
    Row("an octet behind the OPT", query(edns=opt()) + b"\0", "FORMERR"),
    Row(
        "TSIG by an unknown key",
        header(counts=(1, 0, 0, 1)) + question() + TSIG + struct.pack("!H", len(TSIG_RDATA)) + TSIG_RDATA,
        "NOTAUTH",
        lambda m, w: w.endswith(ID + b"\0\x11\0\0") and is_empty(m, w),
    ),
    Row(
        "TSIG cut short",
        header(counts=(1, 0, 0, 1)) + question() + TSIG + struct.pack("!H", 5) + TSIG_RDATA[:5],
        "FORMERR",
    ),
    Row(
        "TSIG before OPT",
        header(counts=(1, 0, 0, 2)) + question() + TSIG + struct.pack("!H", len(TSIG_RDATA)) + TSIG_RDATA + opt(),
        "FORMERR",
    ),
    Row("SIG(0)", header(counts=(1, 0, 0, 1)) + question() + SIG0, "NOTAUTH"),
    *(
        Row(f"cookie of {octets}", query(edns=opt(options=option(10, bytes(octets)))), "FORMERR")
        for octets in (0, 7, 9, 15, 41)
    ),
    *(
        Row(
            f"cookie of {octets}: not echoed",
            query(edns=opt(options=option(10, bytes(octets)))),
            "NOERROR",
            lambda m, w: not m.options,
        )
        for octets in (8, 16, 24, 40)
    ),
    Row(
        "ECS is ignored",
        query(edns=opt(options=option(8, b"\0\x01\x18\0\xc0\0\x02"))),
        "NOERROR",
        lambda m, w: not m.options,
    ),
    Row(
        "keepalive over UDP is ignored",
        query(edns=opt(options=option(11))),
        "NOERROR",
        lambda m, w: not m.options,
        (UDP,),
    ),
    Row(
        "keepalive over TCP is answered",
        query(edns=opt(options=option(11))),
        "NOERROR",
        lambda m, w: [int(o.otype) for o in m.options] == [11] and w.endswith(b"\0\x0b\0\2\0\x64"),
        (TCP,),
    ),
    Row("keepalive with a timeout", query(edns=opt(options=option(11, b"\0\x01"))), "FORMERR", transports=(TCP,)),
    Row(
        "keepalive with a timeout, over UDP",
        query(edns=opt(options=option(11, b"\0\x01"))),
        "NOERROR",
        has_address,
        (UDP,),
    ),
    Row(
        "TSIG as answer",
        header(counts=(1, 1, 0, 0)) + question() + TSIG + struct.pack("!H", len(TSIG_RDATA)) + TSIG_RDATA,
        "FORMERR",
    ),
    Row(
        "TSIG of class IN",
        header(counts=(1, 0, 0, 1))
        + question()
        + name("key.")
        + struct.pack("!HHIH", 250, 1, 0, len(TSIG_RDATA))
        + TSIG_RDATA,
        "FORMERR",
    ),
    Row(
        "TSIG with the longest names: what fits",
        header(counts=(1, 0, 0, 1))
        + question(of_octets(255))
        + of_octets(255)
        + struct.pack("!HHIH", 250, 255, 0, 255 + 16 + 4)
        + of_octets(255)
        + TSIG_RDATA[-20:],
        "NOTAUTH",
        lambda m, w: len(w) <= 512,
        transports=(UDP,),
    ),
    Row("empty non-terminal", query("svc.cluster.local."), "NOERROR", is_denial),
    Row("AAAA at an IPv4 name", query(rrtype=28), "NOERROR", is_denial),
    Row(
        "SOA of a denial: TTL is the smaller of TTL and MINIMUM",
        query("no.default.svc.cluster.local."),
        "NXDOMAIN",
        lambda m, w: m.authority[0].ttl == m.authority[0][0].minimum == 5,
    ),
    Row(
        "a record behind the question is passed over",
        header(counts=(1, 1, 1, 1)) + question() + RECORD * 3,
        "NOERROR",
        has_address,
    ),
]


@pytest.mark.parametrize(
    ("row", "transport"),
    [pytest.param(row, transport, id=f"{row.row}-{transport.value}") for row in ROWS for transport in row.transports],
)
def test_row(server: Kdns, row: Row, transport: Transport) -> None:
    check_row(server, row, transport)


FORWARDER = {
    row.row: row
    for row in (
        Row("CD", query(flags=0x0110), "NOERROR", lambda m, w: has_address(m, w) and bool(w[3] & 0x10)),
        Row("AD and CD", query(flags=0x0130), "NOERROR", lambda m, w: has_address(m, w) and w[3] & 0x30 == 0x10),
        Row("outside the zones", query("example.com."), "NOERROR", has_address),
        Row("the root", query(b"\0"), "NXDOMAIN", is_denial),
        Row(
            "ANY: one RRset",
            query("db.default.svc.cluster.local.", 255),
            "NOERROR",
            lambda m, w: m.answer[0].to_text().endswith('3600 IN HINFO "RFC8482" ""'),
        ),
        Row(
            "SOA of a denial: TTL is the smaller of TTL and MINIMUM",
            query("no.default.svc.cluster.local."),
            "NXDOMAIN",
            lambda m, w: m.authority[0].ttl <= m.authority[0][0].minimum == 5,
        ),
    )
}
"""What the forwarder answers otherwise."""


@pytest.mark.parametrize(
    ("row", "transport"),
    [pytest.param(row, transport, id=f"{row.row}-{transport.value}") for row in ROWS for transport in row.transports],
)
def test_row_of_the_forwarder(forwarder: Kdns, row: Row, transport: Transport) -> None:
    row = FORWARDER.get(row.row, row)
    check_row(forwarder, row, transport)
    if row.rcode in ("NOERROR", "NXDOMAIN"):
        reply = ask(forwarder.port, row.wire, transport)
        assert reply is not None
        assert not reply[2] & 0x04, "AA"
        assert reply[3] & 0x80, "RA"


def check_row(server: Kdns, row: Row, transport: Transport) -> None:
    for _ in range(4 if row.rcode in ("NOERROR", "NXDOMAIN") else 1):
        reply = ask(server.port, row.wire, transport, quiet=row.rcode is None)
        if row.rcode is None:
            assert reply is None
            return
        assert reply is not None
        assert reply[:2] == ID
        assert reply[2] & 0x80
        if row.wire[2:3] and row.wire[2] >> 3 & 15 in (5, 6, 15):
            assert reply[3] & 15 == 4
            message = dns.message.Message()
        else:
            message = dns.message.from_wire(reply, ignore_trailing=False, continue_on_error=False, keyring=False)
            assert dns.rcode.to_text(message.rcode()) == row.rcode
        assert row.check(message, reply)


def test_no_answer_is_larger_than_what_an_amplifier_would_like(server: Kdns) -> None:
    """Every type at every sort of name, over UDP: at most 1232 octets, and ANY no larger than A."""
    for owner in (
        WEB,
        "db.default.svc.cluster.local.",
        "big.default.svc.cluster.local.",
        "cluster.local.",
        "no.svc.cluster.local.",
    ):
        sizes = {}
        for rrtype in (1, 2, 5, 6, 12, 15, 16, 28, 33, 255, 65):
            reply = ask(server.port, query(owner, rrtype, edns=opt(size=65535)), UDP)
            assert reply is not None
            sizes[rrtype] = len(reply)
        assert max(sizes.values()) <= 1232
        if owner != "cluster.local.":
            assert sizes[255] <= sizes[1]
