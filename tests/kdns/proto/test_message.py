"""Replies of other servers: any octets are a message or a WireError."""

from __future__ import annotations

import struct

import dns.message
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdns.errors import WireError
from kdns.proto.message import read_message, rrsets_of
from zones.names import Name


@given(st.binary(max_size=200))
def test_any_octets(wire: bytes) -> None:
    try:
        read_message(wire)
    except WireError:
        return


REPLY = dns.message.from_text(
    """id 1
opcode QUERY
rcode NOERROR
flags QR RD RA
edns 0
payload 1232
;QUESTION
www.example.com. IN A
;ANSWER
www.example.com. 300 IN CNAME web.example.com.
web.example.com. 60 IN A 192.0.2.1
web.example.com. 30 IN A 192.0.2.2
;AUTHORITY
example.com. 300 IN NS ns.example.com.
;ADDITIONAL
ns.example.com. 300 IN A 192.0.2.53
example.com. 300 IN MX 10 mail.example.com.
example.com. 300 IN SOA ns.example.com. admin.example.com. 1 2 3 4 5
_s._tcp.example.com. 300 IN SRV 1 2 3 web.example.com.
"""
).to_wire()


@settings(deadline=None)
@given(st.data())
def test_mutated_replies(data: st.DataObject) -> None:
    wire = bytearray(REPLY)
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = read_message(bytes(wire))
    except WireError:
        return
    for record in (*message.answer, *message.authority, *message.additional):
        assert len(record.owner.wire) <= 255
        assert 0 <= record.ttl < 2**31


def test_a_reply_is_read_and_decompressed() -> None:
    message = read_message(REPLY)
    assert message.question == (Name.from_text("www.example.com."), 1, 1)
    assert message.rcode == 0
    assert [record.rtype for record in message.answer] == [5, 1, 1]
    assert message.answer[0].rdata == Name.from_text("web.example.com.").wire
    assert [record.rtype for record in message.additional] == [1, 15, 6, 33]
    assert message.additional[1].rdata == b"\0\x0a" + Name.from_text("mail.example.com.").wire
    rrset = rrsets_of(message.answer)[1]
    assert rrset.ttl == 30  # the smallest, RFC 2181 section 5.2
    assert len(rrset.rdatas) == 2


def test_extended_rcodes_and_other_classes() -> None:
    head = struct.pack("!6H", 1, 0x8000, 0, 1, 0, 1)
    chaos = b"\0" + struct.pack("!HHIH", 16, 3, 0, 0)
    opt = b"\0" + struct.pack("!HHBBHH", 41, 1232, 1, 0, 0, 0)
    message = read_message(head + chaos + opt)
    assert message.rcode == 16
    assert not message.answer


def test_a_ttl_with_its_top_bit_is_large() -> None:
    head = struct.pack("!6H", 1, 0x8000, 0, 1, 0, 0)
    message = read_message(head + b"\0" + struct.pack("!HHIH", 1, 1, 0x80000000, 4) + bytes(4))
    assert message.answer[0].ttl == 2**31 - 1


@pytest.mark.parametrize("cut", range(12, len(REPLY), 7))
def test_cut_off(cut: int) -> None:
    with pytest.raises(WireError):
        read_message(REPLY[:cut])


def test_rdata_longer_than_its_name() -> None:
    head = struct.pack("!6H", 1, 0x8000, 0, 1, 0, 0)
    with pytest.raises(WireError):
        read_message(head + b"\0" + struct.pack("!HHIH", 5, 1, 5, 4) + b"\1a\0x")


def test_thousands_of_pointers_to_one_long_name_are_read_quickly() -> None:
    """64 KiB of MX records at a name of 127 labels took most of a second."""
    name = b"\x01a" * 126 + b"\0"
    record = b"\xc0\x0c\0\x0f\0\1\0\0\0\x3c\0\4\0\x01\xc0\x0c"
    wire = b"ab\x81\x80\0\1" + (4000).to_bytes(2, "big") + b"\0\0\0\0" + name + b"\0\x0f\0\1" + record * 4000
    message = read_message(wire)
    assert len(message.answer) == 4000
    assert {id(record.owner) for record in message.answer} == {id(message.answer[0].owner)}, "read once"
    assert message.answer[0].owner == message.question[0]  # type: ignore[index]
