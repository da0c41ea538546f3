"""Finished answers: renewed all over the second, counted as used, dropped when nobody asks."""

from __future__ import annotations

from collections.abc import Callable

from kdns.proto.label import Label
from kdns.proto.labels import Labels
from kdns.proto.message import make_question
from kdns.proto.query import Transport
from kdns.proto.reading import read_query
from kdns.proto.table import Entry
from nodelocal.finished import FinishedAnswers, Made, TURNS
from tests.support.scenario import Scenario, scenario
from zones.names import Name


def _label() -> Label:
    wire = make_question(b"\0\0", Name.from_text("name.example.com"), 1, edns=False)
    return Labels().of(".", read_query(wire, Transport.UDP), 0)


_LABEL = _label()


def _stored(
    used: Callable[[Entry], bool], renew: Callable[[], Made | None], *, count: int
) -> tuple[FinishedAnswers, list[bytes]]:
    finished = FinishedAnswers(used)
    keys = [b"key %d" % number for number in range(count)]
    for key in keys:
        for _ in range(2):  # the first asking is only noted
            finished.store(Transport.UDP, key, ((b"\0\0 made",), _LABEL), renew)
    return finished, keys


def test_what_was_stored_together_is_renewed_all_over_the_second() -> None:
    turns: list[int] = []

    def renew() -> Made:
        turns[-1] += 1
        return (b"\0\0 anew",), _LABEL

    finished, keys = _stored(lambda entry: True, renew, count=10 * TURNS)
    for _ in range(3 * TURNS):
        turns.append(0)
        finished.turn()
    assert set(turns) == {len(keys) // TURNS}
    table = finished.tables[Transport.UDP]
    for key in keys:
        entry = table.find(key)
        assert entry is not None
        assert entry.next() == b"\0\0 anew"


def test_what_nobody_asks_for_stays_a_second() -> None:
    finished, keys = _stored(lambda entry: False, lambda: None, count=3 * TURNS)
    table = finished.tables[Transport.UDP]
    for _ in range(TURNS - 1):
        finished.turn()
    assert all(map(table.find, keys))
    finished.turn()
    assert not any(map(table.find, keys))
    assert table.octets == 0


def test_what_is_no_longer_good_or_of_another_size_is_dropped() -> None:
    longer = ((b"\0\0 longer than before",), _LABEL)
    for renew in (lambda: None, lambda: longer):
        finished, keys = _stored(lambda entry: True, renew, count=TURNS)
        for _ in range(TURNS):
            finished.turn()
        assert not any(map(finished.tables[Transport.UDP].find, keys))


def test_what_is_forgotten_is_not_renewed() -> None:
    renewed: list[int] = []
    finished, keys = _stored(lambda entry: True, lambda: renewed.append(1), count=TURNS)
    finished.forget()
    for _ in range(2 * TURNS):
        finished.turn()
    assert not renewed
    assert not any(map(finished.tables[Transport.UDP].find, keys))


@scenario()
async def test_one_that_is_asked_for_all_the_time_says_what_is_left_and_is_renewed_before_it_ends(s: Scenario) -> None:
    name = "often.example.com"
    s.ask(name)
    s.expect(name).reply(f"{name}. 30 IN A 192.0.2.1")
    for passed in range(1, 118):
        await s.advance(0.25)
        left = 30 - passed / 4
        assert left - 1 <= s.ask(name).ttl <= left + 1.1
        if s.pending:
            break
    assert 27 <= passed / 4 <= 29.5  # asked again beside, in the last tenth of its TTL
