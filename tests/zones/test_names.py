"""Domain names."""

from __future__ import annotations

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zones.errors import BadName, LabelTooLong, NameTooLong
from zones.names import MAX_NAME_OCTETS, Name, ROOT

labels = st.lists(st.binary(min_size=1, max_size=63), max_size=8).filter(
    lambda some: sum(len(label) + 1 for label in some) < MAX_NAME_OCTETS
)


@given(labels)
def test_wire_and_text_round_trip(some: list[bytes]) -> None:
    name = Name(some)
    assert Name.from_wire(name.wire) == name
    assert Name.from_text(name.to_text()).wire == name.wire


@given(labels)
def test_text_is_what_dnspython_reads(some: list[bytes]) -> None:
    name = Name(some)
    assert dns.name.from_text(name.to_text()).to_wire() == name.wire


@given(labels, labels)
def test_comparison_is_dnspythons(one: list[bytes], other: list[bytes]) -> None:
    ours, theirs = (Name(one), Name(other)), (dns.name.Name([*one, b""]), dns.name.Name([*other, b""]))
    assert (ours[0] == ours[1]) is (theirs[0] == theirs[1])
    assert (ours[0] < ours[1]) is (theirs[0] < theirs[1])
    assert ours[0].is_under(ours[1]) is theirs[0].is_subdomain(theirs[1])


def test_only_ascii_letters_fold() -> None:
    assert Name([b"WeB"]) == Name([b"web"])
    assert hash(Name([b"WeB"])) == hash(Name([b"web"]))
    assert Name([b"\xd7eb"]) != Name([b"\xf7eb"])
    assert Name([b"["]) != Name([b"{"])


def test_case_is_kept() -> None:
    assert Name.from_text("Web.Example.").to_text() == "Web.Example."


@pytest.mark.parametrize("text", ["a..b", ".a", "a\\", "a\\999", "ä.example", "\\25x"[:3] + "é"])
def test_bad_text(text: str) -> None:
    with pytest.raises(BadName):
        Name.from_text(text)


def test_limits() -> None:
    Name([b"a" * 63] * 3 + [b"a" * 61])
    with pytest.raises(NameTooLong):
        Name([b"a" * 63] * 3 + [b"a" * 62])
    with pytest.raises(LabelTooLong):
        Name([b"a" * 64])
    with pytest.raises(BadName):
        Name([b""])


@given(st.binary(max_size=300))
def test_any_octets_are_a_name_or_an_error(wire: bytes) -> None:
    try:
        name = Name.from_wire(wire)
    except BadName:
        return
    assert name.wire == wire


def test_ancestors() -> None:
    name = Name.from_text("a.b.c.")
    assert name.parent() == Name.from_text("b.c.")
    assert ROOT.parent() == ROOT
    assert name.is_under(ROOT)
    assert not Name.from_text("xb.c.").is_under(Name.from_text("b.c."))
    assert Name.from_text("c.").prefixed(b"a", b"b") == name
