"""Which names are subscribed to for an entry, and which entries go when something is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kdns.proto import dso
from nodelocal.cache import Cache, key_of
from nodelocal.entry import Entry, seal
from nodelocal.subscriptions import Subscriptions, topics_of
from zones.names import Name
from zones.records import A, AAAA, address_from_text, ANY, CNAME, RRset, SRV, txt_rdata

Z = "default.svc.cluster.local."
WEB = Name.from_text(f"web.{Z}")
EXT = Name.from_text(f"ext.{Z}")
PATH = Name.from_text("web.search.default.cluster.local.ap.k8s.io.")
CLUSTER = Name.from_text("cluster.local.")


def addresses(owner: Name, *texts: str) -> RRset:
    return RRset(owner, A, 30, tuple(map(address_from_text, texts)))


def alias(owner: Name, target: Name) -> RRset:
    return RRset(owner, CNAME, 30, (target.wire,))


def entry(qname: Name, *answer: RRset, qtype: int = A, rcode: int = 0, target: Name | None = None) -> Entry:
    made = seal(
        qname,
        qtype,
        rcode=rcode,
        answer=answer,
        authority=(),
        is_denial=not any(r.rtype == qtype for r in answer) and target is None,
        target=target,
    )
    made.ttl = 30
    return made


def is_ours(name: Name) -> bool:
    return name.is_under(CLUSTER)


def topics(qname: Name, made: Entry, qtype: int = A) -> list[tuple[str, int]]:
    return [(name.to_text(), rtype) for name, rtype, _ in topics_of(qname, qtype, made, is_ours)]


OUTSIDE = Name.from_text("www.example.com.")


@pytest.mark.parametrize(
    ("qname", "made", "qtype", "wanted"),
    [
        (WEB, entry(WEB, addresses(WEB, "10.0.0.1")), A, [(f"web.{Z}", A)]),
        (WEB, entry(WEB, rcode=3), A, [(f"web.{Z}", ANY)]),
        (WEB, entry(WEB, qtype=AAAA), AAAA, [(f"web.{Z}", AAAA), (f"web.{Z}", CNAME)]),
        (EXT, entry(EXT, alias(EXT, WEB), addresses(WEB, "10.0.0.1")), A, [(f"ext.{Z}", CNAME), (f"web.{Z}", A)]),
        (EXT, entry(EXT, alias(EXT, WEB), rcode=3), A, [(f"ext.{Z}", CNAME), (f"web.{Z}", ANY)]),
        (EXT, entry(EXT, alias(EXT, OUTSIDE), target=OUTSIDE), A, [(f"ext.{Z}", CNAME)]),
        (EXT, entry(EXT, alias(EXT, OUTSIDE), qtype=CNAME), CNAME, [(f"ext.{Z}", CNAME)]),
        (PATH, entry(PATH, alias(PATH, WEB), addresses(WEB, "10.0.0.1")), A, [(PATH.to_text(), A), (f"web.{Z}", A)]),
        (PATH, entry(PATH, rcode=3), A, [(PATH.to_text(), A)]),
        (PATH, entry(PATH, qtype=SRV), SRV, [(PATH.to_text(), SRV)]),
    ],
    ids=["records", "nxdomain", "nodata", "alias", "dead-alias", "alias-out", "cname", "path", "path-denied", "path-nodata"],
)  # fmt: skip
def test_topics(qname: Name, made: Entry, qtype: int, wanted: list[tuple[str, int]]) -> None:
    assert topics(qname, made, qtype) == wanted


class Played:
    """Subscriptions over a cache, with a server that the test plays."""

    def __init__(self, most: int = 100) -> None:
        self.cache = Cache()
        self.subscriptions = Subscriptions(self.cache, is_ours, max_subscriptions=most)
        self.subscriptions.connected()

    def keep(self, qname: Name, made: Entry, qtype: int = A) -> Entry:
        asked = key_of(qname, qtype, do=False, cd=False)
        self.cache.put(asked, made, 0.0)
        key = self.cache.place_of(asked, made)
        assert self.cache.get(key) is made
        self.subscriptions.hold(qname, qtype, key, made, 0.0)
        return made

    def has(self, qname: Name, qtype: int = A) -> bool:
        found = self.cache.find(key_of(qname, qtype, do=False, cd=False), 1.5)
        return found is not None and found.expires_at > 1.5

    def ask(self, *, refuse: Sequence[str] = ()) -> tuple[list[tuple[str, int]], list[int], int]:
        """Take the requests and answer them, but for the last; return what was asked for, given up, and the last's ID."""
        subscribed, ended, last = [], [], 0
        for wire in self.subscriptions.requests(1000):
            message = dso.read_dso(wire)
            ((kind, data),) = message.tlvs
            if kind == dso.SUBSCRIBE:
                name, qtype, _ = dso.read_subscribe(data)
                subscribed.append((name.to_text(), qtype))
                assert self.subscriptions.answered(message.message_id, 9 if name.to_text() in refuse else 0)
            elif kind == dso.UNSUBSCRIBE:
                ended.append(int.from_bytes(data, "big"))
            else:
                last = message.message_id
        return subscribed, ended, last

    def tell(self, *, gone: Sequence[RRset] = (), new: Sequence[RRset] = ()) -> None:
        for wire in dso.make_pushes(gone, new):
            self.subscriptions.told(dso.read_push(wire))

    def settle(self, *initial: RRset) -> None:
        """Subscribe for everything, with what there is now."""
        _, _, last = self.ask()
        self.tell(new=initial)
        assert self.subscriptions.answered(last, 0)


def test_what_is_told_goes_and_nothing_else() -> None:
    played = Played()
    other = Name.from_text(f"other.{Z}")
    played.keep(WEB, entry(WEB, addresses(WEB, "10.0.0.1", "10.0.0.2")))
    played.keep(other, entry(other, rcode=3))
    played.settle(addresses(WEB, "10.0.0.2", "10.0.0.1"))
    assert played.has(WEB)
    assert played.has(other)
    played.tell(new=[addresses(other, "10.0.0.9")])
    assert not played.has(other)
    assert played.has(WEB)
    played.tell(gone=[addresses(WEB, "10.0.0.1")])
    assert not played.has(WEB)
    assert played.subscriptions.dropped == 2


def test_what_changed_before_the_subscription_began_is_not_missed() -> None:
    played = Played()
    gone, new, same = (Name.from_text(f"{text}.{Z}") for text in ("gone", "new", "same"))
    played.keep(gone, entry(gone, addresses(gone, "10.0.0.1")))
    played.keep(new, entry(new, rcode=3))
    played.keep(same, entry(same, addresses(same, "10.0.0.3")))
    played.keep(WEB, entry(WEB, qtype=AAAA), AAAA)
    played.settle(addresses(new, "10.0.0.2"), addresses(same, "10.0.0.3"))
    assert [played.has(name) for name in (gone, new, same)] == [False, False, True]
    assert played.has(WEB, AAAA)


def test_an_entry_that_lags_behind_is_soon_asked_for_again() -> None:
    played = Played()
    played.keep(WEB, entry(WEB, rcode=3))
    played.settle()
    played.tell(new=[addresses(WEB, "10.0.0.1")])
    assert not played.has(WEB)
    played.keep(WEB, entry(WEB, addresses(WEB, "10.0.0.1")))
    played.settle(addresses(WEB, "10.0.0.1"))
    late = played.keep(WEB, entry(WEB, addresses(WEB, "10.0.0.7")))
    assert late.expires_at == 1.0
    assert played.subscriptions.lagging == 1
    fresh = played.keep(WEB, entry(WEB, addresses(WEB, "10.0.0.1")))
    assert fresh.expires_at == 30.0


def test_an_entry_that_is_newer_than_what_is_told_stays() -> None:
    played = Played()
    played.keep(WEB, entry(WEB, addresses(WEB, "10.0.0.1")))
    played.settle(addresses(WEB, "10.0.0.1"))
    newer = played.keep(WEB, entry(WEB, addresses(WEB, "10.0.0.2")))  # of a replica that is ahead
    newer.expires_at = 30.0
    played.tell(gone=[addresses(WEB, "10.0.0.1")], new=[addresses(WEB, "10.0.0.2")])
    assert played.has(WEB)


def test_a_lost_connection_asks_for_everything_again_and_keeps_what_is_true() -> None:
    played = Played()
    other = Name.from_text(f"other.{Z}")
    played.keep(WEB, entry(WEB, addresses(WEB, "10.0.0.1")))
    played.keep(other, entry(other, addresses(other, "10.0.0.2")))
    played.settle(addresses(WEB, "10.0.0.1"), addresses(other, "10.0.0.2"))
    played.subscriptions.lost()
    played.tell(gone=[addresses(WEB, "10.0.0.1")])  # of the connection that is gone: no word of it counts
    assert played.has(WEB)
    assert len(played.subscriptions) == 0
    played.subscriptions.connected()
    played.settle(addresses(other, "10.0.0.2"))
    assert not played.has(WEB)
    assert played.has(other)


def test_subscriptions_end_when_no_entry_needs_them() -> None:
    played = Played()
    played.keep(WEB, entry(WEB, addresses(WEB, "10.0.0.1")))
    played.settle(addresses(WEB, "10.0.0.1"))
    played.subscriptions.sweep()
    assert len(played.subscriptions) == 1
    played.cache.flush()
    played.subscriptions.sweep()
    assert len(played.subscriptions) == 0
    subscribed, ended, _ = played.ask()
    assert (subscribed, len(ended)) == ([], 1)


def test_there_is_a_bound_and_the_oldest_goes() -> None:
    played = Played(most=3)
    names = [Name.from_text(f"n{number}.{Z}") for number in range(5)]
    for name in names[:3]:
        played.keep(name, entry(name, rcode=3))
    played.settle()
    played.keep(names[0], entry(names[0], rcode=3))
    for name in names[3:]:
        played.keep(name, entry(name, rcode=3))
    subscribed, ended, last = played.ask()
    assert [name for name, _ in subscribed] == [f"n3.{Z}", f"n4.{Z}"]
    assert len(ended) == 2
    played.subscriptions.answered(last, 0)
    assert len(played.subscriptions) == 3
    played.tell(new=[addresses(names[0], "10.0.0.1"), addresses(names[1], "10.0.0.1")])
    assert not played.has(names[0])
    assert played.has(names[1])  # not told of any more: its own time ends it


def test_one_that_ends_before_it_is_answered_is_given_up_after_that() -> None:
    """An UNSUBSCRIBE for what the server refused meanwhile would cost the connection."""
    played = Played(most=1)
    first, second = (Name.from_text(f"{text}.{Z}") for text in ("first", "second"))
    played.keep(first, entry(first, rcode=3))
    wires = played.subscriptions.requests(10)
    played.keep(second, entry(second, rcode=3))
    assert played.ask()[:2] == ([(f"second.{Z}", ANY)], [])
    ids = [dso.read_dso(wire).message_id for wire in wires]
    assert played.subscriptions.answered(ids[0], 9)
    assert played.subscriptions.answered(ids[1], 0)
    assert played.ask()[1] == []


def test_what_is_refused_is_left_alone() -> None:
    played = Played()
    played.keep(WEB, entry(WEB, rcode=3))
    _, _, last = played.ask(refuse=[f"web.{Z}"])
    played.subscriptions.answered(last, 0)
    played.cache.flush()
    played.subscriptions.sweep()
    assert played.ask()[:2] == ([], [])


def test_what_the_server_cannot_promise_yet_is_asked_for_again() -> None:
    played = Played()
    played.keep(WEB, entry(WEB, rcode=3))
    wires = played.subscriptions.requests(10)
    ids = [dso.read_dso(wire).message_id for wire in wires]
    assert played.subscriptions.answered(ids[0], 2)
    assert played.subscriptions.answered(ids[1], 0)
    assert not played.subscriptions.has_requests
    played.subscriptions.retry()
    played.settle(addresses(WEB, "10.0.0.1"))
    assert not played.has(WEB)


def test_a_denial_that_is_told_of_is_asked_for_by_type_from_then_on() -> None:
    played = Played()
    played.keep(WEB, entry(WEB, rcode=3))
    played.settle()
    played.tell(new=[addresses(WEB, "10.0.0.1"), RRset(WEB, 16, 5, (txt_rdata(b"x"),))])
    assert len(played.ask()[1]) == 1
    played.keep(WEB, entry(WEB, addresses(WEB, "10.0.0.1")))
    assert played.ask()[0] == [(f"web.{Z}", A)]


def test_records_of_a_type_all_removed_at_once() -> None:
    played = Played()
    played.keep(WEB, entry(WEB, addresses(WEB, "10.0.0.1", "10.0.0.2")))
    played.settle(addresses(WEB, "10.0.0.1", "10.0.0.2"))
    played.subscriptions.told([dso.Notice(WEB, A, dso.ALL_REMOVED, b"")])
    assert not played.has(WEB)


def test_both_families_of_a_search_path_hear_of_one_alias() -> None:
    """Each of the two topics pushes the same record, and neither must undo what the other said."""
    played = Played()

    def keep(qtype: int) -> Entry:
        more = [addresses(WEB, "10.0.0.1")] if qtype == A else []
        return played.keep(PATH, entry(PATH, alias(PATH, WEB), *more, qtype=qtype), qtype)

    for qtype in (A, AAAA):
        keep(qtype)
    played.settle(alias(PATH, WEB), alias(PATH, WEB), addresses(WEB, "10.0.0.1"))
    for qtype in (A, AAAA):
        assert keep(qtype).expires_at == 30.0
    played.tell(gone=[alias(PATH, WEB)])
    played.tell(gone=[alias(PATH, WEB)])
    assert not played.has(PATH)
    assert not played.has(PATH, AAAA)


def test_a_name_is_the_same_however_it_is_spelled() -> None:
    played = Played()
    shouted = Name.from_text("WEB.Default.SVC.cluster.local.")
    played.keep(EXT, entry(EXT, alias(EXT, shouted), qtype=CNAME), CNAME)
    played.settle(alias(EXT, WEB))
    assert played.has(EXT, CNAME)


def test_one_that_is_needed_again_before_it_is_over_goes_on() -> None:
    """Asking for what the server still has would cost the connection."""
    played = Played()
    played.keep(WEB, entry(WEB, rcode=3))
    wires = played.subscriptions.requests(10)
    played.cache.flush()
    played.subscriptions.sweep()
    played.keep(WEB, entry(WEB, rcode=3))
    assert played.ask()[:2] == ([], [])
    for wire in wires:
        assert played.subscriptions.answered(dso.read_dso(wire).message_id, 0)
    assert len(played.subscriptions) == 1
    played.tell(new=[addresses(WEB, "10.0.0.1")])
    assert not played.has(WEB)


def test_answers_to_nothing_are_noticed() -> None:
    assert not Played().subscriptions.answered(77, 0)
