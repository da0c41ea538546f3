"""The store: any order of events gives the same answers, and each event names every owner that it changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, RuleBasedStateMachine

from kdns.answer.authority import ZoneSet
from tests.support.builders import endpoints, kind_of, namespace, objects, ready, service, unready
from zones.change import Change
from zones.cluster import ClusterZone
from zones.external import ExternalZone
from zones.imports import Imports
from zones.multicluster import MulticlusterZone
from zones.names import Name
from zones.objects import (
    Endpoint,
    EndpointSlice,
    ExposedService,
    Gateway,
    ImportedSlice,
    Ingress,
    Kind,
    Listener,
    Namespace,
    Object,
    ObjectKey,
    Parent,
    Pod,
    Port,
    Route,
    Service,
    ServiceImport,
    Targets,
    ZonedEndpoint,
)
from zones.pods import PodMode
from zones.records import A, AAAA, ANY, PTR, SRV
from zones.reverse import IN_ADDR_ARPA, IP6_ARPA, reverse_key, reverse_name, ReverseZone
from zones.store import Store
from zones.zone import Found, Outcome, Serial

ORIGIN = Name.from_text("cluster.local.")
CLUSTERSET = Name.from_text("clusterset.local.")
EXTERNAL = (Name.from_text("ext."), Name.from_text("sub.ext."))
TYPES = (A, AAAA, SRV, PTR, 5, 15, ANY)

names = st.sampled_from([b"web", b"db"])
namespaces = st.sampled_from([b"default", b"shop"])
ipv4 = st.sampled_from([bytes((10, 0, 0, number)) for number in range(1, 5)])
ipv6 = st.sampled_from([bytes(15) + bytes((number,)) for number in range(1, 3)])
ports = st.lists(
    st.builds(
        Port, st.sampled_from([b"", b"http", b"dns"]), st.sampled_from([b"tcp", b"udp"]), st.sampled_from([53, 80])
    ),
    max_size=2,
    unique=True,
).map(tuple)
hostnames = st.sampled_from([b"", b"", b"h0", b"h1"])

services = st.one_of(
    st.builds(Service, namespaces, names, cluster_ips=st.lists(ipv4, max_size=1, unique=True).map(tuple), ports=ports),
    st.builds(Service, namespaces, names, ports=ports, is_headless=st.just(True), publish_not_ready=st.booleans()),
    st.builds(Service, namespaces, names, external_name=st.just(Name.from_text("web.default.svc.cluster.local."))),
)
slices = st.builds(
    EndpointSlice,
    namespaces,
    st.sampled_from([b"s1", b"s2"]),
    names,
    st.one_of(
        st.lists(st.builds(Endpoint, ipv4, hostnames, st.booleans()), max_size=3).map(tuple),
        st.lists(st.builds(Endpoint, ipv6, hostnames, st.booleans()), max_size=2).map(tuple),
        # more than are scanned, so that the table of labels is used
        st.lists(
            st.builds(Endpoint, st.integers(1, 40).map(lambda n: bytes((10, 0, 1, n))), hostnames, st.booleans()),
            min_size=17,
            max_size=20,
        ).map(tuple),
    ),
    ports,
)
zoned_slices = st.builds(
    EndpointSlice,
    namespaces,
    st.sampled_from([b"s1", b"s2"]),
    names,
    st.lists(
        st.builds(ZonedEndpoint, ipv4, hostnames, st.booleans(), st.sampled_from([b"", b"z1", b"z2"])), max_size=3
    ).map(tuple),
    ports,
)
imports = st.builds(
    ServiceImport, namespaces, names, st.lists(ipv4, max_size=1, unique=True).map(tuple), ports, st.booleans()
)
imported_slices = st.builds(
    ImportedSlice,
    namespaces,
    st.sampled_from([b"s1", b"s2"]),
    names,
    st.lists(st.builds(Endpoint, ipv4, hostnames, st.booleans()), max_size=3).map(tuple),
    ports,
    st.sampled_from([(b"c1",), (b"c2", b"reg"), (b"tcp",)]),
)
pods = st.builds(Pod, namespaces, st.sampled_from([b"p1", b"p2"]), st.lists(ipv4, max_size=2, unique=True).map(tuple))
targets = st.builds(
    Targets,
    st.lists(ipv4, max_size=1).map(tuple),
    st.lists(st.just(Name.from_text("lb.example.")), max_size=1).map(tuple),
)
created = st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"])
exposed = st.builds(
    ExposedService,
    namespaces,
    names,
    cluster_ips=st.lists(ipv4, max_size=1).map(tuple),
    ports=ports,
    outside=targets.filter(bool),
    created=created,
)
claimed = st.sampled_from(
    [
        Name.from_text(text)
        for text in ("a.ext.", "b.a.ext.", "*.a.ext.", "*.ext.", "web.shop.ext.", "x.sub.ext.", "*.sub.ext.", "no.")
    ]
)
some_claimed = st.lists(claimed, max_size=2, unique=True).map(tuple)
ingresses = st.builds(Ingress, namespaces, names, created, some_claimed, targets)
gateways = st.builds(
    Gateway,
    namespaces,
    names,
    created,
    st.lists(st.builds(Listener, st.sampled_from([b"l1", b"l2"]), st.none() | claimed, st.just(80)), max_size=2).map(
        tuple
    ),
    targets,
)
parents = st.builds(
    Parent, st.builds(ObjectKey, namespaces, names), st.sampled_from([b"", b"l1"]), st.sampled_from([0, 80, 81])
)
routes = st.builds(
    Route,
    st.sampled_from([Kind.HTTP_ROUTE, Kind.GRPC_ROUTE]),
    namespaces,
    names,
    created,
    some_claimed,
    st.lists(parents, max_size=2).map(tuple),
)
things = st.one_of(
    st.builds(Namespace, namespaces),
    services,
    slices,
    slices,
    zoned_slices,
    pods,
    imports,
    imported_slices,
    exposed,
    ingresses,
    gateways,
    routes,
)
events = st.one_of(things, things, things.map(lambda thing: (kind_of(thing), thing.key)))
Event = Object | tuple[Kind, ObjectKey]


class View:
    """The zones over a store, and everything that can be asked of them."""

    def __init__(
        self, *, ignore_empty_service: bool, pods: PodMode = PodMode.VERIFIED, store: Store | None = None
    ) -> None:
        self.store = store or Store(
            ignore_empty_service=ignore_empty_service,
            imports=Imports(ignore_empty=ignore_empty_service),
            external_zones=EXTERNAL,
        )
        outside, imports = self.store.outside, self.store.imports
        assert outside is not None
        assert imports is not None
        zone = ClusterZone(ORIGIN, self.store, serial=Serial(1), pods=pods, is_zonal=True)
        self.zones = ZoneSet(
            [
                zone,
                *(ReverseZone(origin, self.store, apex=zone.apex, ttl=5) for origin in (IN_ADDR_ARPA, IP6_ARPA)),
                MulticlusterZone(CLUSTERSET, self.store, imports, serial=Serial(1)),
                *(ExternalZone(origin, self.store, outside, serial=Serial(1)) for origin in EXTERNAL),
            ]
        )

    def apply(self, event: Event) -> Change:
        return self.store.delete(*event) if isinstance(event, tuple) else self.store.put(event)

    def outcome(self, name: Name, rrtype: int) -> object:
        return comparable(self.lookup(name, rrtype))

    def lookup(self, name: Name, rrtype: int) -> Outcome:
        zone = self.zones.closest(name)
        assert zone is not None
        return zone.lookup(name, rrtype)

    def everything(self) -> dict[tuple[Name, int], Outcome]:
        return {(name, rrtype): self.lookup(name, rrtype) for name in EVERY for rrtype in TYPES}


def comparable(outcome: Outcome) -> object:
    if isinstance(outcome, Found):
        return ("found", outcome.rrset.rtype, outcome.rrset.ttl, frozenset(outcome.rrset.rdatas))
    return (type(outcome).__name__, getattr(outcome, "rrset", None) and outcome.rrset.rdatas)  # type: ignore[union-attr]


def every_name() -> Iterable[Name]:
    """Every name that any of the generated objects can have, and some that none has."""
    below = [
        b"",
        b"h0",
        b"h1",
        b"no",
        b"10-0-0-1",
        b"10-0-0-2",
        b"10-0-0-3",
        b"10-0-0-4",
        b"10-0-1-7",
        b"--1",
        b"--2",
        b"_tcp",
        b"_udp",
        b"tcp",
        b"udp",
    ]
    odd = [[b"http", b"tcp"], [b"_http", b"tcp"], [b"dns", b"_udp"]]  # as CoreDNS takes them too
    pairs = odd + [[b"_" + port, b"_" + proto] for port in (b"http", b"dns", b"no") for proto in (b"tcp", b"udp")]
    for origin in EXTERNAL:
        yield from (
            origin.prefixed(*labels) for labels in ([b"a"], [b"b", b"a"], [b"c", b"a"], [b"d", b"c", b"a"], [b"*"])
        )
        yield from (
            origin.prefixed(*labels) for labels in ([b"x"], [b"default"], [b"shop"], [b"no"], [b"dns"], [b"y", b"no"])
        )
        for svc in (b"web", b"db"):
            base = origin.prefixed(svc, b"shop")
            yield from (base, base.prefixed(b"_tcp"), base.prefixed(b"_http", b"_tcp"), base.prefixed(b"z"))
    zonal = [[b"pin", b"_zone"], *([z, how, b"_zone"] for z in (b"z1", b"no") for how in (b"pin", b"prefer", b"x"))]
    clusters = ([b"c1"], [b"c2", b"reg"], [b"tcp"])
    remote = [[label, *cluster] for label in (b"h0", b"10-0-0-1", b"10-0-0-2", b"http") for cluster in clusters]
    for ns in (b"default", b"shop"):
        yield CLUSTERSET.prefixed(ns, b"svc")
        yield ORIGIN.prefixed(ns, b"svc")
        yield ORIGIN.prefixed(ns, b"pod")
        for number in range(1, 5):
            yield ORIGIN.prefixed(b"10-0-0-%d" % number, ns, b"pod")
        for svc in (b"web", b"db"):
            base = ORIGIN.prefixed(svc, ns, b"svc")
            yield from (base.prefixed(label) if label else base for label in below)
            yield from (base.prefixed(*labels) for labels in pairs)
            yield from (base.prefixed(*labels) for labels in zonal)
            yield base.prefixed(b"_zone")
            base = CLUSTERSET.prefixed(svc, ns, b"svc")
            yield from (base.prefixed(label) if label else base for label in below)
            yield from (base.prefixed(*labels) for labels in (*pairs, *remote))
            yield from (base.prefixed(label) for label in (b"c1", b"c2", b"reg"))
    for address in [
        *(bytes((10, 0, 0, n)) for n in range(1, 5)),
        bytes((10, 0, 1, 7)),
        bytes(15) + b"\1",
        bytes(15) + b"\2",
    ]:
        yield reverse_name(address)


EVERY = tuple(every_name())


def keys_of(change: Change) -> set[bytes]:
    return (
        {relative + ORIGIN.key for relative in change.forward}
        | set(map(reverse_key, change.addresses))
        | {relative + CLUSTERSET.key for relative in change.imported}
        | change.outside
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=14), st.booleans(), st.sampled_from([PodMode.VERIFIED, PodMode.INSECURE]))
def test_every_event_names_what_it_changes(some: list[Event], ignore_empty: bool, pods: PodMode) -> None:
    view = View(ignore_empty_service=ignore_empty, pods=pods)
    before = view.everything()
    for event in some:
        changed = keys_of(view.apply(event))
        after = view.everything()
        for (name, rrtype), outcome in before.items():
            if comparable(outcome) != comparable(after[name, rrtype]):
                # Whoever stored the outcome is told: by its own name, or by one that it says it read.
                assert outcome.reads is None or {name.key, *outcome.reads} & changed, (name, rrtype)
        before = after


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(events, st.booleans()), max_size=14), st.booleans())
def test_while_a_list_is_loaded_everything_may_have_changed(some: list[tuple[Event, bool]], ignore_empty: bool) -> None:
    view, other = View(ignore_empty_service=ignore_empty), View(ignore_empty_service=ignore_empty)
    for event, is_loading in some:
        view.store.is_loading = is_loading
        change, told = view.apply(event), other.apply(event)
        if told:
            assert change.is_everything or keys_of(change) >= keys_of(told), event
        if not is_loading:
            assert change == told
    assert view.everything() == other.everything()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(17, 40)), min_size=1, max_size=10), st.randoms())
def test_large_slices_are_followed_endpoint_by_endpoint(some: list[tuple[int, int]], random: Any) -> None:
    """They have tables of their own, of which an event takes just what changes."""
    view = View(ignore_empty_service=False)
    view.apply(Namespace(b"default"))
    view.apply(Service(b"default", b"db", is_headless=True, publish_not_ready=random.random() < 0.3))
    final: dict[int, EndpointSlice] = {}
    known = [Endpoint(bytes((10, 0, 0, number)), is_ready=number % 5 != 0) for number in range(60)]
    for number, size in some:
        now = list(final[number].endpoints) if number in final else random.sample(known, size)
        for _ in range(random.randrange(4)):
            now[random.randrange(len(now))] = random.choice([*known, Endpoint(known[3].address, b"named")])
        final[number] = EndpointSlice(b"default", b"db-%d" % number, b"db", tuple(now))
        before = {name: view.outcome(name, rrtype) for name, rrtype in LARGE}
        changed = keys_of(view.apply(final[number]))
        fresh = View(ignore_empty_service=False)
        for thing in (Namespace(b"default"), view.store.service(b"default", b"db"), *final.values()):
            assert thing is not None
            fresh.apply(thing)
        for name, rrtype in LARGE:
            assert view.outcome(name, rrtype) == fresh.outcome(name, rrtype), name
            assert view.outcome(name, rrtype) == before[name] or name.key in changed, name
        if random.random() < 0.2:
            view.apply((Kind.ENDPOINT_SLICE, final.pop(number).key))
    for number in range(60):
        address = bytes((10, 0, 0, number))
        held = sorted(piece.name for piece in view.store._addresses.slices(address))
        assert held == sorted(p.name for p in final.values() if any(e.address == address for e in p.endpoints))


LARGE = [(Name.from_text("db.default.svc.cluster.local."), A)] + [
    item
    for number in range(60)
    for item in (
        (Name.from_text(f"10-0-0-{number}.db.default.svc.cluster.local."), A),
        (reverse_name(bytes((10, 0, 0, number))), PTR),
    )
]


@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=14), st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_events_does_not_count(some: list[Event], random: object, ignore_empty: bool) -> None:
    view = View(ignore_empty_service=ignore_empty)
    final: dict[tuple[Kind, ObjectKey], Object] = {}
    for event in some:
        view.apply(event)
        if isinstance(event, tuple):
            final.pop(event, None)
        else:
            final[kind_of(event), event.key] = event
    left = list(final.values())
    random.shuffle(left)  # type: ignore[attr-defined]
    fresh = View(ignore_empty_service=ignore_empty)
    for thing in left:
        fresh.apply(thing)
    for name in EVERY:
        for rrtype in TYPES:
            assert view.outcome(name, rrtype) == fresh.outcome(name, rrtype), (name, rrtype)
    assert [list(zone.walk()) for zone in view.zones.zones] == [list(zone.walk()) for zone in fresh.zones.zones]


@settings(max_examples=40, deadline=None)
@given(st.lists(things, max_size=12))
def test_nothing_exists_below_what_does_not(some: list[Object]) -> None:
    """RFC 8020, over every name."""
    view = View(ignore_empty_service=False)
    for thing in some:
        view.store.put(thing)
    missing = {name for name in EVERY if view.outcome(name, A) == ("NxDomain", None)}
    for name in EVERY:
        if any(name != other and name.is_under(other) for other in missing):
            assert name in missing


@settings(max_examples=40, deadline=None)
@given(st.lists(things, max_size=12))
def test_the_walk_is_what_lookups_find(some: list[Object]) -> None:
    view = View(ignore_empty_service=False)
    for thing in some:
        view.store.put(thing)
    for zone in view.zones.zones:
        rrsets = list(zone.walk())
        assert rrsets[0].rtype == 6
        seen = {(rrset.owner, rrset.rtype) for rrset in rrsets}
        assert len(seen) == len(rrsets)
        for rrset in rrsets:
            outcome = view.lookup(rrset.owner, rrset.rtype)  # a delegation: of the zone that begins there
            assert set(outcome.rrset.rdatas) == set(rrset.rdatas)  # type: ignore[union-attr]
        for name in EVERY:
            for rrtype in (A, AAAA, SRV, PTR):
                outcome = view.lookup(name, rrtype)
                # What reads another name is a spelling that is answered and that no zone lists: http.tcp.web…
                if zone is view.zones.closest(name) and isinstance(outcome, Found) and not outcome.reads:
                    assert (name, rrtype) in seen


class SortedAddresses(RuleBasedStateMachine):
    """The order of addresses, once built, is kept right by every later event."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(external_zones=EXTERNAL)

    @rule(event=events)
    def apply(self, event: Event) -> None:
        if isinstance(event, tuple):
            self.store.delete(*event)
        else:
            self.store.put(event)

    @invariant()
    def is_in_order(self) -> None:
        kept = list(self.store.addresses())
        self.store._addresses._sorted = None
        assert kept == list(self.store.addresses())


TestSortedAddresses = SortedAddresses.TestCase
TestSortedAddresses.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


def filled(*some: Object) -> Store:
    store = Store()
    for thing in objects(*some):
        store.put(thing)
    return store


def test_hostnames_are_not_mixed_up_with_addresses() -> None:
    """100.97.98.99 in octets reads ``dabc``."""
    many = [ready(f"10.0.0.{number}") for number in range(20)]
    store = filled(
        service("db", headless=True), endpoints("db", *many, ready("100.97.98.99"), ready("10.9.9.9", "dabc"))
    )
    db = store.service(b"default", b"db")
    assert db is not None
    assert [e.address for e in store.endpoints_labelled(db, b"dabc")] == [bytes((10, 9, 9, 9))]
    assert [e.address for e in store.endpoints_labelled(db, b"100-97-98-99")] == [bytes((100, 97, 98, 99))]


def test_an_endpoint_that_is_not_ready_changes_nothing() -> None:
    store = filled(service("db", headless=True), endpoints("db", ready("10.0.0.1")))
    assert not store.put(endpoints("db", ready("10.0.0.1"), unready("10.0.0.2")))


def test_one_endpoint_of_many_changes_its_own_names_alone() -> None:
    some = [ready(f"10.0.0.{number}") for number in range(100)]
    store = filled(service("db", headless=True), endpoints("db", *some, port=["pg:5432"]))
    change = store.put(endpoints("db", *some[:-1], ready("10.0.0.200"), port=["pg:5432"]))
    base = b"\x02db\x07default\x03svc"
    assert change.forward == {
        base,
        b"\x04_tcp" + base,
        b"\x03_pg\x04_tcp" + base,
        b"\x0910-0-0-99" + base,
        b"\x0a10-0-0-200" + base,
    }
    assert change.addresses == {bytes((10, 0, 0, 99)), bytes((10, 0, 0, 200))}


def test_endpoints_of_a_cluster_ip_service_do_not_change_its_own_name() -> None:
    store = filled(service("web", "10.96.0.1"), endpoints("web", ready("10.0.0.1")))
    change = store.put(endpoints("web", ready("10.0.0.2")))
    assert b"\x03web\x07default\x03svc" not in change.forward
    assert len(change.forward) == 2


def test_the_order_inside_a_slice_does_not_count() -> None:
    one, two = ready("10.0.0.1"), ready("10.0.0.2")
    store = filled(service("db", headless=True), endpoints("db", one, two))
    assert not store.put(endpoints("db", two, one))


def test_the_same_object_again_changes_nothing() -> None:
    store = filled(service("web", "10.96.0.1"))
    assert not store.put(service("web", "10.96.0.1"))
    assert not store.put(namespace())
    assert not store.delete(Kind.SERVICE, ObjectKey(b"default", b"other"))


@settings(max_examples=40, deadline=None)
@given(st.lists(events, max_size=10), st.lists(events, max_size=10))
def test_a_copy_is_what_there_was(before: list[Event], after: list[Event]) -> None:
    view = View(ignore_empty_service=False)
    for event in before:
        view.apply(event)
    walked = [list(zone.walk()) for zone in view.zones.zones]
    copy = View(ignore_empty_service=False, store=view.store.copy())
    for event in after:
        view.apply(event)
    assert [list(zone.walk()) for zone in copy.zones.zones] == walked
