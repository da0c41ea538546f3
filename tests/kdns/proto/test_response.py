"""Responses from wire fragments, read by dnspython and dnslib: whole, within their limit, compressed."""

from __future__ import annotations

import dns.flags
import dns.message
import dnslib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdns.proto.message import make_question, read_message, rrsets_of
from kdns.proto.query import Query, Transport
from kdns.proto.reading import read_query
from kdns.proto.response import make_response, MAX_ROTATIONS
from zones.names import Name
from zones.records import A, AAAA, CNAME, MX, PTR, RRset, SOA, soa_rdata, SRV, srv_rdata, TXT, txt_rdata

labels = st.sampled_from([b"a", b"B", b"c" * 20, b"\xff", b"_tcp", b"example", b"d" * 63])
names = st.lists(labels, max_size=3).map(Name)
rdatas = st.one_of(
    st.tuples(st.just(A), st.binary(min_size=4, max_size=4)),
    st.tuples(st.just(AAAA), st.binary(min_size=16, max_size=16)),
    st.tuples(st.sampled_from([CNAME, PTR]), names.map(lambda name: name.wire)),
    st.tuples(st.just(MX), names.map(lambda name: b"\0\5" + name.wire)),
    st.tuples(st.just(SRV), names.map(lambda name: srv_rdata(0, 10, 80, name))),
    st.tuples(
        st.just(TXT), st.lists(st.binary(max_size=30), min_size=1, max_size=3).map(lambda some: txt_rdata(*some))
    ),
    st.tuples(
        st.just(SOA),
        st.tuples(names, names).map(
            lambda two: soa_rdata(two[0], two[1], serial=1, refresh=2, retry=3, expire=4, minimum=5)
        ),
    ),
)
rrsets = st.builds(
    lambda owner, rdata, ttl: RRset(owner, rdata[0], ttl, (rdata[1],)), names, rdatas, st.integers(0, 2**31 - 1)
)


def query(name: Name, *, edns: bool = True, tcp: bool = False, rrtype: int = 1) -> Query:
    return read_query(make_question(b"ab", name, rrtype, edns=edns), Transport.TCP if tcp else Transport.UDP)


def records(some: list[RRset]) -> list[tuple[Name, int, int, bytes]]:
    return sorted((rrset.owner, rrset.rtype, rrset.ttl, rdata) for rrset in some for rdata in rrset.rdatas)


@settings(deadline=None)
@given(names, st.lists(rrsets, max_size=4), st.lists(rrsets, max_size=3), st.lists(rrsets, max_size=3), st.booleans())
def test_what_is_written_is_what_is_read(
    name: Name, answer: list[RRset], authority: list[RRset], additional: list[RRset], edns: bool
) -> None:
    asked = query(name, edns=edns, tcp=True)
    tail = make_response(asked, rcode=0, answer=answer, authority=authority, additional=additional, aa=True)[0]
    message = read_message(b"ab" + tail)
    assert message.question == (name, 1, 1)
    for section, some in ((message.answer, answer), (message.authority, authority), (message.additional, additional)):
        assert sorted((r.owner, r.rtype, r.ttl, r.rdata) for r in section) == records(some)
    theirs = dns.message.from_wire(b"ab" + tail)
    assert sum(map(len, theirs.answer)) <= len(answer)  # dnspython folds duplicates
    assert (theirs.edns == 0) is edns


@settings(deadline=None)
@given(names, st.lists(rrsets, max_size=30), st.booleans())
def test_a_response_keeps_its_limit_and_tc_means_that_something_is_missing(
    name: Name, answer: list[RRset], edns: bool
) -> None:
    asked = query(name, edns=edns)
    tail = make_response(asked, rcode=0, answer=answer)[0]
    assert len(tail) + 2 <= asked.limit
    message = read_message(b"ab" + tail)
    assert message.is_truncated is (len(message.answer) < len(answer))


@settings(deadline=None)
@given(st.integers(1, 120), st.booleans(), st.sampled_from([A, AAAA]))
def test_rotations(count: int, tcp: bool, rrtype: int) -> None:
    name = Name.from_text("db.default.svc.cluster.local.")
    size = 4 if rrtype == A else 16
    some = RRset(name, rrtype, 5, tuple(number.to_bytes(size, "big") for number in range(count)))
    asked = query(name, tcp=tcp)
    tails = make_response(asked, rcode=0, answer=[some], rotate=True, aa=True)
    assert 1 <= len(tails) <= MAX_ROTATIONS
    assert len({len(tail) for tail in tails}) == 1
    firsts = set()
    for tail in tails:
        message = read_message(b"ab" + tail)
        assert {record.rdata for record in message.answer} <= set(some.rdatas)
        assert len({record.rdata for record in message.answer}) == len(message.answer)
        if not message.is_truncated:
            assert len(message.answer) == count
        firsts.add(message.answer[0].rdata)
    assert len(firsts) == len(tails)
    assert len(tails) == min(count, MAX_ROTATIONS) or len(tails[0]) > 1000


def test_more_than_fits_a_tcp_message_rotates_so_that_all_are_seen() -> None:
    name = Name.from_text("db.default.svc.cluster.local.")
    some = RRset(name, A, 5, tuple(number.to_bytes(4, "big") for number in range(6000)))
    tails = make_response(query(name, tcp=True), rcode=0, answer=[some], rotate=True)
    seen: set[bytes] = set()
    for tail in tails:
        message = read_message(b"ab" + tail)
        assert message.is_truncated
        seen.update(record.rdata for record in message.answer)
    assert seen == set(some.rdatas)


def test_owners_and_old_types_are_compressed_and_srv_targets_are_not() -> None:
    name = Name.from_text("_http._tcp.web.default.svc.cluster.local.")
    target = Name.from_text("web.default.svc.cluster.local.")
    srv = RRset(name, SRV, 5, (srv_rdata(0, 1, 80, target),))
    tail = make_response(query(name), rcode=0, answer=[srv], additional=[RRset(target, A, 5, (bytes(4),))])[0]
    assert tail.count(b"\x07default") == 2  # in the question, and in the SRV's target (RFC 2782)
    reverse = Name.from_text("1.0.96.10.in-addr.arpa.")
    ptr = RRset(reverse, PTR, 5, (target.wire,))
    soa = RRset(
        target, SOA, 5, (soa_rdata(target.prefixed(b"ns"), target, serial=1, refresh=1, retry=1, expire=1, minimum=1),)
    )
    tail = make_response(query(reverse), rcode=0, answer=[ptr], authority=[soa])[0]
    assert tail.count(b"\x07default") == 1


def test_messages_past_the_reach_of_pointers_are_right() -> None:
    """dnslib's own ``pack`` makes pointers past 14 bits of such a message; ours must not."""
    name = Name.from_text("big.example.")
    some = [RRset(Name([b"h%d" % number, b"x%d" % number, b"example"]), A, 5, (bytes(4),)) for number in range(2000)]
    tail = make_response(query(name, tcp=True), rcode=0, answer=some)[0]
    assert len(tail) > 0x4000
    assert [rrset.owner for rrset in rrsets_of(read_message(b"ab" + tail).answer)] == [rrset.owner for rrset in some]
    assert len(dns.message.from_wire(b"ab" + tail).answer) == 2000


@pytest.mark.parametrize("text", ["web.default.svc.cluster.local.", "WEB.default.svc.CLUSTER.local."])
def test_dnslib_reads_it_too(text: str) -> None:
    name = Name.from_text(text)
    tail = make_response(query(name), rcode=0, answer=[RRset(name, A, 5, (b"\x0a\0\0\1",))], aa=True)[0]
    record = dnslib.DNSRecord.parse(b"ab" + tail)
    assert str(record.rr[0].rdata) == "10.0.0.1"
    assert record.header.aa == 1
    assert str(record.q.qname) == text


def test_truncation_flag_survives_dnspython() -> None:
    name = Name.from_text("db.default.svc.cluster.local.")
    some = RRset(name, A, 5, tuple(number.to_bytes(4, "big") for number in range(200)))
    message = dns.message.from_wire(b"ab" + make_response(query(name), rcode=0, answer=[some])[0])
    assert message.flags & dns.flags.TC
