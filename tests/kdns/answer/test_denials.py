"""A denial from what is noted of its parent is, octet for octet, the one that a lookup would give, whatever changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, Phase, settings
from hypothesis import strategies as st

from kdns import config
from kdns.answer import denials as module
from kdns.answer.authority import Answer
from kdns.cluster import Cluster
from kdns.errors import WireError
from kdns.proto.labels import MAX_LABELS
from kdns.proto.query import NXDOMAIN, Transport
from kdns.proto.reading import read_query
from kdns.proto.table import Sort
from tests.support.cases import question
from tests.support.kube import namespace, service
from tests.zones.test_store import Event, events, EVERY
from zones.decode import Decoder
from zones.objects import Kind

FLAGS = {
    "listen": ["10.0.0.1:53"],
    "admin": ["127.0.0.1:0"],
    "manifests": [str(Path(__file__).parent)],  # which holds none
}
PARENTS = (
    "cluster.local", "svc.cluster.local", "default.svc.cluster.local", "shop.svc.cluster.local", "none.svc.cluster.local",
    "search.cluster.local", "web.default.svc.cluster.local", "pod.cluster.local", "10.in-addr.arpa", "cluster.local.ap.k8s.io",
)  # fmt: skip
LABELS = (
    "a",
    "nx",
    "Nx-1",
    "svc",
    "SVC",
    "pod",
    "dns",
    "ns",
    "default",
    "shop",
    "web",
    "db",
    "search",
    "_tcp",
    "x" * 63,
    r"\000",
    r"\255",
)


def cluster_of(**options: Any) -> Cluster:
    cluster = Cluster(config.load({**FLAGS, **options}, None))
    cluster.load()
    cluster.authority.unsynced.clear()
    return cluster


def put(cluster: Cluster, kind: Kind, thing: dict[str, Any]) -> None:
    made = Decoder().convert(kind, thing)
    assert made is not None
    cluster.sink.apply([made])


def looked_up(cluster: Cluster, wire: bytes) -> Answer:
    found = cluster.authority.answer(read_query(wire, Transport.UDP))
    assert isinstance(found, Answer)
    return found


def responded(cluster: Cluster, wire: bytes) -> tuple[bytes | None, object]:
    found = cluster.responder.respond(wire, Transport.UDP)
    assert isinstance(found, tuple)
    tail, by = found
    return tail, by.label if isinstance(by, Sort) else by


def checked(cluster: Cluster, wires: Sequence[bytes]) -> int:
    """Ask everything; return how many were denied from notes."""
    count = 0
    for wire in wires:
        cluster.responder.respond(wire, Transport.UDP)
        try:
            expected = looked_up(cluster, wire)
        except WireError:
            assert cluster.responder.denials.of(wire) is None
            continue
        found = cluster.responder.denials.of(wire)
        if found is not None:
            tail, sort = found
            assert (tail, sort.label) == (expected.tails[0], expected.label)
            assert (sort.request, sort.response, sort.is_truncated) == (len(wire), len(tail) + 2, False)
            assert tail[1] & 15 == NXDOMAIN
            count += 1
    return count


@pytest.mark.parametrize("options", [{}, {"zonal": True, "pods": "verified"}, {"ignore-empty-service": True}], ids=str)
@settings(max_examples=6, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(some=st.lists(events, min_size=4, max_size=14))
def test_it_is_what_a_lookup_gives(options: dict[str, object], some: Sequence[Event]) -> None:
    cluster = cluster_of(**options)
    names = [f"{label}.{parent}" for parent in PARENTS for label in LABELS] + [name.to_text() for name in EVERY[::7]]
    wires = [question(f"{name} {rrtype}") for name in names for rrtype in ("A", "HTTPS")]
    denied = checked(cluster, wires)
    for event in some:
        if isinstance(event, tuple):
            cluster.sink.apply((), [event])
        else:
            cluster.sink.apply([event])
        denied += checked(cluster, wires)
    assert denied > 100


@pytest.fixture
def cluster() -> Cluster:
    made = cluster_of()
    put(made, Kind.NAMESPACE, namespace())
    put(made, Kind.SERVICE, service("web", "10.96.0.1"))
    return made


def test_siblings_are_denied_without_a_lookup(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (question(f"{label}.default.svc.cluster.local A") for label in ("nx1", "NX2"))
    cluster.responder.respond(first, Transport.UDP)
    expected = looked_up(cluster, second)
    monkeypatch.setattr(cluster.authority, "answer", None)
    assert responded(cluster, second) == (expected.tails[0], expected.label)


def test_an_alias_into_another_zone_says_nothing_of_its_siblings() -> None:
    cluster = cluster_of(zone=["cluster.local", "other.local"])
    put(cluster, Kind.NAMESPACE, namespace())
    put(cluster, Kind.SERVICE, service("ext", "", type="ExternalName", externalName="nx.other.local"))
    names = ("nx1", "ext", "nx2", "ext", "nx3")
    wires = [question(f"{name}.default.svc.cluster.local A") for name in names]
    for wire in wires:
        found = responded(cluster, wire)
        expected = looked_up(cluster, wire)
        assert found == (expected.tails[0], expected.label)
    assert looked_up(cluster, wires[1]).label.zone == "other.local."
    assert looked_up(cluster, wires[2]).label.zone == "cluster.local."


def test_a_parent_spelled_otherwise_is_the_same(cluster: Cluster) -> None:
    """But a type is no letter: 0x41, HTTPS, is another than 0x61."""
    cluster.responder.respond(question("nx1.default.svc.cluster.local HTTPS"), Transport.UDP)
    spelled = question("nx2.DEFAULT.svc.Cluster.local HTTPS")
    found = cluster.responder.denials.of(spelled)
    assert found is not None
    assert (found[0], found[1].label) == (looked_up(cluster, spelled).tails[0], looked_up(cluster, spelled).label)
    other = question("nx2.default.svc.cluster.local TYPE97")
    assert other == question("nx2.default.svc.cluster.local HTTPS")[:-3] + b"\x61\0\1"
    assert cluster.responder.denials.of(other) is None


def test_the_third_asking_finds_what_is_on_probation(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    table = cluster.responder.tables[Transport.UDP]
    monkeypatch.setattr(table, "_max_kept", 8000)
    wires = [question(f"nx{number}.default.svc.cluster.local A") for number in range(40)]
    for wire in (*wires, *wires):
        cluster.responder.respond(wire, Transport.UDP)
    assert table.find(wires[-1][2:]) is None
    cluster.responder.respond(wires[-1], Transport.UDP)
    assert table.find(wires[-1][2:]) is not None


def test_a_name_asked_for_again_becomes_a_finished_answer(cluster: Cluster) -> None:
    first, second = (question(f"{label}.default.svc.cluster.local A") for label in ("nx1", "nx2"))
    for wire in (first, second, second):
        cluster.responder.respond(wire, Transport.UDP)
    table = cluster.responder.tables[Transport.UDP]
    assert table.find(first[2:]) is None
    assert table.find(second[2:]) is not None


def test_what_comes_to_be_is_answered_and_what_goes_is_denied(cluster: Cluster) -> None:
    new, sibling, inside = (
        question(f"{name}.svc.cluster.local A") for name in ("new.default", "other.default", "web.late")
    )
    for wire in (sibling, new, inside, question("x.svc.cluster.local A")):
        cluster.responder.respond(wire, Transport.UDP)
    assert cluster.responder.denials.of(new) is not None
    put(cluster, Kind.SERVICE, service("new", "10.96.0.2"))
    put(cluster, Kind.SERVICE, service("web", "10.96.0.3", namespace="late"))
    put(cluster, Kind.NAMESPACE, namespace("late"))
    for wire in (new, inside):
        found = cluster.responder.respond(wire, Transport.UDP)
        assert isinstance(found, tuple)
        assert found[0] is not None
        assert found[0][1] & 15 == 0
    key = Decoder().convert(Kind.SERVICE, service("new", "10.96.0.2"))
    assert key is not None
    cluster.sink.apply((), [(Kind.SERVICE, key.key)])
    assert checked(cluster, [sibling, new]) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda wire: wire[:2] + b"\x80" + wire[3:],  # a response
        lambda wire: wire[:2] + b"\x28" + wire[3:],  # an update
        lambda wire: wire[:4] + b"\0\2" + wire[6:],  # two questions
        lambda wire: wire[:10] + b"\0\1" + wire[12:],  # an OPT record that is not there
        lambda wire: wire + b"\0",
        lambda wire: wire[:-1],
        lambda wire: wire[:12],
        lambda wire: wire[:16],
        lambda wire: wire[:12] + b"\xc0" + wire[13:],
        lambda wire: wire[:12] + b"\0" + wire[13:],
        lambda wire: wire[:-2] + b"\0\3",  # class CH
        lambda wire: wire[:-4] + b"\0\xfc\0\1",  # AXFR
        lambda wire: b"",
    ],
)
def test_anything_else_is_looked_up(cluster: Cluster, change: Any) -> None:
    wire = question("nx.default.svc.cluster.local A")
    cluster.responder.respond(wire, Transport.UDP)
    assert cluster.responder.denials.of(wire) is not None
    assert cluster.responder.denials.of(change(wire)) is None


def test_a_name_that_is_too_long_is_no_name() -> None:
    origin = ".".join(["o" * 62] * 3)
    cluster = cluster_of(zone=[origin])
    put(cluster, Kind.NAMESPACE, namespace("n" * 30))
    parent = f"{'n' * 30}.svc.{origin}"
    short, long = question(f"x.{parent} A"), question(f"{'x' * 20}.{parent} A")
    cluster.responder.respond(short, Transport.UDP)
    assert cluster.responder.denials.of(short) is not None
    at = 12 + 1 + 20
    too_long = long[:12] + b"\x3f" + b"x" * 63 + long[at:]
    with pytest.raises(WireError):
        read_query(too_long, Transport.UDP)
    assert cluster.responder.denials.of(too_long) is None


@pytest.mark.parametrize(
    "options",
    [
        {"record": ["x.corp A 192.0.2.1"]},
        {"rewrite": ["old.corp=web.default.svc.cluster.local"]},
        {"upstream": ["192.0.2.1"]},
    ],
    ids=str,
)
def test_where_a_denial_needs_more_nothing_is_noted(options: dict[str, object]) -> None:
    cluster = cluster_of(**options)
    put(cluster, Kind.NAMESPACE, namespace())
    cluster.responder.respond(question("nx.default.svc.cluster.local A"), Transport.UDP)
    assert len(cluster.responder.denials) == 0


def test_while_not_all_is_known_nothing_is_noted() -> None:
    cluster = Cluster(config.load(FLAGS, None))
    put(cluster, Kind.NAMESPACE, namespace())
    cluster.responder.respond(question("nx.default.svc.cluster.local A"), Transport.UDP)
    assert len(cluster.responder.denials) == 0


def test_what_is_noted_is_bounded(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NOTES", 3)
    for number in range(10):
        put(cluster, Kind.NAMESPACE, namespace(f"ns{number}"))
    for number in range(10):
        cluster.responder.respond(question(f"x.ns{number}.svc.cluster.local A"), Transport.UDP)
        assert 0 < len(cluster.responder.denials) <= 3
    for number in range(10):  # of parents that do not exist either there is nothing to note
        cluster.responder.respond(question(f"x.random{number}.svc.cluster.local A"), Transport.UDP)
        assert len(cluster.responder.denials) <= 3


def test_labels_made_anew_leave_nothing_behind(cluster: Cluster) -> None:
    """Odd types in a flood make new labels of the usual ones, which are noted again."""
    wire = question("nx.default.svc.cluster.local A")
    other = wire[:2] + b"\4" + wire[3:]  # AA, which no query has: denied in the long way, and noted
    for turn in range(3):
        for qtype in range(MAX_LABELS + 10):
            odd = question("x.default.svc.cluster.local A")
            cluster.responder.respond(odd[:-4] + (1000 + qtype).to_bytes(2, "big") + odd[-2:], Transport.UDP)
        for number, one in enumerate((wire, other)):
            cluster.responder.respond(one[:13] + b"%d%d" % (turn, number) + one[15:], Transport.UDP)
    assert len(cluster.responder.denials) == len(cluster.responder.denials._denials) == 1
