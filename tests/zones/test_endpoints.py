"""Endpoints read from a slice that changes are those that it says, whatever was read before."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zones import endpoints as module
from zones.endpoints import EndpointReader
from zones.errors import BadObject
from zones.objects import Endpoint, EndpointSlice, ObjectKey
from zones.shapes import EndpointJson
from zones.slices import difference

KEY = ObjectKey(b"default", b"web-1")


def said(number: int, **more: Any) -> dict[str, Any]:
    return {"addresses": [f"10.0.{number >> 8}.{number & 255}"], "conditions": {"ready": True}, **more}


def texts(some: list[dict[str, Any]]) -> list[msgspec.Raw]:
    whole = json.dumps(some, separators=(",", ":")).encode()
    return msgspec.json.decode(whole, type=list[msgspec.Raw])


def again(reader: EndpointReader, some: list[Any], octets: int, key: ObjectKey) -> tuple[Endpoint, ...]:
    return reader.read_again(key, texts(some), octets, len(json.dumps(some)))


def read(some: list[dict[str, Any]], octets: int = 4, **options: bool) -> tuple[Endpoint, ...]:
    return tuple(EndpointReader(**options).read(msgspec.convert(some, list[EndpointJson]), octets))


changes = st.lists(
    st.tuples(
        st.sampled_from(["replace", "remove", "append", "insert", "unready", "name", "shuffle", "nothing"]),
        st.integers(0, 60),
        st.integers(0, 600),
    ),
    max_size=12,
)


@given(st.lists(changes, min_size=1, max_size=6))
def test_every_version_is_what_it_says(versions: list[list[tuple[str, int, int]]]) -> None:
    reader = EndpointReader()
    some = [said(number) for number in range(40)]
    old: tuple[Endpoint, ...] = ()
    for steps in [[], *versions]:
        for what, at, number in steps:
            at = min(at, len(some) - 1)
            if what == "replace" and some:
                some[at] = said(number)
            elif what == "remove" and some:
                del some[at]
            elif what == "append":
                some.append(said(number))
            elif what == "insert":
                some.insert(max(at, 0), said(number))
            elif what == "unready" and some:
                some[at] = {**some[at], "conditions": {"ready": False}}
            elif what == "name" and some:
                some[at] = {**some[at], "hostname": f"h{number}", "nodeName": "n"}
            elif what == "shuffle":
                some = some[at:] + some[:at]
        new = again(reader, some, 4, KEY)
        assert new == read(some)
        gone, come = difference(_slice(old), _slice(new))
        assert {*old} - {*new} <= {*gone} <= {*old}
        assert {*new} - {*old} <= {*come} <= {*new}
        assert {*gone} ^ {*come} >= {*old} ^ {*new}
        old = new


def _slice(some: tuple[Endpoint, ...]) -> EndpointSlice:
    return EndpointSlice(b"default", b"web-1", b"web", some)


def test_what_is_as_before_is_the_same_object() -> None:
    reader = EndpointReader()
    some = [said(number) for number in range(100)]
    first = again(reader, some, 4, KEY)
    del some[30]
    some.append(said(900))
    second = again(reader, some, 4, KEY)
    assert all(one is other for one, other in zip([*first[:30], *first[31:]], second[:-1], strict=True))
    assert [*map(list, difference(_slice(first), _slice(second)))] == [[first[30]], [second[-1]]]


def test_many_endpoints_in_a_row_may_be_gone() -> None:
    reader = EndpointReader()
    some = [said(number) for number in range(100)]
    first = again(reader, some, 4, KEY)
    del some[10:20]
    second = again(reader, some, 4, KEY)
    assert all(one is other for one, other in zip([*first[:10], *first[20:]], second, strict=True))


def test_options_are_those_of_the_reader() -> None:
    some = [
        said(1, hostname="a", zone="Z1"),
        said(2, targetRef={"kind": "Pod", "name": "pod-2"}),
        said(3, targetRef={"kind": "Pod", "name": "no.label"}),
    ]
    for options in ({}, {"pod_names": True}, {"topology_zones": True}):
        reader = EndpointReader(**options)
        for _ in range(2):
            assert again(reader, some, 4, KEY) == read(some, **options)


def test_another_family_is_read_anew() -> None:
    reader = EndpointReader()
    some = [said(1), said(2)]
    again(reader, some, 4, KEY)
    with pytest.raises(
        BadObject, match=r"endpoints\[0\]\.addresses\[0\]: found '10\.0\.0\.1', expected an IPv6 address"
    ):
        again(reader, some, 16, KEY)
    assert again(reader, some, 4, KEY) == read(some)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (said(5, hostname="No"), r"endpoints\[3\]\.hostname: found 'No', expected a DNS label"),
        ({"addresses": ["x"]}, r"endpoints\[3\]\.addresses\[0\]: found 'x', expected an IP address"),
        ({"addresses": [1]}, r"endpoints\[3\]\.addresses\[0\]: found a whole number, expected a string"),
        ({"conditions": []}, r"endpoints\[3\]\.conditions: found a list, expected an object"),
        (None, r"endpoints\[3\]: found a null, expected an object"),
    ],
)
def test_a_bad_one_is_named_by_its_place(bad: Any, message: str) -> None:
    reader = EndpointReader()
    some: list[Any] = [said(number) for number in range(6)]
    with pytest.raises(BadObject, match=message):
        again(reader, [*some[:3], bad, *some[3:]], 4, KEY)
    again(reader, some, 4, KEY)
    with pytest.raises(BadObject, match=message):
        again(reader, [*some[:3], bad, *some[4:]], 4, KEY)
    assert again(reader, some, 4, KEY) == read(some)


def test_endpoints_of_two_addresses_and_of_none_do_not_make_up_for_each_other() -> None:
    reader = EndpointReader()
    some: list[dict[str, Any]] = [{"addresses": ["10.0.0.1", "10.0.0.2"]}, {"addresses": []}, said(3)]
    again(reader, some, 4, KEY)
    for left in (some[1:], [{}, said(3)], some[2:]):
        assert again(reader, left, 4, KEY) == read(left)


def test_an_endpoint_of_several_addresses_or_none_is_read() -> None:
    reader = EndpointReader()
    some = [said(1), {"addresses": ["10.0.0.2", "10.0.0.3"]}, {"addresses": []}, said(4)]
    for _ in range(2):
        assert again(reader, some, 4, KEY) == read(some)


def test_what_is_kept_is_bounded_and_rounds_longer_than_it_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    some = [said(number) for number in range(10)]
    octets = len(json.dumps(some))
    monkeypatch.setattr(module, "MAX_OCTETS", 5 * octets + 1)
    monkeypatch.setattr(module, "IDLE_TURNS", 20)
    reader = EndpointReader()

    def turn(names: range) -> int:
        """Return how many of the slices *names* were known when they came again."""
        known = 0
        for name in names:
            key = ObjectKey(b"default", b"s%d" % name)
            before = reader._known.get(key)
            made = again(reader, some, 4, key)
            known += before is not None and before.made[0] is made[0]
            assert (
                sum(entry.event_octets for entry in reader._known.values())
                == reader._octets
                == len(reader._known) * octets
            )
            assert len(reader._known) <= 5
        return known

    assert turn(range(8)) == 0
    assert turn(range(8)) == 5  # as many as there is room for, though all eight came between
    assert turn(range(8)) == 5
    for _ in range(6):
        turn(range(100, 105))
    assert turn(range(100, 105)) == 5  # what nobody changes any more has given up its place


def test_slices_without_endpoints_take_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OCTETS", 20_000)
    monkeypatch.setattr(module, "IDLE_TURNS", 0)
    reader = EndpointReader()
    for number in range(100):
        reader.read_again(ObjectKey(b"default", b"s%d" % number), [], 4, 5000)
        assert len(reader._known) <= 4
    reader.read_again(KEY, [], 4, 30_000)  # has no room at all
    assert KEY not in reader._known
