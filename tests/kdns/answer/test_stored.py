"""Whatever happens, a stored answer is the one that would be made anew: over every zone, both transports, all options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dns.message
import pytest
from hypothesis import given, Phase, settings
from hypothesis import strategies as st

from kdns import config
from kdns.answer.authority import Ask
from kdns.cluster import Cluster
from kdns.proto.query import Transport
from kdns.proto.reading import read_query
from tests.support.cases import question
from tests.zones.test_store import Event, events, EVERY

TYPES = ("A", "SRV", "ANY")
ALWAYS = [
    "cluster.local. NS", "cluster.local. SOA", "ext. NS", "ext. SOA", "ns1.dns.ext. A", "alias.corp. A", "srv.corp. SRV", "old.corp. A",
    "web.search.default.cluster.local.ap.k8s.io. A", "web.shop.search.default.cluster.local.ap.k8s.io. AAAA",
    "web.search.default.clusterset.local.ap.k8s.io. A", "1.0.0.10.in-addr.arpa. PTR", "0.0.10.in-addr.arpa. PTR",
]  # fmt: skip

FLAGS = {
    "clusterset-zone": ["clusterset.local"],
    "external-zone": ["ext", "sub.ext"],
    "zonal": True,
    "pods": "verified",
    "listen": ["10.0.0.1:53"],
    "admin": ["127.0.0.1:0"],
    "push": "tcp",
    "transfer-to": ["127.0.0.0/8"],
    "manifests": [str(Path(__file__).parent)],  # which holds none
    "record": [
        "alias.corp CNAME web.shop.ext",
        "srv.corp SRV 0 0 1 x.a.ext",
        "x.web.default.svc.cluster.local TXT here",
    ],
    "rewrite": ["old.corp=db.shop.svc.cluster.local", "web.default.svc.cluster.local=db.default.svc.cluster.local"],
}


def asked(cluster: Cluster, wire: bytes, transport: Transport) -> list[str]:
    """The stored answer, where there is one, as the listeners find it."""
    entry = cluster.responder.tables[transport].find(wire[2:])
    if entry is not None:
        return normal(entry.next())
    found = cluster.responder.respond(wire, transport)
    assert isinstance(found, tuple)
    assert found[0] is not None
    return normal(found[0])


def anew(cluster: Cluster, wire: bytes, transport: Transport) -> list[str]:
    answer = cluster.authority.answer(read_query(wire, transport))
    assert not isinstance(answer, Ask)
    return normal(answer.tails[0])


def normal(tail: bytes) -> list[str]:
    """The response without order, and without what of a SOA may lag (DESIGN: the SOA of a stored denial)."""
    message = dns.message.from_wire(b"\0\0" + tail)
    lines = [
        f"{line}"
        for section in (message.answer, message.additional)
        for rrset in section
        for line in rrset.to_text().splitlines()
    ]
    lines += [f"denied by {rrset.name}" for rrset in message.authority]
    return [str(message.rcode()), *sorted(line.lower() for line in lines)]


@pytest.mark.parametrize(
    "options", [{}, {"ignore-empty-service": True}, {"rewrite": [], "record": []}], ids=["all", "ignore-empty", "plain"]
)
@settings(max_examples=4, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(some=st.lists(events, min_size=4, max_size=14), random=st.randoms(use_true_random=False))
def test_a_stored_answer_is_what_would_be_answered(
    options: dict[str, object], some: Sequence[Event], random: object
) -> None:
    cluster = Cluster(config.load({**FLAGS, **options}, None))
    cluster.load()
    cluster.authority.unsynced.clear()
    names = random.sample(EVERY, 40)  # type: ignore[attr-defined]
    wires = [question(f"{name.to_text()} {rrtype}") for name in names for rrtype in TYPES] + [
        question(ask) for ask in ALWAYS
    ]
    now = 2e9
    for event in some:
        for wire in wires:
            for transport in Transport:
                for _ in range(3):
                    asked(cluster, wire, transport)
        cluster.sink.apply(*(((), [event]) if isinstance(event, tuple) else ([event],)))
        now += 1
        cluster.moved([group for group in cluster.zones.groups if group.serial.advance(now)])
        cluster.tick()
        for wire in wires:
            for transport in Transport:
                assert asked(cluster, wire, transport) == anew(cluster, wire, transport), (wire, transport, event)
