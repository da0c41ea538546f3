"""Spec tables 2.2 and CoreDNS's ways: apex, pods, reverse zones, options, start-up (CONTRACT 1, 2, 6, 7, 10, 11)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.builders import endpoints, external, namespace, objects, pod, ready, service, unready
from tests.support.cases import Case, check, SERIAL, Setup, SOA, SOA_IN_ADDR, SOA_IP6
from zones.pods import PodMode
from zones.reverse import reverse_zones_from_text

Z = "cluster.local."

web = Setup(objects(service("web", "10.96.0.1", port=["http:80"])))
kube_dns = Setup(
    objects(service("dns", "10.96.0.10", "fd00::a"), endpoints("dns", ready("192.0.2.53"))),
    own_addresses=("192.0.2.53",),
)
headless_dns = Setup(
    objects(service("dns", headless=True), endpoints("dns", ready("192.0.2.53", "dns-0"))),
    own_addresses=("192.0.2.53",),
)
ADDRESSES = [f"ns.dns.{Z} 5 IN A 192.0.2.53", f"ns.dns.{Z} 5 IN AAAA 2001:db8::53"]

APEX = [
    Case("1.1 dns-version", f"dns-version.{Z} TXT", [f'dns-version.{Z} 28800 IN TXT "1.1.0"'], setup=web),
    Case("1.2 dns-version, other type", f"dns-version.{Z} A", authority=[SOA], setup=web),
    Case("1.3 SOA", f"{Z} SOA", [SOA], setup=web),
    Case(
        "1.3 the SOA's TTL is 300 at most",
        f"{Z} SOA",
        [f"{Z} 300 IN SOA ns.dns.{Z} hostmaster.{Z} {SERIAL} 7200 1800 86400 900"],
        setup=replace(web, ttl=900),
    ),
    Case("1.4 NS", f"{Z} NS", [f"{Z} 5 IN NS ns.dns.{Z}"], additional=ADDRESSES, setup=web),
    Case(
        "1.4 NS is the Service that the server is an endpoint of",
        f"{Z} NS",
        [f"{Z} 5 IN NS dns.default.svc.{Z}"],
        additional=[f"dns.default.svc.{Z} 5 IN A 10.96.0.10", f"dns.default.svc.{Z} 5 IN AAAA fd00::a"],
        setup=kube_dns,
    ),
    Case(
        "1.4 NS of a headless one is the endpoint",
        f"{Z} NS",
        [f"{Z} 5 IN NS dns-0.dns.default.svc.{Z}"],
        additional=[f"dns-0.dns.default.svc.{Z} 5 IN A 192.0.2.53"],
        setup=headless_dns,
    ),
    Case(
        "1.7 ANY at the apex of a reverse zone",
        "in-addr.arpa. ANY",
        [f"in-addr.arpa. 5 IN NS ns.dns.{Z}"],
        additional=ADDRESSES,
        setup=web,
    ),
    Case("1.5 ns.dns", f"ns.dns.{Z} A", [ADDRESSES[0]], setup=web),
    Case("1.5 ns.dns, IPv6", f"ns.dns.{Z} AAAA", [ADDRESSES[1]], setup=web),
    Case("1.5 ns.dns, a family that the server lacks", f"ns.dns.{Z} AAAA", authority=[SOA], setup=kube_dns),
    Case("1.6 A at the apex", f"{Z} A", authority=[SOA], setup=web),
    Case("1.6 HINFO at the apex", f"{Z} HINFO", authority=[SOA], setup=web),
    Case("1.8 svc", f"svc.{Z} A", authority=[SOA], setup=web),
    Case("1.8 pod", f"pod.{Z} A", authority=[SOA], setup=web),
    Case("1.8 a namespace", f"default.svc.{Z} A", authority=[SOA], setup=web),
    Case("1.8 a namespace without Services", f"empty.svc.{Z} A", authority=[SOA], setup=Setup([namespace("empty")])),
    Case("1.8 no such namespace", f"no.svc.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case("1.9 dns", f"dns.{Z} A", authority=[SOA], setup=web),
    Case("1.10 another first label", f"default.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case("1.10 below dns", f"x.dns.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case("1.13 outside", "www.example.com. A", rcode="REFUSED", flags="QR RD", setup=web),
    Case("1.13 a name that ends alike", "xcluster.local. A", rcode="REFUSED", flags="QR RD", setup=web),
    Case("1.14 federation names are gone", f"web.default.fed.svc.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case(
        "2.6 namespaces and Services called svc and pod",
        f"pod.svc.svc.{Z} A",
        [f"pod.svc.svc.{Z} 5 IN A 10.96.0.7"],
        setup=Setup([namespace("svc"), service("pod", "10.96.0.7", namespace="svc")]),
    ),
]

insecure = replace(web, pods=PodMode.INSECURE)
verified = Setup(
    objects(pod("a", "10.1.2.3", "fd00::3"), pod("b", "10.1.2.4", namespace="other")), pods=PodMode.VERIFIED
)
P = f"default.pod.{Z}"
PODS = [
    Case("6.1 disabled", f"10-1-2-3.{P} A", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case("6.1 disabled, namespace", f"{P} A", rcode="NXDOMAIN", authority=[SOA], setup=web),
    Case("6.2 insecure", f"10-1-2-3.{P} A", [f"10-1-2-3.{P} 5 IN A 10.1.2.3"], setup=insecure),
    Case("6.2 insecure, IPv6", f"fd00--3.{P} AAAA", [f"fd00--3.{P} 5 IN AAAA fd00::3"], setup=insecure),
    Case("6.2 insecure, wrong family", f"10-1-2-3.{P} AAAA", authority=[SOA], setup=insecure),
    Case(
        "6.2 insecure, no such namespace", f"10-1-2-3.no.pod.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=insecure
    ),
    Case("6.4 octet over 255", f"10-1-2-300.{P} A", rcode="NXDOMAIN", authority=[SOA], setup=insecure),
    Case("6.4 no address", f"web.{P} A", rcode="NXDOMAIN", authority=[SOA], setup=insecure),
    Case(
        "6.4 three dashes, two of them together, are IPv6",
        f"fd00--1-2.{P} AAAA",
        [f"fd00--1-2.{P} 5 IN AAAA fd00::1:2"],
        setup=insecure,
    ),
    Case("6.3 verified", f"10-1-2-3.{P} A", [f"10-1-2-3.{P} 5 IN A 10.1.2.3"], setup=verified),
    Case("6.5 verified, second family", f"fd00--3.{P} AAAA", [f"fd00--3.{P} 5 IN AAAA fd00::3"], setup=verified),
    Case("6.3 verified, another address", f"10-1-2-9.{P} A", rcode="NXDOMAIN", authority=[SOA], setup=verified),
    Case("6.3 verified, another namespace's", f"10-1-2-4.{P} A", rcode="NXDOMAIN", authority=[SOA], setup=verified),
    Case("6.6 namespace", f"{P} A", authority=[SOA], setup=insecure),
    Case("6.6 extra label", f"x.10-1-2-3.{P} A", rcode="NXDOMAIN", authority=[SOA], setup=insecure),
    Case("6.7 no PTR", "3.2.1.10.in-addr.arpa. PTR", rcode="NXDOMAIN", authority=[SOA_IN_ADDR], setup=verified),
]

pointing = Setup(
    objects(
        service("web", "10.96.0.1", "fd00::1"),
        endpoints("web", ready("10.1.0.1"), ready("10.96.0.1"), name="web-a"),
        service("db", headless=True),
        endpoints("db", ready("10.1.0.1", "db-0"), ready("10.1.0.2"), unready("10.1.0.3"), name="db-a"),
        endpoints("db", ready("10.1.0.2"), name="db-b"),
        endpoints("orphan", ready("10.1.0.9")),
        external("ext", "www.example.com"),
        endpoints("ext", ready("10.1.0.8")),
        service("hidden", "10.96.0.9", namespace="hidden"),
        endpoints("hidden", ready("10.1.0.10"), namespace="hidden"),
    )
)
ONE = "1.0.96.10.in-addr.arpa."
IP6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa."
narrow = replace(pointing, reverse=tuple(reverse_zones_from_text("10.96.0.0/12")))
REVERSE = [
    Case(
        "3.9 PTR of a cluster IP, 7.2 wins over endpoints",
        f"{ONE} PTR",
        [f"{ONE} 5 IN PTR web.default.svc.{Z}"],
        setup=pointing,
    ),
    Case("3.9 IPv6", f"{IP6} PTR", [f"{IP6} 5 IN PTR web.default.svc.{Z}"], setup=pointing),
    Case(
        "4.13, 4.14 endpoints, one for each Service",
        "1.0.1.10.in-addr.arpa. PTR",
        [
            f"1.0.1.10.in-addr.arpa. 5 IN PTR db-0.db.default.svc.{Z}",
            f"1.0.1.10.in-addr.arpa. 5 IN PTR 10-1-0-1.web.default.svc.{Z}",
        ],
        setup=pointing,
    ),
    Case(
        "4.12 the same endpoint in two slices",
        "2.0.1.10.in-addr.arpa. PTR",
        [f"2.0.1.10.in-addr.arpa. 5 IN PTR 10-1-0-2.db.default.svc.{Z}"],
        setup=pointing,
    ),
    Case("4.13 not ready", "3.0.1.10.in-addr.arpa. PTR", rcode="NXDOMAIN", authority=[SOA_IN_ADDR], setup=pointing),
    Case(
        "4.17 slice without a Service",
        "9.0.1.10.in-addr.arpa. PTR",
        rcode="NXDOMAIN",
        authority=[SOA_IN_ADDR],
        setup=pointing,
    ),
    Case(
        "4.17 slice of an ExternalName",
        "8.0.1.10.in-addr.arpa. PTR",
        rcode="NXDOMAIN",
        authority=[SOA_IN_ADDR],
        setup=pointing,
    ),
    Case(
        "7.6 hidden namespace", "9.0.96.10.in-addr.arpa. PTR", rcode="NXDOMAIN", authority=[SOA_IN_ADDR], setup=pointing
    ),
    Case(
        "7.6 hidden namespace's endpoints",
        "10.0.1.10.in-addr.arpa. PTR",
        rcode="NXDOMAIN",
        authority=[SOA_IN_ADDR],
        setup=pointing,
    ),
    Case("7.3 nothing there", "8.8.8.8.in-addr.arpa. PTR", rcode="NXDOMAIN", authority=[SOA_IN_ADDR], setup=pointing),
    Case("7.4 other type at a PTR", f"{ONE} A", authority=[SOA_IN_ADDR], setup=pointing),
    Case("1.9 a node above PTRs", "96.10.in-addr.arpa. PTR", authority=[SOA_IN_ADDR], setup=pointing),
    Case("1.9 a node above none", "97.10.in-addr.arpa. PTR", rcode="NXDOMAIN", authority=[SOA_IN_ADDR], setup=pointing),
    Case(
        "1.9 a node above hidden ones",
        "9.0.96.10.in-addr.arpa. A",
        rcode="NXDOMAIN",
        authority=[SOA_IN_ADDR],
        setup=pointing,
    ),
    Case("1.9 an IPv6 node", "0.0.d.f.ip6.arpa. A", authority=[SOA_IP6], setup=pointing),
    Case("7.5 too long", f"9.{ONE} PTR", rcode="NXDOMAIN", authority=[SOA_IN_ADDR], setup=pointing),
    Case(
        "7.5 octet over 255", "256.0.96.10.in-addr.arpa. PTR", rcode="NXDOMAIN", authority=[SOA_IN_ADDR], setup=pointing
    ),
    Case("7.5 leading zero", "01.0.96.10.in-addr.arpa. PTR", rcode="NXDOMAIN", authority=[SOA_IN_ADDR], setup=pointing),
    Case("7.5 bad nibble", "x.0.d.f.ip6.arpa. PTR", rcode="NXDOMAIN", authority=[SOA_IP6], setup=pointing),
    Case("7.5 PTR of a forward name", f"web.default.svc.{Z} PTR", authority=[SOA], setup=pointing),
    Case("7.1 apex", "in-addr.arpa. SOA", [SOA_IN_ADDR], setup=pointing),
    Case("7.1 outside the CIDR", "1.0.1.10.in-addr.arpa. PTR", rcode="REFUSED", flags="QR RD", setup=narrow),
    Case(
        "7.1 a network of single addresses",
        f"{ONE} PTR",
        [f"{ONE} 5 IN PTR web.default.svc.{Z}"],
        setup=replace(pointing, reverse=tuple(reverse_zones_from_text("10.96.0.0/30"))),
    ),
    Case(
        "7.1 one of them that nothing has: an apex exists",
        "2.0.96.10.in-addr.arpa. PTR",
        authority=[SOA.replace("cluster.local. 5", "2.0.96.10.in-addr.arpa. 5", 1)],
        setup=replace(pointing, reverse=tuple(reverse_zones_from_text("10.96.0.0/30"))),
    ),
    Case("7.1 inside the CIDR", f"{ONE} PTR", [f"{ONE} 5 IN PTR web.default.svc.{Z}"], setup=narrow),
]

empty = Setup(
    objects(service("web", "10.96.0.1", port=["http:80"]), endpoints("web", unready("10.1.0.1"))),
    ignore_empty_service=True,
)
SERVFAIL_FLAGS = "QR AA RD"
starting = replace(web, synced=False)
OPTIONS = [
    Case("10 ignore empty_service", f"web.default.svc.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=empty),
    Case("10 … its PTR too", f"{ONE} PTR", rcode="NXDOMAIN", authority=[SOA_IN_ADDR], setup=empty),
    Case("11.2 missing before sync", f"no.default.svc.{Z} A", rcode="SERVFAIL", authority=[SOA], setup=starting),
    Case(
        "11.2 NODATA before sync is not believed either",
        f"web.default.svc.{Z} AAAA",
        rcode="SERVFAIL",
        authority=[SOA],
        setup=starting,
    ),
    Case(
        "11.2 what is known is answered",
        f"web.default.svc.{Z} A",
        [f"web.default.svc.{Z} 5 IN A 10.96.0.1"],
        setup=starting,
    ),
    Case("11.2 the apex is known", f"{Z} SOA", [SOA], setup=starting),
    Case("9.11 TTL", f"web.default.svc.{Z} A", [f"web.default.svc.{Z} 30 IN A 10.96.0.1"], setup=replace(web, ttl=30)),
    Case("9.11 TTL 0", f"web.default.svc.{Z} A", [f"web.default.svc.{Z} 0 IN A 10.96.0.1"], setup=replace(web, ttl=0)),
    Case(
        "1.12 the longest match of several zones",
        "web.default.svc.a.cluster.local. A",
        ["web.default.svc.a.cluster.local. 5 IN A 10.96.0.1"],
        setup=replace(web, zones=(Z, "a.cluster.local.")),
    ),
    Case(
        "1.12 PTR into the first zone",
        f"{ONE} PTR",
        [f"{ONE} 5 IN PTR web.default.svc.{Z}"],
        setup=replace(web, zones=(Z, "a.example.")),
    ),
]


@pytest.mark.parametrize("case", [*APEX, *PODS, *REVERSE, *OPTIONS], ids=str)
def test_row(case: Case) -> None:
    check(case)
