"""Search-path expansion: the whole walk at the first step (CONTRACT sections 14 and 15, ROBUSTNESS section 4)."""

from __future__ import annotations

import json
from pathlib import Path

from kdns.proto import peer
from nodelocal.follow import take_said
from nodelocal.pods import NodePods
from tests.support.scenario import CLUSTER, KDNS, OUTSIDE, Scenario, scenario

Z = "cluster.local"
FIRST = f"www.example.com.backend.svc.{Z}"
STEPS = (FIRST, f"www.example.com.svc.{Z}", f"www.example.com.{Z}")
EXPLICIT = f"www.example.com.search.backend.{Z}.ap.k8s.io"
SOA = f"{Z}. 30 IN SOA ns.dns.{Z}. hostmaster.{Z}. 1 2 3 4 30"


def deny_inside(s: Scenario, rrtype: str = "A", *, ttl: int = 30, steps: tuple[str, ...] = STEPS) -> None:
    for step in steps:
        s.expect(step, rrtype, server=CLUSTER).nxdomain(f"{Z}.", ttl=ttl)


def deny_corp(s: Scenario, rrtype: str = "A") -> None:
    s.expect("www.example.com.corp.test", rrtype, server=OUTSIDE).nxdomain("corp.test.")


# -- step by step, at a server that is not kdns -------------------------------------------------------------------------


@scenario()
async def test_the_first_step_is_answered_with_what_the_walk_ends_at(s: Scenario) -> None:
    asked = s.ask(FIRST)
    assert len(s.pending) == 3, "the steps in the cluster are asked in one round trip"
    deny_inside(s)
    deny_corp(s)
    s.expect("www.example.com", server=OUTSIDE).reply("www.example.com. 60 IN A 192.0.2.1")
    s.expect_nothing()
    assert asked.rcode == "NOERROR"
    assert asked.records == [f"{FIRST}. 30 CNAME www.example.com.", "www.example.com. 30 A 192.0.2.1"]


@scenario()
async def test_a_and_aaaa_share_the_decision(s: Scenario) -> None:
    """At most 3 outside: one denial of the host-suffix name, then A and AAAA."""
    first = s.ask(FIRST), s.ask(FIRST, "AAAA")
    deny_inside(s)
    deny_corp(s)
    s.expect("www.example.com").reply("www.example.com. 60 IN A 192.0.2.1")
    s.expect("www.example.com", "AAAA").reply("www.example.com. 60 IN AAAA 2001:db8::1")
    s.expect_nothing()
    assert first[0].addresses == ["192.0.2.1"]
    assert first[1].addresses == ["2001:db8::1"]
    await s.advance(1)
    assert s.ask(FIRST).addresses == ["192.0.2.1"]
    assert s.ask(FIRST, "AAAA").addresses == ["2001:db8::1"]
    s.expect_nothing()


@scenario()
async def test_a_name_of_one_family_is_nodata_for_the_other(s: Scenario) -> None:
    asked = s.ask(FIRST, "AAAA")
    deny_inside(s, "AAAA")
    deny_corp(s, "AAAA")
    s.expect("www.example.com", "AAAA").nodata("example.com.")
    s.expect("www.example.com", "A").reply("www.example.com. 60 IN A 192.0.2.1")
    assert asked.rcode == "NOERROR"
    assert asked.records == [f"{FIRST}. 30 CNAME www.example.com."]
    assert s.ask(FIRST).addresses == ["192.0.2.1"]
    s.expect_nothing()


@scenario()
async def test_the_first_step_that_has_something_wins_without_the_rest(s: Scenario) -> None:
    asked = s.ask(f"web.backend.default.svc.{Z}")
    s.expect(f"web.backend.default.svc.{Z}").nxdomain(f"{Z}.")
    s.expect(f"web.backend.svc.{Z}").reply(f"web.backend.svc.{Z}. 5 IN A 10.96.0.80")
    assert asked.records == [
        f"web.backend.default.svc.{Z}. 5 CNAME web.backend.svc.{Z}.",
        f"web.backend.svc.{Z}. 5 A 10.96.0.80",
    ]


@scenario()
async def test_a_later_step_waits_for_the_earlier(s: Scenario) -> None:
    asked = s.ask(f"web.backend.default.svc.{Z}")
    s.expect(f"web.backend.svc.{Z}").reply(f"web.backend.svc.{Z}. 5 IN A 10.96.0.80")
    assert asked.is_waiting
    s.expect(f"web.backend.default.svc.{Z}").reply(f"web.backend.default.svc.{Z}. 5 IN A 10.96.0.99")
    assert asked.records == [f"web.backend.default.svc.{Z}. 5 A 10.96.0.99"], "no alias where the name itself is found"


@scenario()
async def test_nodata_goes_on_and_is_what_is_left(s: Scenario) -> None:
    asked = s.ask(FIRST, "TXT")
    s.expect(STEPS[0], "TXT").nodata(f"{Z}.")
    for step in STEPS[1:]:
        s.expect(step, "TXT").nxdomain(f"{Z}.")
    deny_corp(s, "TXT")
    s.expect("www.example.com", "TXT").nxdomain("example.com.")
    assert (asked.rcode, asked.records) == ("NOERROR", [])
    assert asked.message.authority[0].name.to_text() == f"{Z}."


@scenario()
async def test_nothing_anywhere_is_nxdomain_of_the_cluster_zone(s: Scenario) -> None:
    asked = s.ask(FIRST)
    deny_inside(s, ttl=7)
    deny_corp(s)
    s.expect("www.example.com").nxdomain("example.com.")
    assert asked.rcode == "NXDOMAIN"
    assert asked.message.authority[0].name.to_text() == f"{Z}."
    assert asked.ttl == 7
    assert s.ask(FIRST, "AAAA").rcode == "NXDOMAIN"
    s.expect_nothing()


@scenario()
async def test_a_failed_step_ends_the_walk(s: Scenario) -> None:
    asked = s.ask(FIRST)
    s.expect(STEPS[0]).nxdomain(f"{Z}.")
    s.expect(STEPS[1]).reply(rcode="SERVFAIL")
    assert asked.rcode == "SERVFAIL"
    s.expect(STEPS[2]).nxdomain(f"{Z}.")
    s.expect_nothing()
    await s.advance(1.25)
    asked = s.ask(FIRST)
    assert asked.is_waiting, "a failure is not remembered as an end"


@scenario()
async def test_a_failure_behind_the_winner_does_not_matter(s: Scenario) -> None:
    asked = s.ask(f"web.backend.default.svc.{Z}")
    s.expect(f"web.backend.{Z}").reply(rcode="SERVFAIL")
    s.expect(f"web.backend.default.svc.{Z}").nxdomain(f"{Z}.")
    s.expect(f"web.backend.svc.{Z}").reply(f"web.backend.svc.{Z}. 5 IN A 10.96.0.80")
    assert asked.addresses == ["10.96.0.80"]


@scenario()
async def test_an_answer_does_not_outlive_its_shortest_step(s: Scenario) -> None:
    """A Service made later must win."""
    asked = s.ask(FIRST)
    deny_inside(s, ttl=5)
    deny_corp(s)
    s.expect("www.example.com").reply("www.example.com. 3600 IN A 192.0.2.1")
    assert {int(line.split()[1]) for line in asked.records} == {5}
    await s.advance(4)
    assert s.ask(FIRST).ttl == 1
    s.pending.clear()
    await s.advance(2)
    s.ask(FIRST)
    assert [sent.name for sent in s.pending] == [f"{step}." for step in STEPS]


@scenario()
async def test_the_found_name_may_be_an_alias_itself(s: Scenario) -> None:
    asked = s.ask(FIRST)
    deny_inside(s)
    deny_corp(s)
    s.expect("www.example.com").reply(
        "www.example.com. 60 IN CNAME cdn.example.net.", "cdn.example.net. 20 IN A 192.0.2.7"
    )
    assert [line.split()[2:] for line in asked.records] == [
        ["CNAME", "www.example.com."],
        ["CNAME", "cdn.example.net."],
        ["A", "192.0.2.7"],
    ]


@scenario(stub=["corp.test=198.51.100.1"])
async def test_stub_zones_are_honoured(s: Scenario) -> None:
    s.ask(f"git.corp.test.backend.svc.{Z}")
    for step in (f"git.corp.test.backend.svc.{Z}", f"git.corp.test.svc.{Z}", f"git.corp.test.{Z}"):
        s.expect(step, server=CLUSTER).nxdomain(f"{Z}.")
    s.expect("git.corp.test.corp.test", server="198.51.100.1").nxdomain("corp.test.")
    s.expect("git.corp.test", server="198.51.100.1")


@scenario()
async def test_a_full_name_typed_without_its_last_dot(s: Scenario) -> None:
    name = f"web.backend.svc.{Z}.default.svc.{Z}"
    asked = s.ask(name)
    for step in (name, f"web.backend.svc.{Z}.svc.{Z}", f"web.backend.svc.{Z}.{Z}"):
        s.expect(step, server=CLUSTER).nxdomain(f"{Z}.")
    s.expect(f"web.backend.svc.{Z}.corp.test", server=OUTSIDE).nxdomain("corp.test.")
    s.expect(f"web.backend.svc.{Z}", server=CLUSTER).reply(f"web.backend.svc.{Z}. 5 IN A 10.96.0.80")
    assert asked.addresses == ["10.96.0.80"]


# -- what is never expanded -----------------------------------------------------------------------------------------------


@scenario()
async def test_what_is_asked_as_it_stands(s: Scenario) -> None:
    for name, rrtype in (
        (f"web.backend.svc.{Z}", "A"),  # one label: just that Service, where nobody is known
        (f"_grpc._tcp.web.backend.svc.{Z}", "SRV"),
        (f"www.example.com.{Z}", "A"),
        (f"backend.svc.{Z}", "A"),
        (f"a.b.c.d.e.f.backend.svc.{Z}", "A"),  # five dots: tried as it is first
        (f"10-1-2-3.backend.pod.{Z}", "A"),
        ("www.example.com", "A"),
    ):
        s.ask(name, rrtype)
        s.expect(name, rrtype)
        s.expect_nothing()


@scenario(expand="off")
async def test_off(s: Scenario) -> None:
    for name in (FIRST, EXPLICIT):
        s.ask(name)
        s.expect(name)
        s.expect_nothing()


@scenario(expand="explicit")
async def test_explicit_alone(s: Scenario) -> None:
    s.ask(f"ftp.example.com.backend.svc.{Z}")
    s.expect(f"ftp.example.com.backend.svc.{Z}")
    s.expect_nothing()
    s.ask(EXPLICIT)
    assert [sent.name for sent in s.pending] == [f"{step}." for step in STEPS]


@scenario()
async def test_explicit_form_at_a_server_that_is_not_kdns(s: Scenario) -> None:
    asked = s.ask(EXPLICIT)
    deny_inside(s)
    deny_corp(s)
    s.expect("www.example.com").reply("www.example.com. 60 IN A 192.0.2.1")
    assert asked.records[0] == f"{EXPLICIT}. 30 CNAME www.example.com."
    asked = s.ask(f"web.search.backend.{Z}.ap.k8s.io")
    s.expect(f"web.backend.svc.{Z}").reply(f"web.backend.svc.{Z}. 5 IN A 10.96.0.80")
    assert asked.addresses == ["10.96.0.80"]


@scenario()
async def test_explicit_denials_bear_a_soa_above_the_name(s: Scenario) -> None:
    asked = s.ask(EXPLICIT)
    deny_inside(s)
    deny_corp(s)
    s.expect("www.example.com").nxdomain("example.com.")
    assert asked.rcode == "NXDOMAIN"
    assert asked.message.authority[0].name.to_text() == f"{Z}.ap.k8s.io."


@scenario()
async def test_the_search_element_itself_is_nodata(s: Scenario) -> None:
    for name in (f"search.backend.{Z}.ap.k8s.io", f"backend.{Z}.ap.k8s.io", f"{Z}.ap.k8s.io"):
        asked = s.ask(name)
        assert (asked.rcode, asked.records) == ("NOERROR", [])
    s.expect_nothing()


@scenario()
async def test_the_clients_next_steps_are_not_taken_for_first_ones(s: Scenario) -> None:
    """``a.b.test.svc.<zone>`` is the second step for ``a.b.test``, not the first one for ``a.b`` in namespace test."""
    asked = s.ask(f"a.b.test.backend.svc.{Z}")
    for step in (f"a.b.test.backend.svc.{Z}", f"a.b.test.svc.{Z}", f"a.b.test.{Z}"):
        s.expect(step).nxdomain(f"{Z}.")
    s.expect("a.b.test.corp.test").nxdomain("corp.test.")
    s.expect("a.b.test").nxdomain("test.")
    assert asked.rcode == "NXDOMAIN"
    for rest in (f"a.b.test.svc.{Z}", f"a.b.test.{Z}", "a.b.test.corp.test", "a.b.test"):
        assert s.ask(rest).rcode == "NXDOMAIN"
        s.expect_nothing()


@scenario()
async def test_a_namespace_named_like_a_tld_is_asked_for_before_it_is_believed(s: Scenario) -> None:
    asked = s.ask(f"www.example.com.svc.{Z}")
    s.expect(f"com.svc.{Z}", server=CLUSTER).nxdomain(f"{Z}.")
    s.expect(f"www.example.com.svc.{Z}", server=CLUSTER).nxdomain(f"{Z}.")
    s.expect_nothing()
    assert asked.rcode == "NXDOMAIN"
    asked = s.ask(f"www.example.org.svc.{Z}")
    s.expect(f"org.svc.{Z}", server=CLUSTER).nodata(f"{Z}.")
    for step in (f"www.example.org.svc.{Z}", f"www.example.svc.{Z}", f"www.example.{Z}"):
        s.expect(step).nxdomain(f"{Z}.")


# -- at kdns --------------------------------------------------------------------------------------------------------------


async def _meet_kdns(s: Scenario) -> None:
    s.ask("dns-version.cluster.local", "TXT")
    sent = s.expect(f"dns-version.{Z}", "TXT")
    assert peer.CODE in sent.options
    sent.reply(f'dns-version.{Z}. 5 IN TXT "1.1.0"', note=0)


@scenario()
async def test_kdns_is_asked_one_question(s: Scenario) -> None:
    await _meet_kdns(s)
    asked = s.ask(FIRST)
    s.expect(EXPLICIT).nxdomain(f"{Z}.ap.k8s.io.", note=peer.NOTHING_MATCHED)
    deny_corp(s)
    s.expect("www.example.com").reply("www.example.com. 60 IN A 192.0.2.1")
    s.expect_nothing()
    assert asked.records[0] == f"{FIRST}. 30 CNAME www.example.com."
    other = s.ask(FIRST, "AAAA")
    s.expect("www.example.com", "AAAA").reply("www.example.com. 60 IN AAAA 2001:db8::1")
    s.expect_nothing()
    assert other.addresses == ["2001:db8::1"]


@scenario()
async def test_kdns_finds_it_in_the_cluster(s: Scenario) -> None:
    await _meet_kdns(s)
    name = f"web.backend.default.svc.{Z}"
    explicit = f"web.backend.search.default.{Z}.ap.k8s.io"
    asked = s.ask(name)
    s.expect(explicit).reply(
        f"{explicit}. 5 IN CNAME web.backend.svc.{Z}.", f"web.backend.svc.{Z}. 5 IN A 10.96.0.80", note=0
    )
    assert asked.records == [f"{name}. 5 CNAME web.backend.svc.{Z}.", f"web.backend.svc.{Z}. 5 A 10.96.0.80"]
    other = s.ask(name, "AAAA")
    s.expect(explicit, "AAAA").nodata(f"{Z}.", f"{explicit}. 5 IN CNAME web.backend.svc.{Z}.", note=0)
    assert other.rcode == "NOERROR"
    assert other.records == [f"{name}. 5 CNAME web.backend.svc.{Z}."]
    s.expect_nothing()


@scenario()
async def test_a_name_that_may_be_meant_literally_is_not_expanded(s: Scenario) -> None:
    await _meet_kdns(s)
    name = f"pod0.db.backend.svc.{Z}"
    asked = s.ask(name)
    explicit = f"pod0.db.search.backend.{Z}.ap.k8s.io"
    s.expect(explicit).nxdomain(f"{Z}.ap.k8s.io.", note=peer.NOTHING_MATCHED | peer.LITERAL)
    s.expect(name, server=CLUSTER).nxdomain(f"{Z}.", note=0)
    assert asked.rcode == "NXDOMAIN"
    s.expect_nothing()
    # The explicit form says itself that it is a walk.
    s.ask(f"pod1.db.search.backend.{Z}.ap.k8s.io")
    s.expect(f"pod1.db.search.backend.{Z}.ap.k8s.io").nxdomain(
        f"{Z}.ap.k8s.io.", note=peer.NOTHING_MATCHED | peer.LITERAL
    )
    s.expect("pod1.db.corp.test", server=OUTSIDE)


@scenario()
async def test_no_other_server_ever_sees_the_explicit_form(s: Scenario) -> None:
    await _meet_kdns(s)
    s.ask("dns-version.cluster.local", "TXT", do=True)
    s.expect(f"dns-version.{Z}", "TXT").reply(f'dns-version.{Z}. 5 IN TXT "1.1.0"')  # another server answers there now
    s.ask(FIRST)
    assert [sent.name for sent in s.pending] == [f"{step}." for step in STEPS]


@scenario()
async def test_a_server_that_changes_meanwhile(s: Scenario) -> None:
    await _meet_kdns(s)
    asked = s.ask(FIRST)
    s.expect(EXPLICIT).nxdomain("test.")
    deny_inside(s)
    deny_corp(s)
    s.expect("www.example.com").reply("www.example.com. 60 IN A 192.0.2.1")
    assert asked.addresses == ["192.0.2.1"]


@scenario()
async def test_a_server_that_echoes_the_option_is_not_kdns(s: Scenario) -> None:
    import dns.edns
    import dns.message
    import dns.rrset

    s.ask("dns-version.cluster.local", "TXT")
    sent = s.expect(f"dns-version.{Z}", "TXT")
    reply = dns.message.make_response(sent.message)
    reply.answer.append(dns.rrset.from_text(f"dns-version.{Z}.", 5, "IN", "TXT", '"1.1.0"'))
    reply.use_edns(0, options=[dns.edns.GenericOption(KDNS, b"")])
    sent.raw(reply.to_wire())
    assert s.server.resolver.peers == set()


@scenario()
async def test_only_the_cluster_is_asked_who_it_is(s: Scenario) -> None:
    s.ask("www.example.com")
    assert s.expect("www.example.com").options == set()


@scenario()
async def test_an_external_name_found_by_kdns_is_followed_outside(s: Scenario) -> None:
    await _meet_kdns(s)
    name = f"pay.backend.default.svc.{Z}"
    explicit = f"pay.backend.search.default.{Z}.ap.k8s.io"
    asked = s.ask(name)
    s.expect(explicit).reply(
        f"{explicit}. 5 IN CNAME pay.backend.svc.{Z}.", f"pay.backend.svc.{Z}. 5 IN CNAME www.example.com.", note=0
    )
    s.expect("www.example.com", server=OUTSIDE).reply("www.example.com. 60 IN A 192.0.2.1")
    assert [line.split()[2:] for line in asked.records] == [
        ["CNAME", f"pay.backend.svc.{Z}."],
        ["CNAME", "www.example.com."],
        ["A", "192.0.2.1"],
    ]


# -- namespaces that are named like the outside world -----------------------------------------------------------------------


@scenario()
async def test_a_namespace_named_like_a_tld_wins_as_in_the_clients_walk_and_is_counted(s: Scenario) -> None:
    """CVE-2022-2835: exactly what the client's own walk would do, told and counted."""
    asked = s.ask(f"google.com.default.svc.{Z}")
    s.expect(f"google.com.default.svc.{Z}").nxdomain(f"{Z}.")
    s.expect(f"google.com.svc.{Z}").reply(f"google.com.svc.{Z}. 5 IN A 10.96.0.66")
    assert asked.addresses == ["10.96.0.66"]
    assert s.server.expander.hijacks == 1
    assert b"nodelocal_walks_into_public_namespace_total 1.0" in s.server.metrics.page()


@scenario(public_names="absolute-first")
async def test_public_names_can_be_tried_before_other_namespaces(s: Scenario) -> None:
    asked = s.ask(f"google.com.default.svc.{Z}")
    s.expect(f"google.com.default.svc.{Z}").nxdomain(f"{Z}.")
    s.expect(f"google.com.svc.{Z}").reply(f"google.com.svc.{Z}. 5 IN A 10.96.0.66")
    s.expect("google.com", server=OUTSIDE).reply("google.com. 60 IN A 192.0.2.1")
    assert asked.addresses == ["192.0.2.1"]
    asked = s.ask(f"no.example.com.default.svc.{Z}")
    for step in (f"no.example.com.default.svc.{Z}", f"no.example.com.svc.{Z}", f"no.example.com.{Z}"):
        s.expect(step).nxdomain(f"{Z}.")
    s.expect("no.example.com", server=OUTSIDE).nxdomain("example.com.")
    s.expect("no.example.com.corp.test").nxdomain("corp.test.")
    assert asked.rcode == "NXDOMAIN"
    asked = s.ask(f"only.com.default.svc.{Z}")
    s.expect(f"only.com.default.svc.{Z}").nxdomain(f"{Z}.")
    s.expect(f"only.com.svc.{Z}").reply(f"only.com.svc.{Z}. 5 IN A 10.96.0.67")
    s.expect("only.com", server=OUTSIDE).nxdomain("com.")
    assert asked.addresses == ["10.96.0.67"], "what is not outside is found in the cluster after all"


@scenario(public_names="absolute-first")
async def test_a_name_that_is_found_as_it_stands_is_never_asked_for_outside(s: Scenario) -> None:
    """``web-0.app.backend.svc.<zone>``: a host of the Service app, though .app is a top-level domain."""
    asked = s.ask(f"web-0.app.backend.svc.{Z}")
    s.expect(f"web-0.app.backend.svc.{Z}").reply(f"web-0.app.backend.svc.{Z}. 5 IN A 10.1.0.1")
    assert asked.addresses == ["10.1.0.1"]
    assert all(sent.server == CLUSTER for sent in s.pending)


# -- the node's pods ------------------------------------------------------------------------------------------------------------


def _with_pods(s: Scenario) -> None:
    pods = NodePods()
    for line in (
        b'{"put": ["backend", "web-1", ["10.244.0.9", "fd00::9"], "usual"]}',
        b'{"put": ["backend", "own", ["10.244.0.10"], "own"]}',
        b'{"put": ["kube-system", "host", ["192.168.0.1"], "unknown"]}',
        b'{"put": ["a", "one", ["10.244.0.11"], "usual"]}',
        b'{"put": ["b", "two", ["10.244.0.11"], "usual"]}',
        b'{"all": [["backend", "web-1"], ["backend", "own"], ["kube-system", "host"], ["a", "one"], ["b", "two"]]}',
    ):
        take_said(pods, json.loads(line))
    s.server.expander.pods = pods


@scenario()
async def test_with_known_pods_one_label_names_are_expanded_for_them(s: Scenario) -> None:
    _with_pods(s)
    for client in ("10.244.0.9", "fd00::9"):
        s.ask(f"web.backend.svc.{Z}", client=client, rrtype="A" if client[0] == "1" else "AAAA")
    assert {sent.name for sent in s.pending} == {f"web.backend.svc.{Z}.", f"web.svc.{Z}.", f"web.{Z}."}


@scenario()
async def test_nobody_else_is_expanded_for(s: Scenario) -> None:
    _with_pods(s)
    for client in ("10.244.0.10", "10.244.9.9", "192.168.0.1", "10.244.0.11"):
        name = f"www{client.replace('.', '-')}.example.com.backend.svc.{Z}"
        s.ask(name, client=client)
        s.expect(name)
        s.expect_nothing()
    s.ask(f"www.example.com.default.svc.{Z}", client="10.244.0.9")  # not its namespace
    s.expect(f"www.example.com.default.svc.{Z}")
    s.expect_nothing()


@scenario()
async def test_the_explicit_form_is_for_pods_of_the_namespace(s: Scenario) -> None:
    _with_pods(s)
    s.ask(EXPLICIT, client="10.244.0.10")  # its own path: that of the explicit form, say
    assert len(s.pending) == 3
    s.pending.clear()
    for client in ("10.244.9.9", "10.244.0.11"):
        asked = s.ask(f"db.search.backend.{Z}.ap.k8s.io", client=client)
        assert asked.rcode == "NXDOMAIN", "no upstream ever sees that form"
        s.expect_nothing()


@scenario()
async def test_an_expanded_answer_is_not_given_to_a_client_of_another_namespace(s: Scenario) -> None:
    _with_pods(s)
    for _ in range(4):
        asked = s.ask(FIRST, client="10.244.0.9")
        if s.pending:
            deny_inside(s)
            deny_corp(s)
            s.expect("www.example.com").reply("www.example.com. 60 IN A 192.0.2.1")
        assert asked.addresses == ["192.0.2.1"]
        assert s.ask(FIRST, client="10.244.9.9").rcode == "NXDOMAIN"


@scenario()
async def test_a_pod_that_is_gone_is_nobody(s: Scenario) -> None:
    _with_pods(s)
    pods = s.server.expander.pods
    assert pods is not None
    assert pods.at("10.244.0.9") is not None
    take_said(pods, {"delete": ["backend", "web-1"]})
    assert pods.at("10.244.0.9") is None
    take_said(pods, {"delete": ["a", "one"]})
    one = pods.at("10.244.0.11")
    assert one is not None
    assert one.namespace == b"b"
    take_said(pods, {"all": []})
    assert len(pods) == 0
    take_said(pods, {"nonsense": 1})
    take_said(pods, {"put": ["a"]})
    assert len(pods) == 0


# -- the host's search path ---------------------------------------------------------------------------------------------------------


def test_the_hosts_domains_come_from_the_resolv_conf(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text(f"nameserver {OUTSIDE.split(':')[0]}\nsearch one.test two.test\n")

    @scenario(search=None, upstream=[str(conf)])
    async def steps(s: Scenario) -> None:
        s.ask(FIRST)
        deny_inside(s)
        s.expect("www.example.com.one.test").nxdomain("one.test.")
        s.expect("www.example.com.two.test").nxdomain("two.test.")
        s.expect("www.example.com")

    steps()


# -- what the reviews found -------------------------------------------------------------------------------------------------


@scenario()
async def test_a_dot_inside_a_label_is_another_walk(s: Scenario) -> None:
    asked = s.ask(f"www\\.example.com.backend.svc.{Z}")
    while s.pending:
        s.pending.pop(0).nxdomain("test.")
    assert asked.rcode == "NXDOMAIN"
    s.ask(FIRST)
    assert [sent.name for sent in s.pending] == [f"{step}." for step in STEPS]


@scenario()
async def test_a_literal_name_is_not_given_what_a_later_step_has(s: Scenario) -> None:
    """Service db in backend, and by chance a Service pod9 in a namespace db."""
    await _meet_kdns(s)
    name = f"pod9.db.backend.svc.{Z}"
    explicit = f"pod9.db.search.backend.{Z}.ap.k8s.io"
    asked = s.ask(name)
    s.expect(explicit).reply(
        f"{explicit}. 5 IN CNAME pod9.db.svc.{Z}.", f"pod9.db.svc.{Z}. 5 IN A 10.96.0.9", note=peer.LITERAL
    )
    s.expect(name, server=CLUSTER).nxdomain(f"{Z}.", note=0)
    assert asked.rcode == "NXDOMAIN"
    asked = s.ask(explicit)
    assert asked.addresses == ["10.96.0.9"], "the explicit form says itself that it is a walk"


@scenario()
async def test_the_walk_ends_before_the_clients_patience(s: Scenario) -> None:
    asked = s.ask(FIRST)
    await s.advance(2)
    deny_inside(s)  # each step answers within its own time, all of them together do not
    await s.advance(1.9)
    assert asked.is_waiting
    await s.advance(0.5)
    assert asked.rcode == "SERVFAIL"
    assert asked.errors == [22]
    deny_corp(s)
    s.expect("www.example.com").reply("www.example.com. 60 IN A 192.0.2.1")
    assert s.ask(FIRST).addresses == ["192.0.2.1"], "what came later is there for the next"


@scenario()
async def test_stale_steps_make_a_stale_answer_in_time(s: Scenario) -> None:
    s.ask(FIRST)
    deny_inside(s, ttl=5)
    deny_corp(s)
    s.expect("www.example.com").reply("www.example.com. 5 IN A 192.0.2.1")
    await s.advance(60)
    asked = s.ask(FIRST)
    await s.advance(2.5)  # nobody answers
    assert asked.addresses == ["192.0.2.1"]
    assert {int(line.split()[1]) for line in asked.records} == {30}
    assert asked.errors == [3]


@scenario()
async def test_a_stale_alias_of_kdns_makes_a_stale_answer_in_time(s: Scenario) -> None:
    await _meet_kdns(s)
    name, explicit = f"web.prod.default.svc.{Z}", f"web.prod.search.default.{Z}.ap.k8s.io"
    s.ask(name)
    s.expect(explicit).reply(f"{explicit}. 5 IN CNAME web.prod.svc.{Z}.", f"web.prod.svc.{Z}. 5 IN A 10.96.0.1", note=0)
    await s.advance(60)
    asked = s.ask(name)
    await s.advance(2.5)  # nobody answers
    assert asked.addresses == ["10.96.0.1"]
    assert asked.errors == [3]


@scenario()
async def test_a_name_that_was_found_is_never_nxdomain_for_the_other_family(s: Scenario) -> None:
    s.ask(FIRST)
    deny_inside(s)
    deny_corp(s)
    s.expect("www.example.com").reply("www.example.com. 60 IN A 192.0.2.1")
    asked = s.ask(FIRST, "AAAA")
    s.expect("www.example.com", "AAAA").nxdomain("example.com.")  # a server that does not know better
    assert asked.rcode == "NOERROR"
    assert asked.records == [f"{FIRST}. 30 CNAME www.example.com."]


@scenario(cluster=[f"udp://{CLUSTER}", "udp://10.96.0.11:53"])
async def test_kdns_that_falls_silent_beside_another_server(s: Scenario) -> None:
    await _meet_kdns(s)
    asked = s.ask(FIRST)
    s.expect(EXPLICIT, server=CLUSTER)
    await s.advance(0.5)
    assert all(EXPLICIT not in sent.name for sent in s.pending if sent.server != CLUSTER)
    await s.advance(0.5)
    for step in STEPS:
        s.expect(step, server="10.96.0.11").nxdomain(f"{Z}.")
    deny_corp(s)
    s.expect("www.example.com").reply("www.example.com. 60 IN A 192.0.2.1")
    assert asked.addresses == ["192.0.2.1"]


@scenario()
async def test_the_cluster_changes_between_a_and_aaaa(s: Scenario) -> None:
    await _meet_kdns(s)
    name, explicit = f"web.prod.default.svc.{Z}", f"web.prod.search.default.{Z}.ap.k8s.io"
    s.ask(name)
    s.expect(explicit).reply(f"{explicit}. 5 IN CNAME web.prod.svc.{Z}.", f"web.prod.svc.{Z}. 5 IN A 10.96.0.1", note=0)
    asked = s.ask(name, "AAAA")
    s.expect(explicit, "AAAA").reply(
        f"{explicit}. 5 IN CNAME {name}.", f"{name}. 5 IN AAAA fd00::1", note=0
    )  # a Service of that name is there now
    s.expect(f"web.prod.svc.{Z}", "AAAA").nodata(f"{Z}.")
    assert asked.records == [f"{name}. 5 CNAME web.prod.svc.{Z}."]


@scenario()
async def test_outside_denials_do_not_reach_the_explicit_form(s: Scenario) -> None:
    await _meet_kdns(s)
    s.ask("io")
    s.expect("io").nxdomain("test.")
    s.ask(FIRST)
    s.expect(EXPLICIT, server=CLUSTER)


def test_a_long_list_of_search_domains_is_walked_from_the_cache(tmp_path: Path) -> None:
    @scenario(search=[f"d{number}.test" for number in range(400)])
    async def steps(s: Scenario) -> None:
        for turn in range(2):
            asked = s.ask(FIRST)
            while s.pending:
                sent = s.pending.pop(0)
                if sent.name == "www.example.com.":
                    sent.reply("www.example.com. 3600 IN A 192.0.2.1")
                else:
                    sent.nxdomain("test.", ttl=3600, minimum=3600)
            assert asked.addresses == ["192.0.2.1"], turn
            await s.advance(31)

    steps()


@scenario()
async def test_a_namespace_that_could_not_be_asked_for_is_asked_for_again(s: Scenario) -> None:
    asked = s.ask(f"www.example.com.svc.{Z}")
    s.expect(f"com.svc.{Z}").reply(rcode="SERVFAIL")
    s.expect(f"www.example.com.svc.{Z}").nxdomain(f"{Z}.")
    assert asked.rcode == "NXDOMAIN"
    await s.advance(2)
    s.ask(f"www.example.com.svc.{Z}")
    s.expect(f"com.svc.{Z}")


@scenario()
async def test_pods_own_answers_are_bounded_in_octets(s: Scenario) -> None:
    _with_pods(s)
    name = "many.example.com"
    s.ask(f"{name}.backend.svc.{Z}", client="10.244.0.9", tcp=True)
    for step in (f"{name}.backend.svc.{Z}", f"{name}.svc.{Z}", f"{name}.{Z}"):
        s.expect(step).nxdomain(f"{Z}.")
    s.expect(f"{name}.corp.test").nxdomain("corp.test.")
    s.expect(name).reply(*(f"{name}. 60 IN A 192.0.{number >> 8}.{number & 255}" for number in range(2000)))
    for number in range(280):
        spelled = "".join(c.upper() if number >> at & 1 else c for at, c in enumerate("many.example"))
        (wire,) = s.ask(f"{spelled}.com.backend.svc.{Z}", client="10.244.0.9", tcp=True).wires
        assert len(wire or b"") > 32_000
    held = sum(sum(map(len, tails)) for tails, _ in s.server.front.finished._own.values())
    assert 0 < held <= 8 * 2**20


@scenario()
async def test_an_end_is_looked_at_again_after_half_a_minute(s: Scenario) -> None:
    asked = s.ask(FIRST)
    deny_inside(s, ttl=1800)
    deny_corp(s)
    s.expect("www.example.com").reply("www.example.com. 3600 IN A 192.0.2.1")
    assert asked.ttl == 30, "though every step is good for longer"


@scenario()
async def test_nodata_of_one_family_stays_nodata_whatever_is_said_of_the_other(s: Scenario) -> None:
    asked = s.ask(FIRST)
    deny_inside(s)
    deny_corp(s)
    s.expect("www.example.com").nodata("example.com.")
    s.expect("www.example.com", "AAAA").nxdomain("example.com.")
    assert asked.rcode == "NOERROR"
