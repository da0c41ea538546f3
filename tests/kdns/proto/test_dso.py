"""DSO messages: octets of any kind, and what is written read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdns.answer.push import Feed
from kdns.answer.session import DsoSession, KEEPALIVE_SECONDS
from kdns.errors import WireError
from kdns.proto import dso
from zones.names import Name
from zones.records import A, PTR, RRset, SRV, srv_rdata, TXT, txt_rdata
from zones.zone import Reads

NAMES = [Name.from_text(text) for text in ("a.cluster.local.", "b.cluster.local.", "x.y.z.cluster.local.", ".")]
rrsets = st.builds(
    RRset,
    st.sampled_from(NAMES),
    st.just(A),
    st.integers(0, 100),
    st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=5, unique=True).map(tuple),
)
odd = st.sampled_from(
    [
        RRset(NAMES[0], PTR, 5, (NAMES[1].wire,)),
        RRset(NAMES[0], SRV, 5, (srv_rdata(0, 1, 2, NAMES[2]),)),
        RRset(NAMES[1], TXT, 5, (txt_rdata(b"x" * 200),)),
    ]
)


@given(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\0\7\x30\0" + bytes(8), b"\0\0\x30\0" + bytes(8), b"\0\7\xb0\0" + bytes(8)]),
)
def test_octets_of_any_kind_are_a_message_or_a_wire_error(octets: bytes, head: bytes) -> None:
    wire = (head + octets).ljust(12, b"\0")
    try:
        message = dso.read_dso(wire)
    except WireError:
        return
    assert (
        b"".join(kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for kind, data in message.tlvs)
        == wire[12:]
    )


@given(st.binary(max_size=120))
def test_a_push_of_any_octets_is_read_or_malformed(octets: bytes) -> None:
    try:
        notices = dso.read_push(dso.make_dso(0, (dso.PUSH, octets)))
    except dso.Malformed:
        return
    assert all(notice.ttl < 1 << 31 or notice.ttl in (dso.REMOVED, dso.ALL_REMOVED) for notice in notices)


@given(st.lists(rrsets | odd, max_size=6), st.lists(rrsets | odd, max_size=6))
def test_what_is_pushed_is_read_back(removed: list[RRset], added: list[RRset]) -> None:
    notices = [notice for wire in dso.make_pushes(removed, added) for notice in dso.read_push(wire)]
    wanted = [(r.owner, r.rtype, dso.REMOVED, rdata) for r in removed for rdata in r.rdatas]
    wanted += [(r.owner, r.rtype, r.ttl, rdata) for r in added for rdata in r.rdatas]
    assert [(notice.owner, notice.rtype, notice.ttl, notice.rdata) for notice in notices] == wanted


def test_much_is_pushed_in_messages_that_pointers_reach() -> None:
    many = RRset(NAMES[0], A, 5, tuple(number.to_bytes(4, "big") for number in range(5000)))
    wires = dso.make_pushes([many], [many])
    assert len(wires) > 8
    assert max(map(len, wires)) <= dso.MAX_PUSH_OCTETS
    assert sum(len(dso.read_push(wire)) for wire in wires) == 10_000


def look(name: Name, qtype: int) -> tuple[dict[int, RRset], Reads] | int:
    return ({}, ()) if name.is_under(Name.from_text("cluster.local.")) else 9


messages = st.one_of(
    st.binary(min_size=12, max_size=40),
    st.builds(
        lambda message_id, kind, data: dso.make_dso(message_id, (kind, data)),
        st.integers(0, 3),
        st.sampled_from([1, 2, 3, 0x40, 0x41, 0x42, 0x43, 0x99]),
        st.one_of(
            st.binary(max_size=12),
            st.just(bytes(8)),
            st.just(b"\0\1"),
            st.sampled_from(NAMES).map(lambda name: name.wire + b"\0\1\0\1"),
        ),
    ),
)


@given(st.lists(messages, max_size=12))
def test_a_session_takes_anything_and_leaves_nothing_behind(some: list[bytes]) -> None:
    feed = Feed(look)
    sent: list[bytes] = []
    cuts: list[bool] = []
    session = DsoSession(feed, sent.append, lambda: cuts.append(True), 0.0)
    for at, wire in enumerate(some):
        before = len(sent)
        session.receive(wire, float(at))
        assert len(cuts) <= 1
        if cuts:
            assert len(sent) == before or not cuts
            break
    for wire in sent:
        assert dso.read_dso(wire).is_response
    session.end()
    assert (feed.subscriptions, len(feed)) == (0, 0)


def test_a_session_says_how_long_it_may_be_quiet() -> None:
    session = DsoSession(Feed(look), lambda wire: None, lambda: None, 100.0)
    assert session.deadline == 130.0
    session.receive(dso.make_dso(1, dso.subscribe(NAMES[0], A)), 110.0)
    assert session.deadline == 110.0 + 2 * KEEPALIVE_SECONDS


def test_there_is_a_bound_of_subscriptions() -> None:
    sent: list[bytes] = []
    session = DsoSession(Feed(look, max_subscriptions=2), sent.append, lambda: None, 0.0)
    for message_id in range(1, 4):
        session.receive(dso.make_dso(message_id, dso.subscribe(NAMES[message_id % 2], message_id)), 0.0)
    assert [dso.read_dso(wire).rcode for wire in sent] == [0, 0, 5]


def waits(feed: Feed) -> bool:
    return feed.has_news


@pytest.mark.parametrize("reads", [(), (NAMES[1].key,), None])
def test_a_topic_follows_what_it_was_made_from(reads: Reads) -> None:
    records: dict[int, RRset] = {}
    feed = Feed(lambda name, qtype: (dict(records), reads))
    pushed: list[bytes] = []

    class Subscriber:
        def push(self, wire: bytes) -> None:
            pushed.append(wire)

    subscriber = Subscriber()
    assert feed.subscribe(subscriber, NAMES[0], A) == (0, [])
    records[A] = RRset(NAMES[0], A, 5, (b"\1\2\3\4",))
    feed.changed([NAMES[2].key])
    assert not waits(feed)
    if reads is None:
        feed.changed_unseen()
    else:
        feed.changed([(*reads, NAMES[0].key)[0]])
    assert waits(feed)
    list(feed.flush())
    assert len(pushed) == 1
    feed.changed([NAMES[0].key])
    list(feed.flush())
    assert len(pushed) == 1  # nothing is another than before
    feed.unsubscribe(subscriber, NAMES[0], A)
    feed.changed([NAMES[0].key, NAMES[1].key])
    assert not waits(feed)
