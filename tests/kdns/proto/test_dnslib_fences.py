"""dnslib's known faults (0.9.26), each with what stands between it and our users.

Each test shows first that the fault is still there: when one is mended, the fence can go.
"""

from __future__ import annotations

import dnslib
import pytest

from kdns.errors import WireError
from kdns.proto.message import make_question, read_message
from kdns.proto.query import Transport
from kdns.proto.reading import read_query
from kdns.proto.response import make_response
from kdns.proto.text import rdata_to_text, record_to_text
from zones.names import Name
from zones.records import A, RRset

QUESTION = make_question(b"ab", Name.from_text("web.example."), 1, edns=False)


def test_a_label_of_a_hundred_octets_is_refused() -> None:
    wire = QUESTION[:12] + b"\x64" + b"a" * 100 + b"\0\0\1\0\1"
    try:
        dnslib.DNSRecord.parse(wire)
    except dnslib.DNSError:
        pytest.fail("dnslib refuses it now")
    with pytest.raises(WireError):
        read_query(wire, Transport.UDP)


def test_a_name_of_610_octets_is_refused() -> None:
    wire = QUESTION[:12] + (b"\x3c" + b"a" * 60) * 10 + b"\0\0\1\0\1"
    dnslib.DNSRecord.parse(wire)
    with pytest.raises(WireError):
        read_query(wire, Transport.UDP)


def test_labels_that_are_not_utf8_are_read() -> None:
    wire = QUESTION[:12] + b"\x03x\xffy\0\0\1\0\1"
    with pytest.raises((dnslib.DNSError, UnicodeDecodeError)):
        dnslib.DNSRecord.parse(wire)
    assert read_query(wire, Transport.UDP).qname.labels == (b"x\xffy",)
    assert rdata_to_text(5, b"\x03x\xffy\0") == "x\\255y."


@pytest.mark.parametrize("wire", [QUESTION[:4] + bytes(8), QUESTION + b"tail"], ids=["no question", "octets behind"])
def test_counts_and_ends_are_checked(wire: bytes) -> None:
    dnslib.DNSRecord.parse(wire)
    with pytest.raises(WireError):
        read_query(wire, Transport.UDP)


def test_chained_pointers_are_an_error_and_not_a_recursion() -> None:
    chain = b"".join((0xC000 | 12 + 2 * at).to_bytes(2, "big") for at in range(1, 3000)) + b"\0"
    wire = QUESTION[:12] + chain
    with pytest.raises((RecursionError, dnslib.DNSError)):
        dnslib.DNSRecord.parse(wire)
    with pytest.raises(WireError):
        read_query(wire, Transport.UDP)
    with pytest.raises(WireError):
        read_message(wire)


def test_replies_are_not_built_by_dnslib() -> None:
    """Its ``reply`` sets AA and RA unasked and drops the OPT; its ``truncate`` drops the question."""
    asked = make_question(b"ab", Name.from_text("web.example."), 1)
    theirs = dnslib.DNSRecord.parse(asked).reply()
    assert (theirs.header.aa, theirs.header.ra, len(theirs.ar)) == (1, 1, 0)
    assert not theirs.truncate().questions
    ours = read_message(b"ab" + make_response(read_query(asked, Transport.UDP), rcode=0)[0])
    assert ours.question is not None
    assert not ours.is_authoritative
    assert not ours.flags & 0x0080


def test_compression_knows_no_case() -> None:
    name, other = Name.from_text("web.example."), Name.from_text("db.EXAMPLE.")
    query = read_query(make_question(b"ab", name, 1), Transport.UDP)
    tail = make_response(query, rcode=0, answer=[RRset(other, A, 5, (bytes(4),))])[0]
    assert b"EXAMPLE" not in tail


@pytest.mark.parametrize(
    ("rtype", "rdata", "text"),
    [
        (A, b"\1\2\3", "\\# 3 010203"),
        (65280, b"\xab", "\\# 1 ab"),
        (65280, b"", "\\# 0"),
        (15, b"\0\x0a\4mail\0", "10 mail."),
        (257, b"\0\5issueca.example", '0 issue "ca.example"'),
        (16, b'\2a"\1\xff', '"a\\"" "\\255"'),
        (48, b"\1", "\\# 1 01"),
    ],
)
def test_rdata_that_dnslib_cannot_show_is_shown_as_octets(rtype: int, rdata: bytes, text: str) -> None:
    assert rdata_to_text(rtype, rdata) == text


def test_a_record_is_a_master_file_line() -> None:
    record = read_message(
        b"ab"
        + make_response(
            read_query(QUESTION, Transport.UDP),
            rcode=0,
            answer=[RRset(Name.from_text("web.example."), A, 5, (b"\1\2\3\4",))],
        )[0]
    ).answer[0]
    assert record_to_text(record) == "web.example.\t5\tIN\tA\t1.2.3.4"
