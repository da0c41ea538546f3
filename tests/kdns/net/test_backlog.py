"""The queue for each client: who asks much displaces its own queries alone."""

from __future__ import annotations

from kdns.net.backlog import Backlog


def put(backlog: Backlog[int], client: bytes, query: int) -> bool:
    if not backlog.has_room(client):
        return False
    backlog.put(client, query)
    return True


def drain(backlog: Backlog[int]) -> list[tuple[bytes, int]]:
    taken = []
    while (one := backlog.take()) is not None:
        taken.append(one)
    return taken


def test_clients_take_turns() -> None:
    backlog: Backlog[int] = Backlog()
    for number in range(4):
        put(backlog, b"a", number)
    put(backlog, b"b", 10)
    put(backlog, b"c", 20)
    assert drain(backlog) == [(b"a", 0), (b"b", 10), (b"c", 20), (b"a", 1), (b"a", 2), (b"a", 3)]
    assert not len(backlog)


def test_one_client_has_so_much_room_and_no_more() -> None:
    backlog: Backlog[int] = Backlog(room=100, room_a_client=3)
    assert [put(backlog, b"a", number) for number in range(5)] == [True, True, True, False, False]
    assert put(backlog, b"b", 1)
    assert backlog.dropped == 2


def test_where_there_is_no_room_the_longest_queue_makes_some() -> None:
    backlog: Backlog[int] = Backlog(room=6, room_a_client=5)
    for number in range(5):
        put(backlog, b"a", number)
    put(backlog, b"b", 10)
    assert put(backlog, b"c", 20), "the oldest of a's goes"
    assert put(backlog, b"b", 11)
    assert not put(backlog, b"a", 5), "not for a itself"
    assert backlog.dropped == 3
    assert len(backlog) == 6
    assert drain(backlog) == [(b"a", 2), (b"b", 10), (b"c", 20), (b"a", 3), (b"b", 11), (b"a", 4)]


def test_many_clients_of_one_query_each_hold_bounded_memory() -> None:
    backlog: Backlog[int] = Backlog(room=50)
    accepted = [put(backlog, number.to_bytes(4, "big"), number) for number in range(500)]
    assert sum(accepted) == 50
    assert len(drain(backlog)) == 50


def test_what_is_on_its_way_is_bounded_by_client() -> None:
    backlog: Backlog[int] = Backlog()
    backlog.max_on_their_way = 2
    for number in range(4):
        put(backlog, b"slow", number)
    put(backlog, b"good", 10)
    for _ in range(2):
        taken = backlog.take()
        assert taken is not None
        if taken[0] == b"slow":
            backlog.begins(b"slow")
    backlog.begins(b"slow")
    assert backlog.take() is None
    assert backlog.is_stuck
    assert put(backlog, b"good", 11)
    assert backlog.take() == (b"good", 11)
    assert not bool(backlog.is_stuck)  # which the queries above have changed
    backlog.ends(b"slow")
    assert backlog.take() == (b"slow", 1)
    backlog.ends(b"slow")
    assert drain(backlog) == [(b"slow", 2), (b"slow", 3)]
