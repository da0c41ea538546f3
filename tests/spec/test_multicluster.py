"""The multicluster zone (KEP-1645's DNS specification 1.0.0; CONTRACT section 8) and zonal names (section 10)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.builders import (
    endpoints,
    external,
    imported,
    namespace,
    objects,
    ready,
    service,
    service_import,
    unready,
    zoned,
)
from tests.support.cases import Case, check, Cluster, Setup, SOA, SOA_IN_ADDR

C = "clusterset.local."
Z = "cluster.local."
CSOA = SOA.replace("cluster.local.", C)
CLUSTERSET = (C,)

web = Setup(
    objects(
        service_import("web", "10.112.0.9", "fd00:112::9", port=["http:80", "dns/udp:53", ":9090"]),
        imported("web", "c1", ready("10.1.0.1"), port=["http:8080"]),
        service_import("v4", "10.112.0.8", port=["http:80"]),
        service_import("bare", port=["http:80"]),
        service_import("same", "10.112.0.7", port=["a/tcp:42", "b/udp:42"]),
        service("local", "10.96.0.1", port=["http:80"]),
        service("web", "10.96.0.2", port=["https:443"]),
        external("out", "example.com"),
        service_import("hidden", "10.112.0.6", namespace="nowhere"),
    ),
    clusterset=CLUSTERSET,
)

db = Setup(
    objects(
        service_import("db", headless=True, port=["sql:5432"]),
        imported("db", "c1", ready("10.1.0.1", "db-0"), ready("10.1.0.2"), unready("10.1.0.3"), port=["sql:5432"]),
        imported("db", "c2", ready("10.2.0.1", "db-0"), port=["sql:6432"]),
        imported("db", "c2", ready("fd00:2::1", "db-0"), port=["sql:6432"], name="db-c2-v6"),
        imported("db", "east.registry", ready("10.3.0.1", "db-0"), port=["other:1"]),
        service_import("none", headless=True),
        imported("none", "c1", unready("10.1.0.9")),
        service_import("six", headless=True),
        imported("six", "c1", ready("fd00:1::1")),
        imported("orphan", "c1", ready("10.1.0.8")),
        service("db", "10.96.0.3", port=["local:1"]),
    ),
    clusterset=CLUSTERSET,
)
B = f"db.default.svc.{C}"

CASES = [
    Case("8.2 dns-version", f"dns-version.{C} TXT", [f'dns-version.{C} 28800 IN TXT "1.0.0"'], setup=web),
    Case("SOA", f"{C} SOA", [CSOA], setup=web),
    Case(
        "NS",
        f"{C} NS",
        [f"{C} 5 IN NS ns.dns.{C}"],
        additional=[f"ns.dns.{C} 5 IN A 192.0.2.53", f"ns.dns.{C} 5 IN AAAA 2001:db8::53"],
        setup=web,
    ),
    Case("svc", f"svc.{C} A", authority=[CSOA], setup=web),
    Case("a namespace", f"default.svc.{C} A", authority=[CSOA], setup=web),
    Case("no namespace", f"nowhere.svc.{C} A", rcode="NXDOMAIN", authority=[CSOA], setup=web),
    Case("8.3 A", f"web.default.svc.{C} A", [f"web.default.svc.{C} 5 IN A 10.112.0.9"], setup=web),
    Case("8.3 AAAA", f"web.default.svc.{C} AAAA", [f"web.default.svc.{C} 5 IN AAAA fd00:112::9"], setup=web),
    Case("8.3 other family", f"v4.default.svc.{C} AAAA", authority=[CSOA], setup=web),
    Case(
        "8.4 SRV",
        f"_http._tcp.web.default.svc.{C} SRV",
        [f"_http._tcp.web.default.svc.{C} 5 IN SRV 0 50 80 web.default.svc.{C}"],
        additional=[
            f"web.default.svc.{C} 5 IN A 10.112.0.9",
            f"web.default.svc.{C} 5 IN AAAA fd00:112::9",
        ],
        setup=web,
    ),
    Case("8.4 no such port", f"_ftp._tcp.web.default.svc.{C} SRV", rcode="NXDOMAIN", authority=[CSOA], setup=web),
    Case("8.4 a protocol", f"_udp.web.default.svc.{C} SRV", authority=[CSOA], setup=web),
    Case("8.4 no such protocol", f"_sctp.web.default.svc.{C} SRV", rcode="NXDOMAIN", authority=[CSOA], setup=web),
    Case(
        "8.5 bare SRV: one a target and port",
        f"same.default.svc.{C} SRV",
        [f"same.default.svc.{C} 5 IN SRV 0 100 42 same.default.svc.{C}"],
        additional=[f"same.default.svc.{C} 5 IN A 10.112.0.7"],
        setup=web,
    ),
    Case(
        "8.8 an endpoint of ClusterSetIP",
        f"10-1-0-1.c1.web.default.svc.{C} A",
        rcode="NXDOMAIN",
        authority=[CSOA],
        setup=web,
    ),
    Case("8.9 a cluster of ClusterSetIP", f"c1.web.default.svc.{C} A", rcode="NXDOMAIN", authority=[CSOA], setup=web),
    Case("8.12 no addresses yet", f"bare.default.svc.{C} A", authority=[CSOA], setup=web),
    Case("8.12 no addresses yet, SRV", f"bare.default.svc.{C} SRV", authority=[CSOA], setup=web),
    Case(
        "8.12 no addresses yet, port",
        f"_http._tcp.bare.default.svc.{C} SRV",
        rcode="NXDOMAIN",
        authority=[CSOA],
        setup=web,
    ),
    Case("8.13 no PTR", "9.0.112.10.in-addr.arpa. PTR", rcode="NXDOMAIN", authority=[SOA_IN_ADDR], setup=web),
    Case(
        "8.14 a local Service is not there", f"local.default.svc.{C} A", rcode="NXDOMAIN", authority=[CSOA], setup=web
    ),
    Case("8.14 an import is not here", f"v4.default.svc.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case("8.14 equal names", f"web.default.svc.{Z} A", [f"web.default.svc.{Z} 5 IN A 10.96.0.2"], setup=web),
    Case(
        "8.14 ports of the local one",
        f"_http._tcp.web.default.svc.{Z} SRV",
        rcode="NXDOMAIN",
        authority=[SOA],
        setup=web,
    ),
    Case("8.15 ExternalName", f"out.default.svc.{C} A", rcode="NXDOMAIN", authority=[CSOA], setup=web),
    Case("8.16 pod", f"pod.{C} A", authority=[CSOA], setup=web),
    Case("8.16 below pod", f"10-1-0-1.default.pod.{C} A", rcode="NXDOMAIN", authority=[CSOA], setup=web),
    Case("8.17 namespace not here", f"hidden.nowhere.svc.{C} A", rcode="NXDOMAIN", authority=[CSOA], setup=web),
    Case("2.1 case", f"WEB.Default.SVC.{C} A", [f"web.default.svc.{C} 5 IN A 10.112.0.9"], setup=web),
    Case("zone off", f"web.default.svc.{C} A", rcode="REFUSED", flags="QR RD", setup=replace(web, clusterset=())),
    Case(
        "8.6 headless A: all clusters",
        f"{B} A",
        [f"{B} 5 IN A {address}" for address in ("10.1.0.1", "10.1.0.2", "10.2.0.1", "10.3.0.1")],
        setup=db,
    ),
    Case("8.6 headless AAAA", f"{B} AAAA", [f"{B} 5 IN AAAA fd00:2::1"], setup=db),
    Case("8.6 none ready", f"none.default.svc.{C} A", rcode="NXDOMAIN", authority=[CSOA], setup=db),
    Case("8.6 other family", f"six.default.svc.{C} A", authority=[CSOA], setup=db),
    Case("8.7 endpoint by hostname", f"db-0.c1.{B} A", [f"db-0.c1.{B} 5 IN A 10.1.0.1"], setup=db),
    Case("8.7 the same hostname elsewhere", f"db-0.c2.{B} A", [f"db-0.c2.{B} 5 IN A 10.2.0.1"], setup=db),
    Case("8.7 dual-stack endpoint", f"db-0.c2.{B} AAAA", [f"db-0.c2.{B} 5 IN AAAA fd00:2::1"], setup=db),
    Case("8.7 endpoint by address", f"10-1-0-2.c1.{B} A", [f"10-1-0-2.c1.{B} 5 IN A 10.1.0.2"], setup=db),
    Case("8.7 not ready", f"10-1-0-3.c1.{B} A", rcode="NXDOMAIN", authority=[CSOA], setup=db),
    Case("8.7 of another cluster", f"10-1-0-2.c2.{B} A", rcode="NXDOMAIN", authority=[CSOA], setup=db),
    Case("8.8 without cluster id", f"db-0.{B} A", rcode="NXDOMAIN", authority=[CSOA], setup=db),
    Case("8.9 cluster id alone", f"c1.{B} A", authority=[CSOA], setup=db),
    Case("8.9 no such cluster", f"c9.{B} A", rcode="NXDOMAIN", authority=[CSOA], setup=db),
    Case("8.9 port below a cluster", f"_sql._tcp.c1.{B} SRV", rcode="NXDOMAIN", authority=[CSOA], setup=db),
    Case(
        "8.10 SRV: the endpoint's own port",
        f"_sql._tcp.{B} SRV",
        [
            f"_sql._tcp.{B} 5 IN SRV 0 25 5432 db-0.c1.{B}",
            f"_sql._tcp.{B} 5 IN SRV 0 25 5432 10-1-0-2.c1.{B}",
            f"_sql._tcp.{B} 5 IN SRV 0 25 6432 db-0.c2.{B}",
        ],
        additional=[
            f"db-0.c1.{B} 5 IN A 10.1.0.1",
            f"10-1-0-2.c1.{B} 5 IN A 10.1.0.2",
            f"db-0.c2.{B} 5 IN A 10.2.0.1",
            f"db-0.c2.{B} 5 IN AAAA fd00:2::1",
        ],
        setup=db,
        edns=True,
    ),
    Case(
        "8.11 cluster id of two labels",
        f"db-0.east.registry.{B} A",
        [f"db-0.east.registry.{B} 5 IN A 10.3.0.1"],
        setup=db,
    ),
    Case("8.11 the id alone", f"east.registry.{B} A", authority=[CSOA], setup=db),
    Case("8.11 its second label alone", f"registry.{B} A", authority=[CSOA], setup=db),
    Case(
        "8.14 imported slices stay out of the cluster",
        f"10-1-0-1.db.default.svc.{Z} A",
        rcode="NXDOMAIN",
        authority=[SOA],
        setup=db,
    ),
    Case(
        "8.13 no PTR of imported endpoints",
        "1.0.1.10.in-addr.arpa. PTR",
        rcode="NXDOMAIN",
        authority=[SOA_IN_ADDR],
        setup=db,
    ),
    Case(
        "a slice whose import does not exist", f"orphan.default.svc.{C} A", rcode="NXDOMAIN", authority=[CSOA], setup=db
    ),
    Case(
        "10 ignore empty: a ClusterSetIP import without ready endpoints",
        f"v4.default.svc.{C} A",
        rcode="NXDOMAIN",
        authority=[CSOA],
        setup=replace(web, ignore_empty_service=True),
    ),
    Case(
        "10 ignore empty: one with some",
        f"web.default.svc.{C} A",
        [f"web.default.svc.{C} 5 IN A 10.112.0.9"],
        setup=replace(web, ignore_empty_service=True),
    ),
    Case(
        "11.2 not synced", f"no.default.svc.{C} A", rcode="SERVFAIL", authority=[CSOA], setup=replace(web, synced=False)
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_multicluster(case: Case) -> None:
    check(case)


def test_an_import_changes_nothing_of_the_cluster_zone() -> None:
    """Row 8.14, over everything that a transfer would have."""
    alone = Cluster(
        Setup([thing for thing in db.objects if type(thing).__name__ not in ("ServiceImport", "ImportedSlice")])
    )
    with_imports = Cluster(db)
    assert list(alone.cluster_zones[0].walk()) == list(with_imports.cluster_zones[0].walk())
    assert [list(zone.walk()) for zone in alone.reverse_zones] == [
        list(zone.walk()) for zone in with_imports.reverse_zones
    ]


zonal = Setup(
    objects(
        service("db", headless=True),
        endpoints(
            "db",
            zoned("10.0.0.1", "east-1a", "db-0"),
            zoned("10.0.0.2", "east-1b", "db-1"),
            zoned("10.0.0.3", "east-1a", is_ready=False),
            zoned("10.0.0.4", "dc.example", "db-3"),
            port=["sql:5432"],
        ),
        service("web", "10.96.0.1"),
        service("gone", headless=True),
        external("out", "example.com"),
        namespace("empty"),
    ),
    zonal=True,
)
D = f"db.default.svc.{Z}"
ALL = ("10.0.0.1", "10.0.0.2", "10.0.0.4")

ZONAL = [
    Case("pin", f"east-1a.pin._zone.{D} A", [f"east-1a.pin._zone.{D} 5 IN A 10.0.0.1"], setup=zonal),
    Case("pin, case", f"EAST-1A.Pin._ZONE.{D} A", [f"east-1a.pin._zone.{D} 5 IN A 10.0.0.1"], setup=zonal),
    Case("pin, none there", f"west.pin._zone.{D} A", authority=[SOA], setup=zonal),
    Case("prefer", f"east-1b.prefer._zone.{D} A", [f"east-1b.prefer._zone.{D} 5 IN A 10.0.0.2"], setup=zonal),
    Case(
        "prefer, none there",
        f"west.prefer._zone.{D} A",
        [f"west.prefer._zone.{D} 5 IN A {a}" for a in ALL],
        setup=zonal,
    ),
    Case(
        "a zone with a dot", f"dc.example.pin._zone.{D} A", [f"dc.example.pin._zone.{D} 5 IN A 10.0.0.4"], setup=zonal
    ),
    Case(
        "SRV",
        f"east-1b.pin._zone.{D} SRV",
        [f"east-1b.pin._zone.{D} 5 IN SRV 0 100 5432 db-1.{D}"],
        additional=[f"db-1.{D} 5 IN A 10.0.0.2"],
        setup=zonal,
    ),
    Case("other type", f"east-1a.pin._zone.{D} TXT", authority=[SOA], setup=zonal),
    Case("other family", f"east-1a.pin._zone.{D} AAAA", authority=[SOA], setup=zonal),
    Case("above", f"pin._zone.{D} A", authority=[SOA], setup=zonal),
    Case("further above", f"_zone.{D} A", authority=[SOA], setup=zonal),
    Case("unknown directive", f"east-1a.only._zone.{D} A", rcode="NXDOMAIN", authority=[SOA], setup=zonal),
    Case("ClusterIP", f"east-1a.pin._zone.web.default.svc.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=zonal),
    Case("ExternalName", f"east-1a.pin._zone.out.default.svc.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=zonal),
    Case(
        "no ready endpoint", f"east-1a.pin._zone.gone.default.svc.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=zonal
    ),
    Case("missing Service", f"east-1a.pin._zone.no.default.svc.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=zonal),
    Case("off", f"east-1a.pin._zone.{D} A", rcode="NXDOMAIN", authority=[SOA], setup=replace(zonal, zonal=False)),
]


@pytest.mark.parametrize("case", ZONAL, ids=str)
def test_zonal(case: Case) -> None:
    check(case)


def test_zonal_names_are_not_transferred() -> None:
    owners = {rrset.owner.to_text() for rrset in Cluster(zonal).cluster_zones[0].walk()}
    assert not any("_zone" in owner for owner in owners)
