"""Transfers as messages: every record once, in order, whatever their sizes."""

from __future__ import annotations

import dns.message
import dns.rdatatype
from hypothesis import given, settings
from hypothesis import strategies as st

from kdns.proto.query import Transport
from kdns.proto.reading import read_query
from kdns.proto.response import make_transfer
from tests.support.cases import question
from zones.names import Name
from zones.records import A, RRset, SOA, soa_rdata, TXT, txt_rdata

ORIGIN = Name.from_text("cluster.local.")
SOA_RRSET = RRset(ORIGIN, SOA, 5, (soa_rdata(ORIGIN, ORIGIN, serial=1, refresh=2, retry=3, expire=4, minimum=5),))
labels = st.text("abcdefgh", min_size=1, max_size=20)
rrsets = st.one_of(
    st.builds(
        lambda label, rdatas: RRset(ORIGIN.prefixed(label.encode()), A, 5, tuple(rdatas)),
        labels,
        st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=60, unique=True),
    ),
    st.builds(
        lambda label, octets: RRset(ORIGIN.prefixed(label.encode()), TXT, 5, (txt_rdata(b"x" * octets),)),
        labels,
        st.integers(0, 255),
    ),
)


def test_a_record_that_is_larger_than_a_message_has_one_of_its_own() -> None:
    wire = question("cluster.local. AXFR")
    huge = RRset(
        ORIGIN.prefixed(b"big"),
        TXT,
        5,
        (txt_rdata(*([b"x" * 250] * 40)), txt_rdata(b"small"), txt_rdata(*([b"y" * 250] * 240))),
    )
    beyond = RRset(ORIGIN.prefixed(b"beyond"), TXT, 5, (txt_rdata(*([b"x" * 255] * 255)) + b"\xf0" + b"x" * 240,))
    query = read_query(wire, Transport.TCP)
    records = []
    for tail in make_transfer(query, iter([SOA_RRSET, huge, beyond, SOA_RRSET]), max_octets=8192, ra=False):
        records += [
            (r.name.to_text(), len(r[0].to_wire() or b""))
            for r in dns.message.from_wire(wire[:2] + tail, xfr=True, one_rr_per_rrset=True).answer
        ]
    assert [size for name, size in records if name.startswith("big")] == [10_040, 6, 60_240]
    assert [name for name, _ in records][-1] == "cluster.local."


@settings(deadline=None)
@given(st.lists(rrsets, max_size=12), st.integers(400, 900), st.booleans())
def test_every_record_once_and_in_order(some: list[RRset], octets: int, edns: bool) -> None:
    wire = question("cluster.local. AXFR", edns=edns)
    query = read_query(wire, Transport.TCP)
    stream = [SOA_RRSET, *some, SOA_RRSET]
    records = []
    for tail in make_transfer(query, iter(stream), max_octets=octets, ra=False):
        assert len(tail) + 2 <= octets
        message = dns.message.from_wire(wire[:2] + tail, xfr=True, one_rr_per_rrset=True)
        assert message.answer
        records += [
            (r.name.to_text(), r.rdtype, r[0].to_wire() if r.rdtype != dns.rdatatype.SOA else b"")
            for r in message.answer
        ]
    wanted = [(r.owner.to_text(), r.rtype, rdata if r.rtype != SOA else b"") for r in stream for rdata in r.rdatas]
    assert records == wanted
