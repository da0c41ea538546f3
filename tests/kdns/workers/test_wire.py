"""What controller and workers say to each other comes out as it went in, however it is cut up on the way."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdns.control.framing import encode, LENGTH_OCTETS, MAX_MESSAGE_OCTETS, Messages
from kdns.workers.merged import Merged
from kdns.workers.relay import Relay
from kdns.workers.wire import Asked, Completed, Deleted, Family, Moved, Order, read_order, read_telling, Sample, Told
from zones.fields import share
from zones.names import Name
from zones.objects import (
    Endpoint,
    EndpointSlice,
    ExposedService,
    Gateway,
    ImportedSlice,
    Ingress,
    Kind,
    kind_of,
    Listener,
    Namespace,
    Object,
    ObjectKey,
    Parent,
    Pod,
    Port,
    Route,
    SearchPath,
    Service,
    ServiceImport,
    Targets,
    ZonedEndpoint,
)

HTTP = (Port(b"http", b"tcp", 80),)
TARGETS = Targets((b"\x0a\0\0\1",), (Name.from_text("lb.Example.com"),))
OBJECTS: tuple[Object, ...] = (
    Namespace(b"a"),
    Service(b"a", b"web", (b"\x0a\0\0\1",), HTTP, publish_not_ready=True),
    Service(b"a", b"alias", external_name=Name.from_text("Far.Example.com")),
    ExposedService(b"a", b"web", (b"\x0a\0\0\1",), HTTP, outside=TARGETS, created="2026-01-01T00:00:00Z"),
    EndpointSlice(b"a", b"db-1", b"db", (Endpoint(b"\x0a\0\0\1", b"db-0", is_ready=False), Endpoint(bytes(16))), HTTP),
    EndpointSlice(b"a", b"db-1", b"db", (ZonedEndpoint(b"\x0a\0\0\1", topology_zone=b"west"),)),
    ImportedSlice(b"a", b"db-1", b"db", (Endpoint(b"\x0a\0\0\1"),), HTTP, (b"one", b"registry")),
    Pod(b"a", b"pod", (b"\x0a\0\0\1",), SearchPath.OWN),
    ServiceImport(b"a", b"db", (b"\x0a\0\0\1",), HTTP, is_headless=True),
    Ingress(b"a", b"i", "2026-01-01T00:00:00Z", (Name.from_text("*.example.com"),), TARGETS),
    Gateway(b"a", b"g", "", (Listener(b"l", None, 80), Listener(b"m", Name.from_text("x.example"), 443)), TARGETS),
    Route(Kind.TLS_ROUTE, b"a", b"r", "", (Name.from_text("x.example"),), (Parent(ObjectKey(b"a", b"g"), b"l", 80),)),
)
ORDERS: tuple[Order, ...] = (
    *OBJECTS,
    Deleted(Kind.POD, ObjectKey(b"a", b"pod")),
    Completed(Kind.SERVICE),
    Moved({"cluster.local.": 4_000_000_000}),
    Asked(3),
)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_an_order_comes_out_as_it_went_in(order: Order) -> None:
    found = read_order(encode(order)[LENGTH_OCTETS:])
    assert type(found) is type(order)
    assert repr(found) == repr(order)  # equality passes over the class of an endpoint, and the spelling of a name
    if isinstance(order, EndpointSlice) and isinstance(found, EndpointSlice):
        assert [type(endpoint) for endpoint in found.endpoints] == [type(endpoint) for endpoint in order.endpoints]


def test_every_kind_of_object_is_tried() -> None:
    assert {kind_of(new) for new in OBJECTS} | {Kind.HTTP_ROUTE, Kind.GRPC_ROUTE} == set(Kind)


@given(st.lists(st.integers(1, 60), max_size=40))
def test_messages_are_found_however_the_stream_is_cut(cuts: list[int]) -> None:
    stream = b"".join(map(encode, ORDERS))
    messages, found, at = Messages(), [], 0
    for cut in (*cuts, len(stream)):
        found += [read_order(body) for body in messages.take(stream[at : at + cut])]
        at += cut
    assert list(map(repr, found)) == list(map(repr, ORDERS))


def test_what_cannot_be_a_message_is_refused() -> None:
    with pytest.raises(ValueError, match="octets"):
        list(Messages().take((MAX_MESSAGE_OCTETS + 1).to_bytes(4, "big")))
    with pytest.raises(msgspec.MsgspecError):
        read_telling(encode(Namespace(b"a"))[LENGTH_OCTETS:])


def test_ports_are_one_object_for_all() -> None:
    one, other = (read_order(encode(OBJECTS[1])[LENGTH_OCTETS:]) for _ in range(2))
    assert isinstance(one, Service)
    assert isinstance(other, Service)
    assert one.ports is not other.ports
    first, second = share(one), share(other)
    assert isinstance(first, Service)
    assert isinstance(second, Service)
    assert first.ports is second.ports == HTTP


# -- the relay ------------------------------------------------------------------------------------------------------


class Notes:
    """Notes what a relay tells."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self._messages = Messages()

    def __call__(self, octets: bytes) -> None:
        self.orders += [read_order(body) for body in self._messages.take(octets)]

    def take(self) -> list[Order]:
        orders, self.orders = self.orders, []
        return orders


def test_a_relay_tells_what_is_new_and_nothing_twice() -> None:
    told = Notes()
    synced: list[bool] = []
    relay = Relay({Kind.SERVICE, Kind.ENDPOINT_SLICE}, tell=told, on_synced=lambda: synced.append(True))
    web, slice_ = OBJECTS[1], OBJECTS[4]
    relay.apply([web, slice_])
    assert told.take() == [web, slice_]
    relay.apply([web, slice_])
    assert told.take() == []
    relay.complete(Kind.SERVICE)
    assert (told.take(), synced) == ([Completed(Kind.SERVICE)], [])
    assert relay.service(b"a", b"web") == web
    assert relay.service(b"a", b"nobody") is None
    assert relay.keys(Kind.ENDPOINT_SLICE) == [ObjectKey(b"a", b"db-1")]

    late = Notes()
    late(b"".join(relay.everything()))
    assert late.take() == [web, Completed(Kind.SERVICE), slice_]

    relay.keep_only(Kind.ENDPOINT_SLICE, set())
    relay.complete(Kind.ENDPOINT_SLICE)
    assert told.take() == [
        Deleted(Kind.ENDPOINT_SLICE, ObjectKey(b"a", b"db-1")),
        Completed(Kind.ENDPOINT_SLICE),
    ]
    assert synced == [True]
    relay.apply((), [(Kind.ENDPOINT_SLICE, ObjectKey(b"a", b"db-1"))])
    assert told.take() == []


# -- metrics of several ---------------------------------------------------------------------------------------------


def families(count: float, gauge: float) -> tuple[Family, ...]:
    counter = Family("queries", "Queries.", "counter", (Sample("queries_total", (("zone", "a"),), count),))
    return counter, Family("open", "Open.", "gauge", (Sample("open", (), gauge),))


def values(merged: Merged) -> dict[str, float]:
    return {sample.name: sample.value for metric in merged.collect() for sample in metric.samples}


def test_metrics_are_added_up_and_counts_outlive_their_worker() -> None:
    merged = Merged()
    merged.take(0, families(5, 1))
    merged.take(1, families(7, 2))
    assert values(merged) == {"queries_total": 12, "open": 3}
    merged.take(0, families(6, 1))
    assert values(merged) == {"queries_total": 13, "open": 3}
    merged.end(0)
    assert values(merged) == {"queries_total": 13, "open": 2}
    merged.take(0, families(1, 4))
    assert values(merged) == {"queries_total": 14, "open": 6}


def test_what_a_worker_tells_comes_out_as_it_went_in() -> None:
    told = Told(1, True, False, ("cluster.local.",), ("a trouble",), 1.5, 10, families(1, 2), ((b"n", 1.0),), ())
    assert read_telling(encode(told)[LENGTH_OCTETS:]) == told


@pytest.mark.parametrize(
    "family",
    [
        Family("queries", "Queries.", "summary", ()),
        Family("no name", "Queries.", "counter", ()),
        Family("queries", "Queries.", "counter", (Sample("other_total", (), 1),)),
        Family("queries", "Queries.", "counter", (Sample("queries_total", (), 1),) * 100_001),
    ],
    ids=["type", "name", "sample", "many"],
)
def test_what_is_no_metric_does_not_reach_the_page(family: Family) -> None:
    merged = Merged()
    with pytest.raises(ValueError, match=r"metric|number"):
        merged.take(0, (family,))
    assert values(merged) == {}
