"""What is believed of a reply: the quick reader against the whole one, and octets of any kind."""

from __future__ import annotations

import dns.message
import dns.rcode
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st

from kdns.errors import WireError
from kdns.upstream.question import Question
from kdns.upstream.wire import is_reply
from nodelocal.body import body_with_ttl, sections
from nodelocal.reply import read_addresses, read_reply
from zones.names import Name
from zones.records import A, AAAA, rrtype_from_text

NAME = Name.from_text("www.example.com")


def everything(name: Name) -> bool:
    return True


def reply(*lines: str, rrtype: str = "A", edns: bool = True, rcode: int = 0) -> bytes:
    query = dns.message.make_query("www.example.com", rrtype, use_edns=0 if edns else None)
    message = dns.message.make_response(query, recursion_available=True)
    message.set_rcode(dns.rcode.Rcode(rcode))
    for line in lines:
        owner, ttl, rclass, kind, rdata = line.split(None, 4)
        message.answer.append(dns.rrset.from_text(owner, int(ttl), rclass, kind, rdata))
    return message.to_wire()


@given(
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1)), min_size=1, max_size=40),
    st.sampled_from([A, AAAA]),
    st.booleans(),
)
def test_the_quick_reader_says_what_the_whole_one_says(records: list[tuple[int, int]], rtype: int, edns: bool) -> None:
    octets = 4 if rtype == A else 16
    rdatas = {number.to_bytes(octets, "big"): ttl for ttl, number in records}
    question = Question(NAME, rtype)
    kind = rtype.to_bytes(2, "big")
    opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\0" if edns else b""
    wire = b"\0\0\x81\x80\0\1" + len(rdatas).to_bytes(2, "big") + b"\0\0\0" + bytes((edns,))
    wire += NAME.wire + kind + b"\0\1"
    for rdata, ttl in rdatas.items():
        wire += b"\xc0\x0c" + kind + b"\0\1" + ttl.to_bytes(4, "big") + octets.to_bytes(2, "big") + rdata
    quick = read_addresses(wire + opt, question, None)
    whole = read_reply(wire + opt, question, everything)
    assert quick is not None
    assert (quick.rcode, quick.is_denial, quick.answers, quick.authorities, quick.ttl) == (
        whole.rcode,
        whole.is_denial,
        whole.answers,
        whole.authorities,
        whole.ttl,
    )
    assert sections(quick, NAME, 5) == sections(whole, NAME, 5)
    assert body_with_ttl(quick, 7) == body_with_ttl(whole, 7)


def test_the_quick_reader_leaves_the_rest_to_the_whole_one() -> None:
    question = Question(NAME, A)
    for wire in (
        reply("www.example.com. 60 IN CNAME a.example.com."),
        reply("other.example.com. 60 IN A 192.0.2.1"),
        reply(),
        reply("www.example.com. 60 IN A 192.0.2.1", rcode=2),
        reply("www.example.com. 60 IN A 192.0.2.1") + b"\0",
        reply("www.example.com. 60 IN AAAA 2001:db8::1"),
    ):
        assert read_addresses(wire, question, None) is None
    assert read_addresses(reply(rrtype="TXT"), Question(NAME, rrtype_from_text("TXT")), None) is None


@given(st.binary(max_size=300), st.sampled_from(["A", "AAAA", "TXT", "SRV", "CNAME"]), st.booleans())
def test_octets_of_any_kind_give_an_entry_or_a_wire_error(octets: bytes, rrtype: str, behind_question: bool) -> None:
    qtype = rrtype_from_text(rrtype)
    question = Question(NAME, qtype, do=True)
    wire = octets
    if behind_question:
        wire = (
            b"\0\0\x81\x80\0\1"
            + octets[:6].ljust(6, b"\0")
            + NAME.wire
            + qtype.to_bytes(2, "big")
            + b"\0\1"
            + octets[6:]
        )
    if len(wire) < 12:
        return  # is_reply lets nothing shorter through
    entry = read_addresses(wire, question, None)
    if entry is None:
        try:
            entry = read_reply(wire, question, everything)
        except WireError:
            return
    answer, authority = sections(entry, NAME, 5)
    assert sum(len(rrset.rdatas) for rrset in answer) >= 0
    assert all(rrset.ttl == 5 for rrset in (*answer, *authority))


@given(st.data())
def test_a_broken_true_reply_gives_an_entry_or_a_wire_error(data: st.DataObject) -> None:
    whole = reply(
        "www.example.com. 60 IN CNAME a.example.com.",
        "a.example.com. 60 IN CNAME b.example.net.",
        "b.example.net. 30 IN A 192.0.2.1",
    )
    wire = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(12, len(wire) - 1))] = data.draw(st.integers(0, 255))
    wire = wire[: data.draw(st.integers(12, len(wire)))]
    try:
        entry = read_reply(bytes(wire), Question(NAME, A), everything)
    except WireError:
        return
    sections(entry, NAME, 1)


def test_a_reply_is_matched_by_id_question_and_qr() -> None:
    wire = reply("www.example.com. 60 IN A 192.0.2.1")
    section = NAME.wire + b"\0\1\0\1"
    assert is_reply(wire, wire[:2], section)
    assert is_reply(wire, wire[:2], section.upper().replace(b"\0\1\0\1", b"\0\1\0\1")), "in any case"
    for other in (
        bytes([wire[0] ^ 1]) + wire[1:],
        wire[:2] + bytes([wire[2] & 0x7F]) + wire[3:],
        wire[:2] + bytes([wire[2] | 0x28]) + wire[3:],
        wire[:4] + b"\0\2" + wire[6:],
        wire[:11],
        wire[:20] + b"x" + wire[21:],
        b"",
    ):
        assert not is_reply(other, wire[:2], section)
    refused = wire[:2] + b"\x81\x81" + bytes(8)
    assert is_reply(refused, wire[:2], section), "FORMERR without a question"
    assert not is_reply(wire[:2] + b"\x81\x80" + bytes(8), wire[:2], section)
