"""The query view: any octets are a query or a WireError, and a query says what dnspython says."""

from __future__ import annotations

import struct

import dns.exception
import dns.message
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdns.errors import WireError
from kdns.proto.message import make_question
from kdns.proto.query import Transport
from kdns.proto.reading import read_name, read_query
from zones.names import Name

names = st.lists(st.binary(min_size=1, max_size=20), max_size=6).map(Name)


@given(names, st.integers(0, 65535), st.booleans(), st.booleans(), st.binary(min_size=2, max_size=2))
def test_a_query_is_what_was_asked(name: Name, rrtype: int, do: bool, rd: bool, message_id: bytes) -> None:
    wire = make_question(message_id, name, rrtype, do=do, recursion_desired=rd)
    query = read_query(wire, Transport.UDP)
    assert (query.id, query.qname, query.qname.wire, query.qtype, query.qclass) == (
        message_id,
        name,
        name.wire,
        rrtype,
        1,
    )
    assert query.qname.labels == name.labels
    assert query.recursion_desired is rd
    assert query.edns is not None
    assert (query.edns.do, query.edns.size, query.edns.version) == (do, 1232, 0)


@given(st.binary(max_size=120), st.sampled_from(Transport))
@example(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x00\x00\x01\x00\x01\x00\x00\x29\x04", Transport.UDP)
def test_any_octets(wire: bytes, transport: Transport) -> None:
    hint: int | None = 1
    try:
        read_query(wire, transport)
    except WireError as exc:
        hint = exc.rcode_hint
    assert hint in (None, 1, 4)


@given(names, st.data())
def test_mutated_queries_that_are_read_are_read_as_dnspython_does(name: Name, data: st.DataObject) -> None:
    wire = bytearray(make_question(b"ab", name, 1))
    for _ in range(data.draw(st.integers(0, 3))):
        wire[data.draw(st.integers(12, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        query = read_query(bytes(wire), Transport.UDP)
    except WireError:
        return
    try:
        theirs = dns.message.from_wire(bytes(wire))
    except dns.exception.DNSException:
        return  # dnspython reads more of it, options for instance, and may dislike what it finds there
    assert theirs.question[0].name.to_wire() == query.qname.wire
    assert theirs.question[0].rdtype == query.qtype
    assert (theirs.edns >= 0) is (query.edns is not None)


@given(st.binary(max_size=400), st.integers(0, 400))
def test_reading_a_name_always_ends(wire: bytes, at: int) -> None:
    try:
        name, end = read_name(wire, at)
    except (WireError, IndexError):
        return
    assert len(name.wire) <= 255
    assert at < end <= len(wire)


def test_pointers_lead_backwards() -> None:
    head = bytes(12)
    assert read_name(head + b"\x01a\0\x01b\xc0\x0c", 15)[0] == Name([b"b", b"a"])
    for wire in (b"\xc0\x0c", b"\xc0\x0e\xc0\x0c", b"\x01a\xc0\x0c", b"\xc0\x02"):
        with pytest.raises(WireError):
            read_name(head + wire, 12)


@pytest.mark.parametrize(("size", "limit"), [(0, 512), (511, 512), (1000, 1000), (1232, 1232), (65535, 1232)])
def test_limits(size: int, limit: int) -> None:
    wire = make_question(b"ab", Name([b"a"]), 1, edns=False)
    plain = read_query(wire, Transport.UDP)
    assert plain.limit == 512
    wire = wire[:11] + b"\x01" + wire[12:] + b"\0" + struct.pack("!HHIH", 41, size, 0, 0)
    assert read_query(wire, Transport.UDP).limit == limit
    assert read_query(wire, Transport.TCP).limit == 65535
