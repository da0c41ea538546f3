"""The answer table: exact, bounded, and of use under a flood."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, RuleBasedStateMachine

from kdns.proto.table import AnswerTable


def ask(table: AnswerTable, key: bytes, *, owners: tuple[bytes, ...] = (b"o",), tail: bytes = b"xx" * 25) -> bool:
    """Do what a listener does; tell whether the hot path had it."""
    if table.find(key) is not None:
        return True
    if table.find_again(key) is None and table.wants(key):
        table.store(key, (tail,), owners)
    return False


def test_the_third_asking_is_on_the_hot_path() -> None:
    table = AnswerTable()
    assert [ask(table, b"k") for _ in range(4)] == [False, False, True, True]


def test_a_full_table_wants_a_third_asking() -> None:
    table = AnswerTable(max_octets=20_000)
    for number in range(100):
        for _ in range(2):
            ask(table, b"%d" % number)
    assert [ask(table, b"k") for _ in range(4)] == [False, False, False, True]


def test_forgetting_is_exact() -> None:
    table = AnswerTable()
    for key, owners in ((b"a", (b"1",)), (b"b", (b"1", b"2")), (b"c", (b"2",))):
        for _ in range(4):
            ask(table, key, owners=owners)
    assert table.forget(b"2") == 2
    assert table.find(b"a") is not None
    assert table.find(b"b") is None
    assert table.find(b"c") is None
    assert table.forget(b"2") == 0
    assert table.forget(b"nobody") == 0
    assert len(table) == 1


def test_what_is_on_probation_is_forgotten_too() -> None:
    table = AnswerTable(max_octets=20_000)
    for number in range(100):
        for _ in range(2):
            ask(table, b"%d" % number)
    ask(table, b"a")
    ask(table, b"a")
    table.forget(b"o")
    assert table.find_again(b"a") is None


def test_a_flood_does_not_push_out_what_is_asked_for() -> None:
    table = AnswerTable(max_octets=200_000)
    hot = [b"hot%d" % number for number in range(50)]
    for _ in range(4):
        for key in hot:
            ask(table, key)
    misses = 0
    for number in range(50_000):
        key = b"once%d" % number
        ask(table, key)
        ask(table, key)  # even twice each
        misses += not ask(table, hot[number % 50])
    assert misses < 500  # of 50,000
    assert table.octets <= 200_000


def test_it_is_bounded_when_everything_is_hot() -> None:
    table = AnswerTable(max_octets=200_000)
    for number in range(5_000):
        for _ in range(4):
            ask(table, b"key%d" % number, owners=(b"o%d" % number,))
    assert table.octets <= 200_000
    assert table.evictions
    assert len(table._by_owner) == len(table)


def test_names_asked_for_in_turn_are_all_kept() -> None:
    table = AnswerTable()
    for _ in range(3):
        for number in range(40_000):
            ask(table, b"%d" % number)
    kept = sum(table.find(b"%d" % number) is not None for number in range(40_000))
    assert kept > 36_000


def test_a_huge_answer_does_not_displace_many() -> None:
    table = AnswerTable(max_octets=200_000)
    for _ in range(4):
        ask(table, b"small")
    for _ in range(6):
        ask(table, b"huge", tail=b"x" * 40_000)
    assert table.find(b"small") is not None
    assert table.find(b"huge") is None
    ask(table, b"enormous", tail=b"x" * 400_000)
    ask(table, b"enormous", tail=b"x" * 400_000)
    assert table.octets <= 200_000


def test_rotation() -> None:
    table = AnswerTable()
    table.store(b"k", (b"1a", b"2a", b"3a"), (b"o",))
    entry = table.find(b"k")
    assert entry is not None
    assert [entry.next() for _ in range(5)] == [b"1a", b"2a", b"3a", b"1a", b"2a"]


class Bookkeeping(RuleBasedStateMachine):
    """Whatever is done, the octets counted are those of the entries, and each owner leads to living entries."""

    keys = st.integers(0, 20).map(lambda number: b"k%d" % number)
    owners = st.lists(st.sampled_from([b"o1", b"o2", b"o3"]), max_size=3).map(tuple)

    def __init__(self) -> None:
        super().__init__()
        self.table = AnswerTable(max_octets=8_000)

    @rule(key=keys, owners=owners, size=st.integers(1, 900))
    def ask(self, key: bytes, owners: tuple[bytes, ...], size: int) -> None:
        ask(self.table, key, owners=owners, tail=b"x" * size)

    @rule(key=keys, owners=owners)
    def store(self, key: bytes, owners: tuple[bytes, ...]) -> None:
        self.table.store(key, (b"x",), owners)

    @rule(owner=st.sampled_from([b"o1", b"o2", b"o3"]))
    def forget(self, owner: bytes) -> None:
        self.table.forget(owner)
        assert owner not in self.table._by_owner

    @rule()
    def clear(self) -> None:
        self.table.clear()

    @invariant()
    def adds_up(self) -> None:
        table = self.table
        assert not table._kept.keys() & table._probation.keys()
        assert table._kept_octets == sum(entry.octets for entry in table._kept.values())
        assert table._probation_octets == sum(entry.octets for entry in table._probation.values())
        assert table.octets <= 8_000
        living = {*table._kept.values(), *table._probation.values()}
        led_to = [some if isinstance(some, set) else {some} for some in table._by_owner.values()]
        assert all(some and some <= living for some in led_to)
        assert set().union(*led_to) == {entry for entry in living if entry.owners}


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
