"""Static records over the zones, and names rewritten (the table of ``zones.static``)."""

from __future__ import annotations

from dataclasses import replace

import dns.message
import pytest

from kdns.answer.authority import Ask
from kdns.proto.message import read_message
from kdns.proto.query import Transport
from kdns.proto.reading import read_query
from tests.support.builders import endpoints, external, objects, ready, service
from tests.support.cases import Case, check, Cluster, question, Setup, SOA, SOA_IN_ADDR
from zones.errors import BadName, BadRecord
from zones.names import Name
from zones.records import A, SRV
from zones.rewrite import Rewrites, rule_from_text
from zones.static import conflicts_with, read_hosts, record_from_text, StaticRecords

Z = "cluster.local."

HOSTS = """
# comment
10.1.1.1   db.corp.example db   # the database
10.1.1.2   db.corp.example
fd00::1    db.corp.example six.corp.example
10.2.2.2   web.default.svc.cluster.local
10.3.3.3   new.sub.default.svc.cluster.local
"""

static = Setup(
    objects(
        service("web", "10.96.0.1", "fd00::a", port=["http:80"]),
        external("out", "db.corp.example"),
        service("hl", headless=True),
        endpoints("hl", ready("10.0.0.1", "h-0")),
    ),
    hosts=HOSTS,
    records=(
        'txt.corp.example 60 TXT "one two" three',
        "alias.corp.example CNAME db.corp.example",
        "_sql._tcp.corp.example SRV 0 5 5432 db.corp.example",
        "9.1.1.10.in-addr.arpa PTR nine.corp.example",
        "db.corp.example 60 TXT hello",
        f"out.default.svc.{Z} A 10.4.4.4",
        "loop.corp.example CNAME loop.corp.example",
        f"in.corp.example CNAME web.default.svc.{Z}",
    ),
)
DB = [f"db.corp.example. 5 IN A 10.1.1.{n}" for n in (1, 2)]

CASES = [
    Case("hosts, A", "db.corp.example. A", DB, setup=static),
    Case("hosts, AAAA", "db.corp.example. AAAA", ["db.corp.example. 5 IN AAAA fd00::1"], setup=static),
    Case("hosts, another name of the line", "db. A", ["db. 5 IN A 10.1.1.1"], setup=static),
    Case("hosts, the other family", "six.corp.example. A", setup=static),
    Case("hosts, case", "DB.Corp.EXAMPLE. A", DB, setup=static),
    Case("a type that the name lacks", "six.corp.example. TXT", setup=static),
    Case("a type of another source", "db.corp.example. TXT", ['db.corp.example. 60 IN TXT "hello"'], setup=static),
    Case(
        "PTR: the line's first name",
        "1.1.1.10.in-addr.arpa. PTR",
        ["1.1.1.10.in-addr.arpa. 5 IN PTR db.corp.example."],
        setup=static,
    ),
    Case(
        "PTR of the configuration",
        "9.1.1.10.in-addr.arpa. PTR",
        ["9.1.1.10.in-addr.arpa. 5 IN PTR nine.corp.example."],
        setup=static,
    ),
    Case(
        "PTR: the first line's",
        "2.2.2.10.in-addr.arpa. PTR",
        ["2.2.2.10.in-addr.arpa. 5 IN PTR one."],
        setup=replace(static, hosts="10.2.2.2 one uno\n10.2.2.2 two"),
    ),
    Case("above a PTR", "1.1.10.in-addr.arpa. PTR", authority=[SOA_IN_ADDR], setup=static),
    Case("TXT", "txt.corp.example. TXT", ['txt.corp.example. 60 IN TXT "one two" "three"'], setup=static),
    Case(
        "CNAME followed",
        "alias.corp.example. A",
        ["alias.corp.example. 5 IN CNAME db.corp.example.", *DB],
        setup=static,
    ),
    Case(
        "CNAME asked for",
        "alias.corp.example. CNAME",
        ["alias.corp.example. 5 IN CNAME db.corp.example."],
        setup=static,
    ),
    Case(
        "CNAME to a name without the type",
        "alias.corp.example. MX",
        ["alias.corp.example. 5 IN CNAME db.corp.example."],
        setup=static,
    ),
    Case("CNAME to itself", "loop.corp.example. A", ["loop.corp.example. 5 IN CNAME loop.corp.example."], setup=static),
    Case(
        "CNAME into a zone",
        "in.corp.example. AAAA",
        [f"in.corp.example. 5 IN CNAME web.default.svc.{Z}", f"web.default.svc.{Z} 5 IN AAAA fd00::a"],
        setup=replace(static, hosts=""),
    ),
    Case(
        "SRV with its target's addresses",
        "_sql._tcp.corp.example. SRV",
        ["_sql._tcp.corp.example. 5 IN SRV 0 5 5432 db.corp.example."],
        additional=[*DB, "db.corp.example. 5 IN AAAA fd00::1"],
        setup=static,
    ),
    Case("a name that is not static", "other.corp.example. A", rcode="REFUSED", flags="QR RD", setup=static),
    Case("it wins over the cluster", f"web.default.svc.{Z} A", [f"web.default.svc.{Z} 5 IN A 10.2.2.2"], setup=static),
    Case("both families together", f"web.default.svc.{Z} AAAA", authority=[SOA], setup=static),
    Case(
        "other types stay the cluster's",
        f"_http._tcp.web.default.svc.{Z} SRV",
        [f"_http._tcp.web.default.svc.{Z} 5 IN SRV 0 50 80 web.default.svc.{Z}"],
        additional=[f"web.default.svc.{Z} 5 IN A 10.2.2.2"],
        setup=static,
    ),
    Case(
        "it wins over an ExternalName", f"out.default.svc.{Z} A", [f"out.default.svc.{Z} 5 IN A 10.4.4.4"], setup=static
    ),
    Case("whose CNAME is gone", f"out.default.svc.{Z} TXT", authority=[SOA], setup=static),
    Case(
        "a new name in a zone", f"new.sub.default.svc.{Z} A", [f"new.sub.default.svc.{Z} 5 IN A 10.3.3.3"], setup=static
    ),
    Case("above it", f"sub.default.svc.{Z} A", authority=[SOA], setup=static),
    Case("beside it", f"no.sub.default.svc.{Z} A", rcode="NXDOMAIN", authority=[SOA], setup=static),
    Case("static before the cluster is known", "db.corp.example. A", DB, setup=replace(static, synced=False)),
    Case("ANY", "txt.corp.example. ANY", ['txt.corp.example. 60 IN TXT "one two" "three"'], setup=static),
]

rewrites = Setup(
    objects(
        service("web", "10.96.0.1", "fd00::a", port=["http:80"]),
        service("hl", headless=True),
        endpoints("hl", ready("10.0.0.1"), ready("10.0.0.2")),
    ),
    rewrites=(
        f"old.example=web.default.svc.{Z}",
        f"first.example=hl.default.svc.{Z}",
        f"first.example=web.default.svc.{Z}",
        f"*.legacy.example=*.default.svc.{Z}",
        f"short.default.svc.{Z}=web.default.svc.{Z}",
        "away.example=elsewhere.example",
    ),
)

REWRITTEN = [
    Case("exact", "old.example. A", ["old.example. 5 IN A 10.96.0.1"], setup=rewrites),
    Case("exact, case", "OLD.example. AAAA", ["old.example. 5 IN AAAA fd00::a"], setup=rewrites),
    Case("below an exact one", "x.old.example. A", rcode="REFUSED", flags="QR RD", setup=rewrites),
    Case("NODATA", "old.example. TXT", authority=["old.example." + SOA.removeprefix(Z)], setup=rewrites),
    Case(
        "the first rule",
        "first.example. A",
        ["first.example. 5 IN A 10.0.0.1", "first.example. 5 IN A 10.0.0.2"],
        setup=rewrites,
    ),
    Case("suffix", "web.legacy.example. A", ["web.legacy.example. 5 IN A 10.96.0.1"], setup=rewrites),
    Case(
        "suffix, labels in front",
        "_http._tcp.web.legacy.example. SRV",
        [f"_http._tcp.web.legacy.example. 5 IN SRV 0 50 80 web.default.svc.{Z}"],
        additional=[f"web.default.svc.{Z} 5 IN A 10.96.0.1", f"web.default.svc.{Z} 5 IN AAAA fd00::a"],
        setup=rewrites,
    ),
    Case(
        "suffix, NXDOMAIN",
        "no.legacy.example. A",
        rcode="NXDOMAIN",
        authority=["no.legacy.example." + SOA.removeprefix(Z)],
        setup=rewrites,
    ),
    Case("the suffix itself", "legacy.example. A", rcode="REFUSED", flags="QR RD", setup=rewrites),
    Case("inside a zone", f"short.default.svc.{Z} A", [f"short.default.svc.{Z} 5 IN A 10.96.0.1"], setup=rewrites),
    Case("to a name that nobody has", "away.example. A", rcode="REFUSED", flags="QR RD", setup=rewrites),
    Case("EDNS", "old.example. A", ["old.example. 5 IN A 10.96.0.1"], edns=True, setup=rewrites),
    Case("over TCP", "old.example. A", ["old.example. 5 IN A 10.96.0.1"], transport=Transport.TCP, setup=rewrites),
    Case(
        "rewritten to a static name",
        "old.example. A",
        ["old.example. 5 IN A 10.9.9.9"],
        setup=replace(rewrites, hosts=f"10.9.9.9 web.default.svc.{Z}"),
    ),
]


@pytest.mark.parametrize("case", [*CASES, *REWRITTEN], ids=str)
def test_static(case: Case) -> None:
    check(case)


def test_with_upstreams_other_types_and_rewritten_names_go_there() -> None:
    cluster = Cluster(replace(static, forwards=True, rewrites=rewrites.rewrites))
    for ask, asked in (
        ("db.corp.example. MX", "db.corp.example."),
        ("alias.corp.example. MX", "db.corp.example."),
        ("away.example. A", "elsewhere.example."),
    ):
        found = cluster.authority.answer(read_query(question(ask), Transport.UDP))
        assert isinstance(found, Ask)
        assert found.qname.to_text() == asked
    assert isinstance(found, Ask)
    reply = dns.message.make_response(dns.message.make_query("elsewhere.example.", "A"))
    reply.answer.append(dns.rrset.from_text("elsewhere.example.", 60, "IN", "A", "192.0.2.1"))
    answer = found.complete(read_message(reply.to_wire()))
    message = dns.message.from_wire(b"\0\0" + answer.tails[0])
    assert [rrset.to_text() for rrset in message.answer] == ["away.example. 60 IN A 192.0.2.1"]


def test_a_name_rewritten_to_an_alias_of_itself() -> None:
    setup = Setup(
        objects(service("a", "10.96.0.10"), external("b", f"a.default.svc.{Z}")),
        rewrites=(f"a.default.svc.{Z}=b.default.svc.{Z}",),
    )
    check(Case("no loop", f"a.default.svc.{Z} A", [f"a.default.svc.{Z} 5 IN A 10.96.0.10"], setup=setup))


def test_a_hosts_file_of_another_system() -> None:
    rrsets, bad = read_hosts("\ufeff10.0.0.1 one\r\n10.0.0.2 two\x0cnot\r\nbad\r\n", 5)
    assert {r.owner.to_text() for r in rrsets if r.rtype == A} == {"one.", "two.", "not."}
    assert [line.number for line in bad] == [3]


def test_a_rewritten_answer_goes_when_its_target_changes() -> None:
    cluster = Cluster(rewrites)
    wire = question("old.example. A")
    for _ in range(4):
        cluster.respond(wire, Transport.UDP)
    change = cluster.store.put(service("web", "10.96.0.2"))
    cluster.responder.forget(relative + Name.from_text(Z).key for relative in change.forward)
    reply = cluster.respond(wire, Transport.UDP)
    assert reply is not None
    assert dns.message.from_wire(reply).answer[0][0].to_text() == "10.96.0.2"


def test_a_rewritten_answer_is_cut_to_fit() -> None:
    many = [ready(f"10.0.{n >> 8}.{n & 255}") for n in range(300)]
    setup = Setup(
        objects(service("hl", headless=True), endpoints("hl", *many)), rewrites=(f"old.example=hl.default.svc.{Z}",)
    )
    reply = Cluster(setup).respond(question("old.example. A"), Transport.UDP)
    assert reply is not None
    assert len(reply) <= 512
    assert dns.message.from_wire(reply).flags & 0x0200
    whole = Cluster(setup).respond(question("old.example. A"), Transport.TCP)
    assert whole is not None
    assert len(dns.message.from_wire(whole).answer[0]) == 300


def test_conflicts_are_told() -> None:
    records = StaticRecords(
        [
            ("config", [record_from_text("a.example A 10.0.0.1", 5), record_from_text("c.example CNAME d.example", 5)]),
            ("hosts", read_hosts("10.0.0.2 a.example\n10.0.0.3 c.example\n10.0.0.4 e.example", 5)[0]),
        ]
    )
    assert [str(conflict) for conflict in records.conflicts] == [
        "a.example A: config counts, hosts is passed over",
        "c.example A: config counts, hosts is passed over",
    ]
    cluster = Cluster(static)
    owner = Name.from_text(f"web.default.svc.{Z}")
    (conflict,) = conflicts_with(cluster.overlay.records, cluster.cluster_zones[0], owner, "the cluster")
    assert (conflict.rtype, conflict.winner, conflict.loser) == (A, "hosts", "the cluster")


def test_a_walk_has_the_static_records_in_their_place() -> None:
    cluster = Cluster(static)
    rrsets = {(rrset.owner.to_text(), rrset.rtype): rrset for rrset in cluster.zones[0].walk()}
    assert rrsets[f"web.default.svc.{Z}", A].rdatas == (bytes((10, 2, 2, 2)),)
    assert (f"web.default.svc.{Z}", 28) not in rrsets
    assert (f"out.default.svc.{Z}", 5) not in rrsets
    assert (f"_http._tcp.web.default.svc.{Z}", SRV) in rrsets
    assert (f"new.sub.default.svc.{Z}", A) in rrsets
    assert ("db.corp.example.", A) not in rrsets


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("10.0.0.256 a", "no IP address"),
        ("10.0.0.1", "no name"),
        ("a.example 10.0.0.1", "no IP address"),
        ("fe80::1%eth0 a", "scope"),
        ("10.0.0.1 a..b", "empty label"),
        ("010.0.0.1 a", "no IP address"),
    ],
)
def test_a_bad_line_of_hosts_costs_itself(line: str, reason: str) -> None:
    rrsets, bad = read_hosts(f"10.0.0.1 good\n{line}\n10.0.0.2 better\n", 5)
    assert {rrset.owner.to_text() for rrset in rrsets if rrset.rtype == A} == {"good.", "better."}
    assert [(problem.number, reason in problem.reason) for problem in bad] == [(2, True)]


@pytest.mark.parametrize(
    "text",
    ["", "a", "a A", "a 10 A", "a A 10.0.0.256", "a A ::1", "a AAAA 10.0.0.1", "a MX 10 b", "a SRV 1 2 b", "a SRV 1 2 65536 b",
     "*.a A 10.0.0.1", "a TXT", 'a TXT "open', "a..b A 10.0.0.1", "a 4294967296 A 10.0.0.1", "a CNAME b c", "a IN"],
)  # fmt: skip
def test_bad_records_are_refused(text: str) -> None:
    with pytest.raises((BadRecord, BadName)):
        record_from_text(text, 5)


@pytest.mark.parametrize("text", ["a", "*.a=b", "a=*.b", "=b", "a=", "a=a", "a..b=c", "*.=*.b"])
def test_bad_rules_are_refused(text: str) -> None:
    with pytest.raises((ValueError, BadName)):
        rule_from_text(text)


def test_a_rewritten_name_that_would_be_too_long_is_left_alone() -> None:
    rules = Rewrites([rule_from_text("*.a=*." + ".".join(["x" * 60] * 3))])
    assert rules.of(Name.from_text("y.a")) is not None
    assert rules.of(Name.from_text("y" * 60 + "." + "z" * 60 + ".a")) is None
