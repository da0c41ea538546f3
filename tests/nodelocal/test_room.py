"""What goes when room is needed, and that the queue stays in proportion."""

from __future__ import annotations

from nodelocal.entry import Entry
from nodelocal.room import MAX_CHANCES, Room, SPARE_PLACES


def entry(octets: int = 100, *, is_denial: bool = False) -> Entry:
    return Entry(0, is_denial, False, 1, 0, b"", (), 30, octets=octets)


def room_of(count: int) -> tuple[Room, dict[bytes, Entry]]:
    """Return a room for *count* entries, all of them there, and its index."""
    index: dict[bytes, Entry] = {}
    room = Room(100 * count, index, of_denials=False)
    for number in range(count):
        room.store(b"%d" % number, entry())
    return room, index


def test_what_is_asked_for_stays_beside_a_flood() -> None:
    room, index = room_of(10)
    for number in range(1000):
        index[b"3"].is_used |= number % 4 == 0
        room.store(b"flood%d" % number, entry())
        assert b"3" in index
    assert (room.count, room.octets, room.evictions) == (10, 1000, 1000)


def test_it_has_to_be_asked_for_again() -> None:
    room, index = room_of(3)
    index[b"0"].is_used = True
    room.store(b"a", entry())
    assert set(index) == {b"0", b"2", b"a"}
    room.store(b"b", entry())
    assert set(index) == {b"0", b"a", b"b"}
    room.store(b"c", entry())
    assert set(index) == {b"a", b"b", b"c"}


def test_where_all_were_asked_for_one_goes_all_the_same() -> None:
    room, index = room_of(5 * MAX_CHANCES)
    for one in index.values():
        one.is_used = True
    room.store(b"new", entry())
    assert b"%d" % MAX_CHANCES not in index
    assert sum(not one.is_used for one in index.values()) == MAX_CHANCES + 1


def test_a_large_one_takes_the_room_of_several_and_too_large_a_one_none() -> None:
    room, index = room_of(4)
    room.store(b"large", entry(250))
    assert set(index) == {b"3", b"large"}
    room.store(b"huge", entry(401))
    assert set(index) == {b"3", b"large"}
    room.replace(b"large", index[b"large"], entry(401))
    assert (set(index), room.octets, room.count) == ({b"3"}, 100, 1)


def test_one_that_is_renewed_keeps_its_place_in_the_queue_once() -> None:
    room, index = room_of(3)
    for _ in range(10 * SPARE_PLACES):
        room.replace(b"1", index[b"1"], entry())
    assert len(room._queue) == 3
    room.replace(b"1", index[b"1"], entry(200))
    assert (set(index), room.octets) == ({b"1", b"2"}, 300)


def test_what_comes_and_goes_leaves_no_places_behind() -> None:
    room, index = room_of(3)
    for _ in range(10 * SPARE_PLACES):
        room.forget(b"1")
        room.store(b"1", entry())
        assert len(room._queue) <= 2 * room.count + SPARE_PLACES
    for number in range(10 * SPARE_PLACES):
        room.store(b"flood%d" % number, entry())
    assert (room.count, room.octets, len(index)) == (3, 300, 3)


def test_a_key_of_the_other_room_is_not_touched() -> None:
    room, index = room_of(2)
    denials = Room(1000, index, of_denials=True)
    room.forget(b"0")
    denials.store(b"0", entry(is_denial=True))
    for number in range(5):
        room.store(b"flood%d" % number, entry())
    assert index[b"0"].is_denial
    assert (room.count, denials.count, room.octets, denials.octets) == (2, 1, 200, 100)
