"""External zones (CONTRACT section 13): Services, Ingresses, Gateways and routes, in a zone that is delegated to us."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.builders import addresses, endpoints, namespace, objects, ports, ready, service, service_import
from tests.support.cases import Case, check, Cluster, Setup, SOA, SOA_IN_ADDR
from zones.names import Name
from zones.objects import ExposedService, Gateway, Ingress, Kind, Listener, ObjectKey, Parent, Route, Targets
from zones.records import CNAME, SRV
from zones.zone import Zone

E = "apps.example."
ESOA = SOA.replace("ns.dns.cluster.local. hostmaster.cluster.local.", f"ns1.dns.{E} hostmaster.dns.{E}").replace(
    "cluster.local.", E
)
SUB = "eu.apps.example."
SUBSOA = ESOA.replace(f"ns1.dns.{E} hostmaster.dns.{E}", f"ns1.dns.{SUB} hostmaster.dns.{SUB}").replace(
    f"{E} 5", f"{SUB} 5", 1
)


def to(*texts: str) -> Targets:
    """Addresses, and names with a last dot."""
    names = tuple(Name.from_text(text) for text in texts if text.endswith("."))
    return Targets(addresses(*(text for text in texts if not text.endswith("."))), names)


def exposed(
    name: str, *targets: str, port: list[str] | None = None, namespace: str = "default", created: str = ""
) -> ExposedService:
    return ExposedService(
        namespace.encode(),
        name.encode(),
        addresses("10.96.0.7"),
        ports(*(port or [])),
        outside=to(*targets),
        created=created,
    )


def ingress(name: str, hosts: list[str], *targets: str, created: str = "", namespace: str = "default") -> Ingress:
    return Ingress(namespace.encode(), name.encode(), created, tuple(map(Name.from_text, hosts)), to(*targets))


def gateway(
    *listeners: tuple[str, str | None, int],
    targets: tuple[str, ...] = ("192.0.2.20",),
    name: str = "gw",
    created: str = "",
) -> Gateway:
    some = tuple(Listener(n.encode(), Name.from_text(host) if host else None, port) for n, host, port in listeners)
    return Gateway(b"default", name.encode(), created, some, to(*targets))


def route(
    name: str, *hosts: str, parent: Parent | None = None, kind: Kind = Kind.HTTP_ROUTE, created: str = ""
) -> Route:
    parents = (parent or Parent(ObjectKey(b"default", b"gw")),)
    return Route(kind, b"default", name.encode(), created, tuple(map(Name.from_text, hosts)), parents)


def section(name: str = "", port: int = 0) -> Parent:
    return Parent(ObjectKey(b"default", b"gw"), name.encode(), port)


services = Setup(
    objects(
        exposed("web", "192.0.2.1", "2001:db8::1", port=["http:80", "dns/udp:53"]),
        exposed("lb", "lb.cloud.example.", port=["http:80"]),
        exposed("both", "192.0.2.2", "lb.cloud.example."),
        service("inner", "10.96.0.8"),
        exposed("hidden", "192.0.2.3", namespace="nowhere"),
        namespace("empty"),
    ),
    external=(E,),
)

SERVICES = [
    Case("SOA", f"{E} SOA", [ESOA], setup=services),
    Case(
        "NS",
        f"{E} NS",
        [f"{E} 5 IN NS ns1.dns.{E}"],
        additional=[f"ns1.dns.{E} 5 IN A 192.0.2.53", f"ns1.dns.{E} 5 IN AAAA 2001:db8::53"],
        setup=services,
    ),
    Case("ns1.dns", f"ns1.dns.{E} A", [f"ns1.dns.{E} 5 IN A 192.0.2.53"], setup=services),
    Case("dns", f"dns.{E} A", authority=[ESOA], setup=services),
    Case("below dns", f"other.dns.{E} A", rcode="NXDOMAIN", authority=[ESOA], setup=services),
    Case(
        "ns1.dns of a Service that this server is an endpoint of",
        f"ns1.dns.{E} A",
        [f"ns1.dns.{E} 5 IN A 192.0.2.9"],
        setup=Setup(objects(exposed("dns", "192.0.2.9"), endpoints("dns", ready("192.0.2.53"))), external=(E,)),
    ),
    Case("A", f"web.default.{E} A", [f"web.default.{E} 5 IN A 192.0.2.1"], setup=services),
    Case("AAAA", f"web.default.{E} AAAA", [f"web.default.{E} 5 IN AAAA 2001:db8::1"], setup=services),
    Case("other family", f"both.default.{E} AAAA", authority=[ESOA], setup=services),
    Case("other type", f"web.default.{E} TXT", authority=[ESOA], setup=services),
    Case("addresses win over names", f"both.default.{E} A", [f"both.default.{E} 5 IN A 192.0.2.2"], setup=services),
    Case("a name", f"lb.default.{E} A", [f"lb.default.{E} 5 IN CNAME lb.cloud.example."], setup=services),
    Case("a name, any type", f"lb.default.{E} TXT", [f"lb.default.{E} 5 IN CNAME lb.cloud.example."], setup=services),
    Case(
        "SRV",
        f"_http._tcp.web.default.{E} SRV",
        [f"_http._tcp.web.default.{E} 5 IN SRV 0 50 80 web.default.{E}"],
        additional=[f"web.default.{E} 5 IN A 192.0.2.1", f"web.default.{E} 5 IN AAAA 2001:db8::1"],
        setup=services,
    ),
    Case(
        "SRV at the bare name",
        f"web.default.{E} SRV",
        [f"web.default.{E} 5 IN SRV 0 25 53 web.default.{E}", f"web.default.{E} 5 IN SRV 0 25 80 web.default.{E}"],
        additional=[f"web.default.{E} 5 IN A 192.0.2.1", f"web.default.{E} 5 IN AAAA 2001:db8::1"],
        setup=services,
    ),
    Case(
        "SRV of one with a name: the target is no alias",
        f"_http._tcp.lb.default.{E} SRV",
        [f"_http._tcp.lb.default.{E} 5 IN SRV 0 100 80 lb.cloud.example."],
        setup=services,
    ),
    Case("a protocol", f"_tcp.web.default.{E} A", authority=[ESOA], setup=services),
    Case("no such port", f"_x._tcp.web.default.{E} SRV", rcode="NXDOMAIN", authority=[ESOA], setup=services),
    Case("no such protocol", f"_sctp.web.default.{E} SRV", rcode="NXDOMAIN", authority=[ESOA], setup=services),
    Case("no address outside", f"inner.default.{E} A", rcode="NXDOMAIN", authority=[ESOA], setup=services),
    Case("namespace", f"default.{E} A", authority=[ESOA], setup=services),
    Case("namespace without any", f"empty.{E} A", authority=[ESOA], setup=services),
    Case("no namespace", f"nowhere.{E} A", rcode="NXDOMAIN", authority=[ESOA], setup=services),
    Case(
        "in a namespace that is not shown", f"hidden.nowhere.{E} A", rcode="NXDOMAIN", authority=[ESOA], setup=services
    ),
    Case("PTR", "1.2.0.192.in-addr.arpa. PTR", [f"1.2.0.192.in-addr.arpa. 5 IN PTR web.default.{E}"], setup=services),
    Case(
        "PTR, first zone",
        "2.2.0.192.in-addr.arpa. PTR",
        [f"2.2.0.192.in-addr.arpa. 5 IN PTR both.default.{E}"],
        setup=replace(services, external=(E, "other.example.")),
    ),
    Case(
        "PTR of the cluster IP is the cluster's",
        "7.0.96.10.in-addr.arpa. PTR",
        ["7.0.96.10.in-addr.arpa. 5 IN PTR both.default.svc.cluster.local."],
        setup=services,
    ),
    Case("PTR above", "2.0.192.in-addr.arpa. PTR", authority=[SOA_IN_ADDR], setup=services),
    Case(
        "in every zone",
        "web.default.other.example. A",
        ["web.default.other.example. 5 IN A 192.0.2.1"],
        setup=replace(services, external=(E, "other.example.")),
    ),
    Case(
        "3.10 never in the cluster zone",
        "web.default.svc.cluster.local. A",
        ["web.default.svc.cluster.local. 5 IN A 10.96.0.7"],
        setup=services,
    ),
    Case("off", f"web.default.{E} A", rcode="REFUSED", flags="QR RD", setup=replace(services, external=())),
]

hostnames = Setup(
    objects(
        ingress("shop", [f"shop.{E}", f"*.shop.{E}", "elsewhere.example", E], "192.0.2.10"),
        ingress("named", [f"cdn.{E}"], "cdn.cloud.example."),
        ingress("pending", [f"pending.{E}"]),
        ingress("deep", [f"a.b.wild.{E}"], "192.0.2.11"),
        ingress("wild", [f"*.wild.{E}"], "192.0.2.12"),
        gateway(("web", f"*.gw.{E}", 80), ("tls", None, 443), ("own", f"own.{E}", 81)),
        route("r1", f"api.gw.{E}", f"other.{E}", parent=section("web")),
        route("r2", f"free.{E}", parent=section("tls"), kind=Kind.TLS_ROUTE),
        route("r3", parent=section("own"), kind=Kind.GRPC_ROUTE),
        route("r4", f"*.deep.gw.{E}", parent=section(port=80)),
        route("r5", f"lost.{E}", parent=Parent(ObjectKey(b"default", b"no"))),
        exposed("web", "192.0.2.1", namespace="shop"),
        namespace("shop"),
        namespace("quiet"),
    ),
    external=(E,),
)

HOSTNAMES = [
    Case("an Ingress", f"shop.{E} A", [f"shop.{E} 5 IN A 192.0.2.10"], setup=hostnames),
    Case("its other names are not ours", "elsewhere.example. A", rcode="REFUSED", flags="QR RD", setup=hostnames),
    Case("nor is the apex", f"{E} A", authority=[ESOA], setup=hostnames),
    Case("an Ingress with a name", f"cdn.{E} A", [f"cdn.{E} 5 IN CNAME cdn.cloud.example."], setup=hostnames),
    Case("without an address yet", f"pending.{E} A", rcode="NXDOMAIN", authority=[ESOA], setup=hostnames),
    Case("4592 a wildcard", f"x.shop.{E} A", [f"x.shop.{E} 5 IN A 192.0.2.10"], setup=hostnames),
    Case("4592 further down", f"y.x.shop.{E} A", [f"y.x.shop.{E} 5 IN A 192.0.2.10"], setup=hostnames),
    Case("4592 other type", f"x.shop.{E} TXT", authority=[ESOA], setup=hostnames),
    Case("4592 asked literally", f"*.shop.{E} A", [f"*.shop.{E} 5 IN A 192.0.2.10"], setup=hostnames),
    Case("4592 a name that exists", f"web.shop.{E} A", [f"web.shop.{E} 5 IN A 192.0.2.1"], setup=hostnames),
    Case("4592 below one that exists", f"x.web.shop.{E} A", rcode="NXDOMAIN", authority=[ESOA], setup=hostnames),
    Case("4592 an empty non-terminal", f"b.wild.{E} A", authority=[ESOA], setup=hostnames),
    Case("4592 below it", f"c.b.wild.{E} A", rcode="NXDOMAIN", authority=[ESOA], setup=hostnames),
    Case("4592 beside it", f"c.wild.{E} A", [f"c.wild.{E} 5 IN A 192.0.2.12"], setup=hostnames),
    Case("4592 no wildcard above a namespace", f"quiet.{E} A", authority=[ESOA], setup=hostnames),
    Case("a route of a listener with a wildcard", f"api.gw.{E} A", [f"api.gw.{E} 5 IN A 192.0.2.20"], setup=hostnames),
    Case(
        "its hostname that the listener does not take",
        f"other.{E} A",
        rcode="NXDOMAIN",
        authority=[ESOA],
        setup=hostnames,
    ),
    Case("a route of a listener without hostname", f"free.{E} A", [f"free.{E} 5 IN A 192.0.2.20"], setup=hostnames),
    Case("a route without hostnames, and its listener", f"own.{E} A", [f"own.{E} 5 IN A 192.0.2.20"], setup=hostnames),
    Case("a Gateway's own wildcard", f"any.gw.{E} A", [f"any.gw.{E} 5 IN A 192.0.2.20"], setup=hostnames),
    Case(
        "a route's wildcard below the listener's",
        f"x.deep.gw.{E} A",
        [f"x.deep.gw.{E} 5 IN A 192.0.2.20"],
        setup=hostnames,
    ),
    Case("a route whose Gateway does not exist", f"lost.{E} A", rcode="NXDOMAIN", authority=[ESOA], setup=hostnames),
    Case("2.1 case", "Shop.APPS.example. A", [f"shop.{E} 5 IN A 192.0.2.10"], setup=hostnames),
    Case("11.2 not synced", f"no.{E} A", rcode="SERVFAIL", authority=[ESOA], setup=replace(hostnames, synced=False)),
]

cut = Setup(
    objects(exposed("web", "192.0.2.1"), ingress("eu", [f"www.{SUB}", f"*.{E}"], "192.0.2.30")), external=(E, SUB)
)

CUTS = [
    Case("a name of the zone below", f"www.{SUB} A", [f"www.{SUB} 5 IN A 192.0.2.30"], setup=cut),
    Case("its denials have its SOA", f"no.{SUB} A", rcode="NXDOMAIN", authority=[SUBSOA], setup=cut),
    Case("a wildcard above takes nothing of it", f"x.y.{SUB} A", rcode="NXDOMAIN", authority=[SUBSOA], setup=cut),
    Case("a wildcard beside it", f"uk.{E} A", [f"uk.{E} 5 IN A 192.0.2.30"], setup=cut),
    Case("the Service in each", f"web.default.{SUB} A", [f"web.default.{SUB} 5 IN A 192.0.2.1"], setup=cut),
]


@pytest.mark.parametrize("case", [*SERVICES, *HOSTNAMES, *CUTS], ids=str)
def test_external(case: Case) -> None:
    check(case)


def test_names_of_the_zone_below_are_not_those_of_the_zone_above() -> None:
    above, below = (zone.walk() for zone in Cluster(cut).externals)
    assert not any(rrset.owner.to_text() == f"www.{SUB}" for rrset in above)
    assert any(rrset.owner.to_text() == f"www.{SUB}" for rrset in below)


WILD = Setup(
    objects(ingress("wild", [f"*.{E}"], "192.0.2.12")),
    external=(E,),
    records=(f"x.y.{E} A 10.0.0.1", f"z.{E} TXT here"),
)


@pytest.mark.parametrize(
    "case",
    [
        Case("beside", f"a.{E} A", [f"a.{E} 5 IN A 192.0.2.12"], setup=WILD),
        Case("above a static name", f"y.{E} A", authority=[ESOA], setup=WILD),
        Case("beside a static name", f"w.y.{E} A", rcode="NXDOMAIN", authority=[ESOA], setup=WILD),
        Case("at a static name, another type", f"z.{E} A", authority=[ESOA], setup=WILD),
    ],
    ids=str,
)
def test_wildcards_and_static_names(case: Case) -> None:
    """RFC 4592 section 2.2.2: a name that exists is not what a wildcard is for."""
    check(case)


def test_a_zone_that_begins_further_down_has_names_above_it() -> None:
    setup = Setup(
        objects(ingress("w", [f"*.{E}"], "192.0.2.12")), external=(E, f"a.b.{E}"), zones=("cluster.local.", f"p.q.{E}")
    )
    check(Case("above", f"q.{E} TXT", authority=[ESOA], setup=setup))
    check(
        Case(
            "the zone",
            f"no.p.q.{E} A",
            rcode="NXDOMAIN",
            authority=[SOA.replace("cluster.local.", f"p.q.{E}")],
            setup=setup,
        )
    )


def test_an_address_that_moves_while_another_has_the_name() -> None:
    """The name stays an older Ingress's, and the reverse names follow all the same."""
    cluster = Cluster(
        claims(
            ingress("old", [f"web.default.{E}"], "192.0.2.99", created=OLD), exposed("web", "192.0.2.1", created=NEW)
        )
    )
    list(cluster.store.addresses())  # the order is kept from now on
    change = cluster.store.put(exposed("web", "192.0.2.250", created=NEW))
    assert change.addresses == set(addresses("192.0.2.1", "192.0.2.250"))
    assert addresses("192.0.2.250")[0] in list(cluster.store.addresses())
    assert cluster.store.put(service("web", "10.96.0.7")).addresses == set(addresses("192.0.2.250"))
    assert not set(addresses("192.0.2.1", "192.0.2.250")) & set(cluster.store.addresses())


def test_an_address_that_loses_one_of_two_owners() -> None:
    shared = claims(exposed("x", "192.0.2.2"), namespace("n2"), exposed("x", "192.0.2.2", namespace="n2"))
    cluster = Cluster(shared)
    change = cluster.store.delete(Kind.NAMESPACE, ObjectKey(b"", b"n2"))
    assert change.addresses >= set(addresses("192.0.2.2"))


def test_where_a_service_is_reached_from_outside_is_no_change_inside() -> None:
    """CONTRACT row 11.6."""
    cluster = Cluster(claims(exposed("web", "192.0.2.1", created=OLD)))
    change = cluster.store.put(exposed("web", "192.0.2.2", created=OLD))
    assert not change.forward
    assert change.addresses == set(addresses("192.0.2.1", "192.0.2.2"))


def test_many_routes_of_one_hostname() -> None:
    cluster = Cluster(claims(gateway(("web", None, 80)), *(route(f"r{n}", f"x.{E}", created=NEW) for n in range(3000))))
    cluster.store.put(gateway(("web", None, 80), targets=("192.0.2.9",)))
    assert cluster.store.outside is not None
    assert not cluster.store.outside.conflicts
    check_name = Name.from_text(f"x.{E}")
    claim = cluster.store.outside.claim(check_name.key)
    assert claim is not None
    assert claim.targets == to("192.0.2.9")


def claims(*some: object) -> Setup:
    return Setup(objects(*some), external=(E,))  # type: ignore[arg-type]


OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


@pytest.mark.parametrize("is_reversed", [False, True])
def test_the_older_claim_wins_and_the_newer_is_a_conflict(is_reversed: bool) -> None:
    some = [ingress("new", [f"x.{E}"], "192.0.2.2", created=NEW), ingress("old", [f"x.{E}"], "192.0.2.1", created=OLD)]
    cluster = Cluster(claims(*(some[::-1] if is_reversed else some)))
    check(Case("older", f"x.{E} A", [f"x.{E} 5 IN A 192.0.2.1"], setup=claims(*some)))
    outside = cluster.store.outside
    assert outside is not None
    ((winner, loser),) = outside.conflicts.values()
    assert (winner.text, loser.text) == ("Ingress default/old", "Ingress default/new")
    cluster.store.delete(Kind.INGRESS, ObjectKey(b"default", b"old"))
    assert not outside.conflicts
    claim = outside.claim(Name.from_text(f"x.{E}").key)
    assert claim is not None
    assert claim.name == b"new"


def test_one_without_an_age_is_the_newest() -> None:
    check(
        Case(
            "age",
            f"x.{E} A",
            [f"x.{E} 5 IN A 192.0.2.2"],
            setup=claims(ingress("a", [f"x.{E}"], "192.0.2.1"), ingress("b", [f"x.{E}"], "192.0.2.2", created=NEW)),
        )
    )


def test_routes_that_lead_to_one_place_are_no_conflict() -> None:
    cluster = Cluster(
        claims(gateway(("web", None, 80)), route("a", f"x.{E}", created=OLD), route("b", f"x.{E}", created=NEW))
    )
    assert cluster.store.outside is not None
    assert not cluster.store.outside.conflicts


def test_a_service_against_an_ingress() -> None:
    setup = claims(
        exposed("web", "192.0.2.1", created=OLD), ingress("web", [f"web.default.{E}"], "192.0.2.2", created=NEW)
    )
    check(Case("Service", f"web.default.{E} A", [f"web.default.{E} 5 IN A 192.0.2.1"], setup=setup))


def test_a_route_of_two_gateways_has_the_addresses_of_both() -> None:
    both = Route(
        Kind.HTTP_ROUTE,
        b"default",
        b"r",
        "",
        (Name.from_text(f"x.{E}"),),
        (Parent(ObjectKey(b"default", b"g1")), Parent(ObjectKey(b"default", b"g2"))),
    )
    setup = claims(
        gateway(("w", None, 80), name="g1", targets=("192.0.2.1",)),
        gateway(("w", None, 80), name="g2", targets=("192.0.2.2",)),
        both,
    )
    check(Case("both", f"x.{E} A", [f"x.{E} 5 IN A 192.0.2.1", f"x.{E} 5 IN A 192.0.2.2"], setup=setup))


def test_a_gateway_that_gets_an_address_gives_it_to_its_routes() -> None:
    cluster = Cluster(claims(gateway(("w", None, 80), targets=()), route("r", f"x.{E}")))
    change = cluster.store.put(gateway(("w", None, 80), targets=("192.0.2.1",)))
    assert Name.from_text(f"x.{E}").key in change.outside
    assert not change.forward
    change = cluster.store.delete(Kind.GATEWAY, ObjectKey(b"default", b"gw"))
    assert Name.from_text(f"x.{E}").key in change.outside


def test_nothing_of_it_shows_elsewhere() -> None:
    cluster = Cluster(
        Setup(
            objects(exposed("web", "192.0.2.1"), service_import("web", "10.112.0.1")),
            external=(E,),
            clusterset=("clusterset.local.",),
        )
    )
    zones: list[Zone] = [*cluster.cluster_zones, *cluster.clustersets]
    for zone in zones:
        assert not any(address in rrset.rdatas for rrset in zone.walk() for address in addresses("192.0.2.1"))


def test_the_walk_has_the_ports_of_a_service_that_has_a_name_alone() -> None:
    walked = {(rrset.owner.to_text(), rrset.rtype) for rrset in Cluster(services).externals[0].walk()}
    assert {
        (f"lb.default.{E}", CNAME),
        (f"_http._tcp.lb.default.{E}", SRV),
        (f"_dns._udp.web.default.{E}", SRV),
    } <= walked
