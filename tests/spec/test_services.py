"""Spec tables 2.3 to 2.5: Services with a cluster IP, headless ones, ExternalName (CONTRACT sections 3 to 5)."""

from __future__ import annotations

import pytest

from tests.support.builders import endpoints, external, objects, ready, service, unready
from tests.support.cases import Case, check, Setup, SOA
from zones.objects import Object

Z = "cluster.local."
WEB = f"web.default.svc.{Z}"
DB = f"db.default.svc.{Z}"


def of(*some: Object) -> Setup:
    return Setup(objects(*some))


web = of(service("web", "10.96.0.1", port=["http:80", "dns/udp:53"]))
dual = of(service("web", "10.96.0.1", "fd00::1", port=["http:80"]))
unnamed = of(service("web", "10.96.0.1", port=[":80"]))
portless = of(service("web", "10.96.0.1"))
no_address = of(service("web", port=["http:80"]))
two_numbers = of(service("web", "10.96.0.1", port=["http:80", "dns:53", "dns/udp:53"]))
with_endpoint = of(
    service("web", "10.96.0.1", port=["http:80"]),
    endpoints("web", ready("10.1.0.1", "pod-a"), ready("10.1.0.2"), unready("10.1.0.3"), port=["http:8080"]),
)

CLUSTER_IP = [
    Case("3.1 A", f"{WEB} A", [f"{WEB} 5 IN A 10.96.0.1"], setup=web),
    Case("3.1 AAAA of an IPv4 Service: NODATA", f"{WEB} AAAA", authority=[SOA], setup=web),
    Case("3.1 AAAA of a dual-stack one", f"{WEB} AAAA", [f"{WEB} 5 IN AAAA fd00::1"], setup=dual),
    Case("3.1 other case", "WeB.dEfault.SVC.cluster.LOCAL. A", [f"{WEB} 5 IN A 10.96.0.1"], setup=web),
    Case(
        "3.2 SRV",
        f"_http._tcp.{WEB} SRV",
        [f"_http._tcp.{WEB} 5 IN SRV 0 100 80 {WEB}"],
        additional=[f"{WEB} 5 IN A 10.96.0.1"],
        setup=web,
    ),
    Case(
        "3.2 SRV of a dual-stack Service is one record, 3.3 of half the weight",
        f"_http._tcp.{WEB} SRV",
        [f"_http._tcp.{WEB} 5 IN SRV 0 50 80 {WEB}"],
        additional=[f"{WEB} 5 IN A 10.96.0.1", f"{WEB} 5 IN AAAA fd00::1"],
        setup=dual,
    ),
    Case(
        "3.2 SRV over UDP's protocol",
        f"_dns._udp.{WEB} SRV",
        [f"_dns._udp.{WEB} 5 IN SRV 0 100 53 {WEB}"],
        additional=[f"{WEB} 5 IN A 10.96.0.1"],
        setup=web,
    ),
    Case("3.4 unnamed port has no SRV", f"_80._tcp.{WEB} SRV", rcode="NXDOMAIN", authority=[SOA], setup=unnamed),
    Case(
        "3.5 SRV at the bare name, unnamed port",
        f"{WEB} SRV",
        [f"{WEB} 5 IN SRV 0 100 80 {WEB}"],
        additional=[f"{WEB} 5 IN A 10.96.0.1"],
        setup=unnamed,
    ),
    Case(
        "3.5 SRV at the bare name, one for each number",
        f"{WEB} SRV",
        [f"{WEB} 5 IN SRV 0 50 53 {WEB}", f"{WEB} 5 IN SRV 0 50 80 {WEB}"],
        additional=[f"{WEB} 5 IN A 10.96.0.1"],
        setup=two_numbers,
    ),
    Case("3.5 SRV at the bare name without ports: NODATA", f"{WEB} SRV", authority=[SOA], setup=portless),
    Case("3.6 wrong protocol", f"_http._udp.{WEB} SRV", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case("3.6 unknown port", f"_ftp._tcp.{WEB} SRV", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case("3.7 A at a port: NODATA", f"_http._tcp.{WEB} A", authority=[SOA], setup=web),
    Case("1.9 a protocol is an empty non-terminal", f"_tcp.{WEB} SRV", authority=[SOA], setup=web),
    Case("1.9 a protocol without ports is none", f"_sctp.{WEB} SRV", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case(
        "2.4 ports without underscores, as CoreDNS",
        f"http.tcp.{WEB} SRV",
        [f"http.tcp.{WEB} 5 IN SRV 0 100 80 {WEB}"],
        additional=[f"{WEB} 5 IN A 10.96.0.1"],
        setup=web,
    ),
    Case("2.4 nothing below such a name is denied above it", f"tcp.{WEB} A", authority=[SOA], setup=web),
    Case("3.8 endpoint by hostname", f"pod-a.{WEB} A", [f"pod-a.{WEB} 5 IN A 10.1.0.1"], setup=with_endpoint),
    Case("3.8 endpoint by address", f"10-1-0-2.{WEB} A", [f"10-1-0-2.{WEB} 5 IN A 10.1.0.2"], setup=with_endpoint),
    Case("3.8 not-ready endpoint", f"10-1-0-3.{WEB} A", rcode="NXDOMAIN", authority=[SOA], setup=with_endpoint),
    Case(
        "3.8 an endpoint with a hostname has no name of its address",
        f"10-1-0-1.{WEB} A",
        rcode="NXDOMAIN",
        authority=[SOA],
        setup=with_endpoint,
    ),
    Case("a Service without an address yet: NODATA", f"{WEB} A", authority=[SOA], setup=no_address),
    Case(
        "a Service without an address has no SRV",
        f"_http._tcp.{WEB} SRV",
        rcode="NXDOMAIN",
        authority=[SOA],
        setup=no_address,
    ),
    Case("2.8 MX: NODATA", f"{WEB} MX", authority=[SOA], setup=web),
    Case("2.8 HTTPS: NODATA", f"{WEB} HTTPS", authority=[SOA], setup=web),
    Case("2.8 TXT: NODATA", f"{WEB} TXT", authority=[SOA], setup=web),
    Case("1.7 SOA below the apex: NODATA", f"{WEB} SOA", authority=[SOA], setup=web),
    Case("1.7 NS below the apex: NODATA", f"{WEB} NS", authority=[SOA], setup=web),
    Case("2.8 MX of a missing name", f"no.default.svc.{Z} MX", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case("2.3 no wildcards", f"*.default.svc.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case("2.3 any is a name like others", f"any.default.svc.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case("1.11 too many labels", f"a.b.c.web.default.svc.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case("9.6 ANY: one RRset, the smallest", f"{WEB} ANY", [f"{WEB} 5 IN A 10.96.0.1"], setup=dual),
]

peers = of(
    service("db", headless=True, port=["pg:5432"]),
    endpoints("db", ready("10.1.0.1", "db-0"), ready("10.1.0.2"), unready("10.1.0.3"), port=["pg:15432"], name="a"),
    endpoints("db", ready("fd00::1", "db-0"), port=["pg:15432"], name="b"),
)
moving = of(
    service("db", headless=True),
    endpoints("db", ready("10.1.0.2"), port=["pg:5432"], name="a"),
    endpoints("db", ready("10.1.0.2"), port=["pg:5432"], name="b"),
)
shared = of(
    service("db", headless=True),
    endpoints("db", ready("10.1.0.1", "same"), ready("10.1.0.2", "same"), port=["pg:5432"]),
)
none_ready = of(service("db", headless=True), endpoints("db", unready("10.1.0.1", "db-0"), port=["pg:5432"]))
no_slices = of(service("db", headless=True))
published = of(
    service("db", headless=True, publish_not_ready=True), endpoints("db", unready("10.1.0.1", "db-0"), port=["pg:5432"])
)
without_ports = of(service("db", headless=True), endpoints("db", ready("10.1.0.1")))
unnamed_port = of(service("db", headless=True), endpoints("db", ready("10.1.0.1"), port=[":5432"]))
ipv6 = of(service("db", headless=True), endpoints("db", ready("5678:abcd::1"), ready("5678:abcd::")))
orphan = of(endpoints("db", ready("10.1.0.1", "db-0"), port=["pg:5432"]))

HEADLESS = [
    Case("4.3 A over all slices", f"{DB} A", [f"{DB} 5 IN A 10.1.0.1", f"{DB} 5 IN A 10.1.0.2"], setup=peers),
    Case("4.3 AAAA", f"{DB} AAAA", [f"{DB} 5 IN AAAA fd00::1"], setup=peers),
    Case("4.4 no ready endpoint: NXDOMAIN", f"{DB} A", rcode="NXDOMAIN", authority=[SOA], setup=none_ready),
    Case("4.4 … for every type", f"{DB} MX", rcode="NXDOMAIN", authority=[SOA], setup=none_ready),
    Case("4.4 … and below", f"_pg._tcp.{DB} SRV", rcode="NXDOMAIN", authority=[SOA], setup=none_ready),
    Case("4.4 no slices", f"{DB} A", rcode="NXDOMAIN", authority=[SOA], setup=no_slices),
    Case("4.5 endpoints of the other family: NODATA", f"{DB} AAAA", authority=[SOA], setup=without_ports),
    Case("4.2 publishNotReadyAddresses", f"{DB} A", [f"{DB} 5 IN A 10.1.0.1"], setup=published),
    Case("4.2 … the endpoint's name too", f"db-0.{DB} A", [f"db-0.{DB} 5 IN A 10.1.0.1"], setup=published),
    Case("4.6 hostname", f"db-0.{DB} A", [f"db-0.{DB} 5 IN A 10.1.0.1"], setup=peers),
    Case("4.6 hostname, other family", f"db-0.{DB} AAAA", [f"db-0.{DB} 5 IN AAAA fd00::1"], setup=peers),
    Case("4.6 address", f"10-1-0-2.{DB} A", [f"10-1-0-2.{DB} 5 IN A 10.1.0.2"], setup=peers),
    Case("4.6 AAAA at an IPv4 endpoint: NODATA", f"10-1-0-2.{DB} AAAA", authority=[SOA], setup=peers),
    Case("4.6 IPv6", f"5678-abcd--1.{DB} AAAA", [f"5678-abcd--1.{DB} 5 IN AAAA 5678:abcd::1"], setup=ipv6),
    Case(
        "4.6 a last dash gets a 0", f"5678-abcd--0.{DB} AAAA", [f"5678-abcd--0.{DB} 5 IN AAAA 5678:abcd::"], setup=ipv6
    ),
    Case(
        "4.6 other spelling of an address is no name",
        f"5678-abcd-0-0-0-0-0-1.{DB} AAAA",
        rcode="NXDOMAIN",
        authority=[SOA],
        setup=ipv6,
    ),
    Case(
        "4.7 shared hostname",
        f"same.{DB} A",
        [f"same.{DB} 5 IN A 10.1.0.1", f"same.{DB} 5 IN A 10.1.0.2"],
        setup=shared,
    ),
    Case("4.7 unknown", f"db-9.{DB} A", rcode="NXDOMAIN", authority=[SOA], setup=peers),
    Case(
        "4.8 SRV, dual-stack endpoint once, 4.9 the slice's port",
        f"_pg._tcp.{DB} SRV",
        [f"_pg._tcp.{DB} 5 IN SRV 0 33 15432 db-0.{DB}", f"_pg._tcp.{DB} 5 IN SRV 0 33 15432 10-1-0-2.{DB}"],
        additional=[
            f"db-0.{DB} 5 IN A 10.1.0.1",
            f"db-0.{DB} 5 IN AAAA fd00::1",
            f"10-1-0-2.{DB} 5 IN A 10.1.0.2",
        ],
        setup=peers,
    ),
    Case(
        "4.8 shared hostname once",
        f"_pg._tcp.{DB} SRV",
        [f"_pg._tcp.{DB} 5 IN SRV 0 50 5432 same.{DB}"],
        additional=[f"same.{DB} 5 IN A 10.1.0.1", f"same.{DB} 5 IN A 10.1.0.2"],
        setup=shared,
    ),
    Case("4.10 no ports: no SRV", f"_pg._tcp.{DB} SRV", rcode="NXDOMAIN", authority=[SOA], setup=without_ports),
    Case("4.10 … at the bare name: NODATA", f"{DB} SRV", authority=[SOA], setup=without_ports),
    Case(
        "4.11 unnamed port at the bare name",
        f"{DB} SRV",
        [f"{DB} 5 IN SRV 0 100 5432 10-1-0-1.{DB}"],
        additional=[f"10-1-0-1.{DB} 5 IN A 10.1.0.1"],
        setup=unnamed_port,
    ),
    Case("4.12 one address in two slices", f"{DB} A", [f"{DB} 5 IN A 10.1.0.2"], setup=moving),
    Case(
        "4.12 … one SRV of full weight",
        f"_pg._tcp.{DB} SRV",
        [f"_pg._tcp.{DB} 5 IN SRV 0 100 5432 10-1-0-2.{DB}"],
        additional=[f"10-1-0-2.{DB} 5 IN A 10.1.0.2"],
        setup=moving,
    ),
    Case("4.17 slice without a Service", f"{DB} A", rcode="NXDOMAIN", authority=[SOA], setup=orphan),
    Case("1.9 a protocol is an empty non-terminal", f"_tcp.{DB} A", authority=[SOA], setup=peers),
]

EXT = f"ext.default.svc.{Z}"
outside = of(external("ext", "www.example.com"))
inside = of(service("web", "10.96.0.1"), external("ext", f"web.default.svc.{Z}"))
dangling = of(external("ext", f"gone.default.svc.{Z}"))
loop = of(external("ext", f"two.default.svc.{Z}"), external("two", EXT))
itself = of(external("ext", EXT))
like_an_address = of(external("ext", "192.0.2.1"))

EXTERNAL = [
    Case("5.1 CNAME", f"{EXT} CNAME", [f"{EXT} 5 IN CNAME www.example.com."], setup=outside),
    Case(
        "5.2 target outside, no upstream: the CNAME", f"{EXT} A", [f"{EXT} 5 IN CNAME www.example.com."], setup=outside
    ),
    Case(
        "5.2 target inside",
        f"{EXT} A",
        [f"{EXT} 5 IN CNAME {WEB}", f"{WEB} 5 IN A 10.96.0.1"],
        setup=inside,
    ),
    Case("5.3 target without the type", f"{EXT} AAAA", [f"{EXT} 5 IN CNAME {WEB}"], authority=[SOA], setup=inside),
    Case(
        "5.3 target missing",
        f"{EXT} A",
        [f"{EXT} 5 IN CNAME gone.default.svc.{Z}"],
        rcode="NXDOMAIN",
        authority=[SOA],
        setup=dangling,
    ),
    Case("5.4 other types", f"{EXT} TXT", [f"{EXT} 5 IN CNAME www.example.com."], setup=outside),
    Case("5.4 ANY", f"{EXT} ANY", [f"{EXT} 5 IN CNAME www.example.com."], setup=outside),
    Case("5.5 below", f"_http._tcp.{EXT} SRV", rcode="NXDOMAIN", authority=[SOA], setup=outside),
    Case("5.6 looks like an address", f"{EXT} A", [f"{EXT} 5 IN CNAME 192.0.2.1."], setup=like_an_address),
    Case(
        "5.2 a loop is cut",
        f"{EXT} A",
        [f"{EXT} 5 IN CNAME two.default.svc.{Z}", f"two.default.svc.{Z} 5 IN CNAME {EXT}"],
        setup=loop,
    ),
    Case("5.2 a loop of one", f"{EXT} A", [f"{EXT} 5 IN CNAME {EXT}"], setup=itself),
    Case(
        "5.7 into another zone of ours",
        f"{EXT} A",
        [f"{EXT} 5 IN CNAME web.default.svc.other.example.", "web.default.svc.other.example. 5 IN A 10.96.0.1"],
        setup=Setup(
            objects(service("web", "10.96.0.1"), external("ext", "web.default.svc.other.example")),
            zones=("cluster.local.", "other.example."),
        ),
    ),
]


@pytest.mark.parametrize("case", [*CLUSTER_IP, *HEADLESS, *EXTERNAL], ids=str)
def test_row(case: Case) -> None:
    check(case)


def test_an_alias_chain_ends_after_ten() -> None:
    some = [external(f"e{number}", f"e{number + 1}.default.svc.{Z}") for number in range(20)]
    chain = [f"e{number}.default.svc.{Z} 5 IN CNAME e{number + 1}.default.svc.{Z}" for number in range(10)]
    check(Case("5.2 chain limit", f"e0.default.svc.{Z} A", chain, setup=of(*some), edns=True))
