"""The zone of names that ask for a whole search path: what it says is what the steps say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zones.cluster import ClusterZone
from zones.explicit import ExplicitZone
from zones.imports import Imports
from zones.multicluster import MulticlusterZone
from zones.names import Name
from zones.objects import Endpoint, EndpointSlice, Namespace, Port, Service, ServiceImport
from zones.records import A, AAAA, CNAME, SOA, SRV, TXT
from zones.search import explicit_walk
from zones.store import Store
from zones.zone import Alias, Found, NoData, NxDomain, Outcome, Serial

Z = Name.from_text("cluster.local")
HTTP = Port(b"http", b"tcp", 80)


def address(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def make() -> tuple[Store, ExplicitZone]:
    store = Store()
    for name in (b"team", b"other", b"com"):
        store.put(Namespace(name))
    store.put(Service(b"team", b"web", (address("10.96.0.1"),), (HTTP,)))
    store.put(Service(b"other", b"api", (address("10.96.0.2"),), (HTTP,)))
    store.put(Service(b"team", b"db", is_headless=True))
    store.put(EndpointSlice(b"team", b"db-1", b"db", (Endpoint(address("10.1.0.1"), b"db-0"),)))
    store.put(Service(b"team", b"six", (bytes(15) + b"\1",)))
    store.put(Service(b"team", b"ext", external_name=Name.from_text("www.example.com")))
    store.put(Service(b"team", b"inner", external_name=Name.from_text("gone.team.svc.cluster.local")))
    store.put(Service(b"com", b"google", (address("10.96.0.66"),)))
    cluster = ClusterZone(Z, store, serial=Serial(1))
    return store, ExplicitZone(cluster, store, ttl=5)


def look(zone: ExplicitZone, prefix: str, qtype: int = A, namespace: str = "team") -> Outcome:
    return zone.lookup(Name.from_text(f"{prefix}.search.{namespace}.cluster.local.ap.k8s.io"), qtype)


@pytest.mark.parametrize(
    ("prefix", "qtype", "target"),
    [
        ("web", A, "web.team.svc.cluster.local."),
        ("web", AAAA, "web.team.svc.cluster.local."),  # decided together: AAAA of it is NODATA
        ("six", A, "six.team.svc.cluster.local."),
        ("api.other", A, "api.other.svc.cluster.local."),
        ("api.other.svc", A, "api.other.svc.cluster.local."),
        ("db-0.db", A, "db-0.db.team.svc.cluster.local."),
        ("_http._tcp.web", SRV, "_http._tcp.web.team.svc.cluster.local."),
        ("ext", A, "ext.team.svc.cluster.local."),
        ("dns-version", TXT, "dns-version.cluster.local."),
        ("google.com", A, "google.com.svc.cluster.local."),
        ("WEB", A, "WEB.team.svc.cluster.local."),
    ],
)
def test_an_alias_to_the_first_step_that_has_something(prefix: str, qtype: int, target: str) -> None:
    _, zone = make()
    outcome = look(zone, prefix, qtype)
    assert isinstance(outcome, Alias)
    assert outcome.target.to_text() == target
    assert outcome.rrset.rtype == CNAME


@pytest.mark.parametrize(
    ("prefix", "qtype", "kind", "is_literal"),
    [
        ("www.example.com", A, NxDomain, False),
        ("nothing", A, NxDomain, False),
        ("web", TXT, NoData, False),
        ("db-9.db", A, NxDomain, True),  # below a Service
        ("inner", A, NxDomain, False),  # its target in the zone does not exist
    ],
)
def test_denials(prefix: str, qtype: int, kind: type, is_literal: bool) -> None:
    _, zone = make()
    outcome = look(zone, prefix, qtype)
    assert isinstance(outcome, kind)
    assert isinstance(outcome, NoData | NxDomain)
    assert outcome.is_literal is is_literal


def test_a_namespace_that_does_not_exist_walks_no_path() -> None:
    _, zone = make()
    outcome = look(zone, "www.example", namespace="nowhere")
    assert isinstance(outcome, NxDomain)
    assert outcome.is_literal


def test_the_names_above() -> None:
    _, zone = make()
    for text, kind in (
        ("search.team.cluster.local.ap.k8s.io", NoData),
        ("team.cluster.local.ap.k8s.io", NoData),
        ("search.nowhere.cluster.local.ap.k8s.io", NxDomain),
        ("find.team.cluster.local.ap.k8s.io", NxDomain),
    ):
        assert isinstance(zone.lookup(Name.from_text(text), A), kind), text
    apex = Name.from_text("cluster.local.ap.k8s.io")
    assert isinstance(zone.lookup(apex, SOA), Found)
    assert isinstance(zone.lookup(apex, A), NoData)
    assert [rrset.owner for rrset in zone.walk()] == [apex, apex]


PREFIXES = ("web", "db", "db-0.db", "db-9.db", "api.other", "google.com", "a.b", "ext", "new")
EVENTS = [
    Namespace(b"late"),
    Service(b"team", b"new", (address("10.96.0.9"),)),
    Service(b"team", b"com", (address("10.96.0.10"),)),
    Service(b"late", b"a", (address("10.96.0.11"),)),
    Service(b"team", b"b", (address("10.96.0.12"),)),
    EndpointSlice(b"team", b"db-2", b"db", (Endpoint(address("10.1.0.9"), b"db-9"),)),
    Service(b"team", b"gone", (address("10.96.0.13"),)),
]


@given(st.permutations(EVENTS))
def test_an_outcome_says_whose_changes_could_change_it(events: list[object]) -> None:
    """Where an event changes an outcome, the outcome had named one of the names that the event names."""
    store, zone = make()
    questions = [(prefix, qtype, ns) for prefix in PREFIXES for qtype in (A, TXT) for ns in ("team", "late")]
    before = {question: look(zone, *question) for question in questions}
    for event in events:
        change = store.put(event)  # type: ignore[arg-type]
        named = {relative + Z.key for relative in change.forward}
        for question, old in before.items():
            new = look(zone, *question)
            if _shape(new) != _shape(old):
                assert old.reads is None or named & set(old.reads), (question, event)
            before[question] = new


def _shape(outcome: Outcome) -> object:
    if isinstance(outcome, Alias):
        return outcome.target
    return type(outcome), getattr(outcome, "is_literal", None)


def test_the_steps_come_from_the_one_algorithm() -> None:
    name = Name.from_text("web.search.team.cluster.local.ap.k8s.io")
    walk = explicit_walk(name, (Z,))
    assert walk is not None
    _, zone = make()
    outcome = zone.lookup(name, A)
    assert isinstance(outcome, Alias)
    assert outcome.target in walk.inside


def test_the_clusterset_has_one_too() -> None:
    imports = Imports()
    store = Store(imports=imports)
    clusterset = Name.from_text("clusterset.local")
    zone = ExplicitZone(MulticlusterZone(clusterset, store, imports, serial=Serial(1)), store, ttl=5)
    for thing in (Namespace(b"team"), ServiceImport(b"team", b"web", (address("10.112.0.1"),), (HTTP,))):
        store.put(thing)
    outcome = zone.lookup(Name.from_text("web.search.team.clusterset.local.ap.k8s.io"), A)
    assert isinstance(outcome, Alias)
    assert outcome.target.to_text() == "web.team.svc.clusterset.local."
    below = zone.lookup(Name.from_text("sub.web.search.team.clusterset.local.ap.k8s.io"), A)
    assert isinstance(below, NxDomain)
    assert below.is_literal
