"""The steps of a search path, and the choice among their outcomes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zones.names import Name
from zones.search import (
    decide,
    explicit_walk,
    Failed,
    Lost,
    NDOTS,
    Outcome,
    transparent_walk,
    types_of,
    Walk,
    Won,
)

Z = Name.from_text("cluster.local")
D, N, X, F = Outcome.DATA, Outcome.NODATA, Outcome.NXDOMAIN, Outcome.FAILED


def walk(text: str, *, one_label: bool = False) -> Walk | None:
    return transparent_walk(Name.from_text(text), (Z,), one_label=one_label)


@pytest.mark.parametrize(
    ("name", "prefix", "namespace"),
    [
        ("example.com.team.svc.cluster.local", "example.com", b"team"),
        ("WWW.Example.com.Team.SVC.cluster.LOCAL", "WWW.Example.com", b"team"),
        ("a.b.c.d.e.team.svc.cluster.local", "a.b.c.d.e", b"team"),
        ("_sip._tcp.example.com.team.svc.cluster.local", "_sip._tcp.example.com", b"team"),
        ("web.svc.svc.svc.cluster.local", "web.svc", b"svc"),
    ],
)
def test_first_steps(name: str, prefix: str, namespace: bytes) -> None:
    found = walk(name)
    assert found is not None
    assert b".".join(found.prefix).decode() == prefix, "as spelled"
    assert (found.namespace, found.zone, found.is_explicit) == (namespace, Z, False)


@pytest.mark.parametrize(
    "name",
    [
        "web.team.svc.cluster.local",
        "team.svc.cluster.local",
        "svc.cluster.local",
        "example.com.cluster.local",
        "example.com.team.pod.cluster.local",
        "example.com.team.svc.cluster.example",
        "_http._tcp.web.team.svc.cluster.local",
        "a.b.c.d.e.f.team.svc.cluster.local",
        "example.com",
    ],
)
def test_what_is_no_first_step(name: str) -> None:
    assert walk(name) is None


def test_one_label_where_the_client_is_known() -> None:
    found = walk("web.team.svc.cluster.local", one_label=True)
    assert found is not None
    assert found.prefix == (b"web",)
    assert walk("team.svc.cluster.local", one_label=True) is None


def test_steps_are_the_clients_in_its_order() -> None:
    found = walk("example.com.team.svc.cluster.local")
    assert found is not None
    assert [name.to_text() for name in found.inside] == [
        "example.com.team.svc.cluster.local.",
        "example.com.svc.cluster.local.",
        "example.com.cluster.local.",
    ]
    domains = [Name.from_text("corp.test"), Name.from_text("test")]
    assert [name.to_text() for name in found.outside(domains)] == [
        "example.com.corp.test.",
        "example.com.test.",
        "example.com.",
    ]
    assert found.question == Name.from_text("example.com.search.team.cluster.local.ap.k8s.io")


def test_explicit_form() -> None:
    found = explicit_walk(Name.from_text("web.search.team.cluster.local.ap.k8s.io"), (Z,))
    assert found is not None
    assert (found.prefix, found.namespace, found.is_explicit) == ((b"web",), b"team", True)
    for name in (
        "search.team.cluster.local.ap.k8s.io",
        "web.find.team.cluster.local.ap.k8s.io",
        "web.search.team.cluster.example.ap.k8s.io",
        "web.search.team.cluster.local.ap.k8s.example",
        "ap.k8s.io",
    ):
        assert explicit_walk(Name.from_text(name), (Z,)) is None


def test_the_two_forms_are_each_others() -> None:
    first = walk("example.com.team.svc.cluster.local")
    assert first is not None
    assert first.question is not None
    second = explicit_walk(first.question, (Z,))
    assert second is not None
    assert second.inside == first.inside


def test_what_is_too_long_is_left_out() -> None:
    label = "a" * 60
    found = walk(f"{label}.{label}.{label}.team.svc.cluster.local")
    assert found is not None
    assert len(found.inside) == 3
    long = Name.from_text(".".join(["d" * 20] * 3))
    assert len(found.outside([long])) == 2
    longer = walk(f"{label}.{label}.{label}.{'b' * 35}.team.svc.cluster.local")
    assert longer is not None
    assert longer.question is None


def test_the_longest_zone_that_fits_counts() -> None:
    other = Name.from_text("clusterset.local")
    found = transparent_walk(Name.from_text("example.com.team.svc.clusterset.local"), (Z, other))
    assert found is not None
    assert found.zone == other


@pytest.mark.parametrize(
    ("outcomes", "end"),
    [
        ([], Lost(False)),
        ([X, X, X], Lost(False)),
        ([X, N, X], Lost(True)),
        ([N, D], Won(1)),
        ([X, D, D], Won(1)),
        ([X, F, D], Failed(1)),
        ([D, F], Won(0)),
        ([D, None], Won(0)),
        ([None, D], None),
        ([X, None, F], None),
    ],
)
def test_choice(outcomes: list[Outcome | None], end: object) -> None:
    assert decide(outcomes) == end


@given(st.lists(st.sampled_from([D, N, X, F, None]), max_size=6))
def test_what_is_decided_stays_decided(outcomes: list[Outcome | None]) -> None:
    """Whatever the missing outcomes turn out to be, a decision made without them is the same."""
    end = decide(outcomes)
    if end is None:
        return
    gaps = [at for at, outcome in enumerate(outcomes) if outcome is None]
    for filled in itertools.islice(itertools.product([D, N, X, F], repeat=len(gaps)), 64):
        whole = list(outcomes)
        for at, outcome in zip(gaps, filled, strict=True):
            whole[at] = outcome
        assert decide(whole) == end


def test_address_types_decide_together() -> None:
    assert set(types_of(1)) == set(types_of(28)) == {1, 28}
    assert types_of(28)[0] == 28
    assert types_of(16) == (16,)
    assert NDOTS == 5
