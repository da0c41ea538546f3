"""What is kept, for how long, and what the answers from it look like (RFC 2308, RFC 8767, RFC 9520, RFC 8020)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.support.scenario import Scenario, scenario

WWW = "www.example.com"


@scenario()
async def test_an_answer_is_kept_until_its_ttl_ends(s: Scenario) -> None:
    first = s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 60 IN A 192.0.2.1")
    assert first.records == [f"{WWW}. 60 A 192.0.2.1"]
    ttls = []
    for _ in range(59):
        await s.advance(1)
        again = s.ask(WWW)
        assert again.addresses == ["192.0.2.1"]
        ttls.append(again.ttl)
        for sent in list(s.pending):  # renewed before it ends; not answered here
            s.pending.remove(sent)
    assert ttls == sorted(ttls, reverse=True), "a cached TTL never rises"
    assert ttls[0] == 59
    assert ttls[-1] == 1
    await s.advance(1.1)
    s.ask(WWW)
    s.expect(WWW)


@scenario()
async def test_a_ttl_never_says_more_than_is_left(s: Scenario) -> None:
    await s.advance(0.75)
    s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 10 IN A 192.0.2.1")
    for passed in (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0):
        await s.advance(0.25)
        for _ in range(3):
            assert s.ask(WWW).ttl <= 10 - int(passed)


@scenario()
async def test_case_is_the_askers_and_the_entry_is_one(s: Scenario) -> None:
    s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 60 IN A 192.0.2.1")
    reply = s.ask("wWw.ExAmPlE.cOm").message
    assert reply.question[0].name.to_text() == "wWw.ExAmPlE.cOm."
    assert reply.answer[0].name.to_text() == "wWw.ExAmPlE.cOm."
    s.expect_nothing()


@scenario()
async def test_types_do_and_cd_are_keys(s: Scenario) -> None:
    s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 60 IN A 192.0.2.1")
    for more in ({"rrtype": "AAAA"}, {"do": True}, {"cd": True}, {"do": True, "cd": True}):
        s.ask(WWW, **more)
        sent = s.expect(WWW, str(more.get("rrtype", "A")))
        assert bool(sent.message.ednsflags & 0x8000) == bool(more.get("do"))
        assert bool(sent.message.flags & 0x0010) == bool(more.get("cd"))


@scenario()
async def test_ttl_zero_is_served_to_those_who_wait_and_not_kept(s: Scenario) -> None:
    both = s.ask(WWW), s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 0 IN A 192.0.2.1")
    assert [asked.records for asked in both] == [[f"{WWW}. 0 A 192.0.2.1"]] * 2
    s.ask(WWW)
    s.expect(WWW)


@scenario(min_ttl=5)
async def test_a_floor_keeps_even_ttl_zero(s: Scenario) -> None:
    s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 0 IN A 192.0.2.1")
    assert s.ask(WWW).ttl == 5
    s.expect_nothing()


@scenario(max_ttl=100)
async def test_a_huge_ttl_is_capped(s: Scenario) -> None:
    for number, ttl in enumerate((2**31 - 1, 2**31)):
        name = f"n{number}.example.com"
        s.ask(name)
        sent = s.expect(name)
        message = sent.message
        wire = bytearray(_reply_wire(message, f"{name}. 1 IN A 192.0.2.1"))
        wire[-10:-6] = ttl.to_bytes(4, "big")
        sent.raw(bytes(wire))
        assert s.ask(name).ttl == 100


def _reply_wire(message: object, line: str) -> bytes:
    import dns.message
    import dns.rrset

    assert isinstance(message, dns.message.Message)
    reply = dns.message.make_response(message)
    reply.use_edns(None)
    owner, ttl, rclass, rrtype, rdata = line.split()
    reply.answer.append(dns.rrset.from_text(owner, int(ttl), rclass, rrtype, rdata))
    return reply.to_wire()


# -- denials ----------------------------------------------------------------------------------------------------------


@scenario()
async def test_nxdomain_is_for_all_types_and_lives_for_the_least_of_soa_ttl_and_minimum(s: Scenario) -> None:
    for ttl, minimum in ((20, 300), (300, 20)):
        name = f"no{ttl}.example.com"
        asked = s.ask(name)
        s.expect(name).nxdomain("example.com.", ttl=ttl, minimum=minimum)
        assert asked.rcode == "NXDOMAIN"
        assert asked.ttl == 20
        assert s.ask(name, "AAAA").rcode == "NXDOMAIN"
        await s.advance(19)
        assert s.ask(name, "TXT").rcode == "NXDOMAIN"
        s.pending.clear()
        await s.advance(1.1)
        s.ask(name)
        s.expect(name)


@scenario()
async def test_nodata_is_for_its_type_alone(s: Scenario) -> None:
    asked = s.ask(WWW, "AAAA")
    s.expect(WWW, "AAAA").nodata("example.com.")
    assert (asked.rcode, asked.records) == ("NOERROR", [])
    assert s.ask(WWW, "AAAA").message.authority[0].rdtype == 6
    s.expect_nothing()
    s.ask(WWW)
    s.expect(WWW)


@scenario(max_negative_ttl=60)
async def test_a_denial_is_capped(s: Scenario) -> None:
    s.ask("no.example.com")
    s.expect("no.example.com").nxdomain("example.com.", ttl=86400, minimum=86400)
    assert s.ask("no.example.com").ttl == 60


@scenario()
async def test_a_denial_without_a_soa_is_sent_on_and_not_kept(s: Scenario) -> None:
    asked = s.ask("no.example.com")
    s.expect("no.example.com").reply(rcode="NXDOMAIN")
    assert asked.rcode == "NXDOMAIN"
    s.ask("no.example.com")
    s.expect("no.example.com")


@scenario()
async def test_nothing_is_below_an_exact_nxdomain(s: Scenario) -> None:
    s.ask("nx.example.com")
    s.expect("nx.example.com").nxdomain("example.com.")
    below = s.ask("a.b.nx.example.com")
    assert below.rcode == "NXDOMAIN"
    assert below.message.authority[0].name.to_text() == "example.com."
    assert below.message.authority[0][0].mname.to_text() == "ns.example.com."
    s.expect_nothing()
    s.ask("other.example.com")
    s.expect("other.example.com")


@scenario()
async def test_what_an_alias_leads_to_denies_nothing_below_the_alias(s: Scenario) -> None:
    s.ask("nx.example.com")
    s.expect("nx.example.com").reply(
        "nx.example.com. 60 IN CNAME gone.example.net.",
        rcode="NXDOMAIN",
        authority="example.net. 30 IN SOA ns.example.net. h.example.net. 1 2 3 4 30",
    )
    s.ask("a.nx.example.com")
    s.expect("a.nx.example.com")


@scenario(expand="off")
async def test_a_foreign_clusters_nxdomain_denies_nothing_below(s: Scenario) -> None:
    """CoreDNS denies names that exist through names below them alone."""
    s.ask("_tcp.web.default.svc.cluster.local")
    s.expect("_tcp.web.default.svc.cluster.local").nxdomain("cluster.local.")
    s.ask("_http._tcp.web.default.svc.cluster.local")
    s.expect("_http._tcp.web.default.svc.cluster.local")


@scenario(expand="off")
async def test_kdns_nxdomain_denies_what_is_below(s: Scenario) -> None:
    s.ask("gone.default.svc.cluster.local")
    s.expect("gone.default.svc.cluster.local").nxdomain("cluster.local.", note=0)
    assert s.ask("a.gone.default.svc.cluster.local").rcode == "NXDOMAIN"
    s.expect_nothing()


@scenario(cache_size="1MiB")
async def test_missing_names_push_no_answer_out(s: Scenario) -> None:
    s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 3600 IN A 192.0.2.1")
    for number in range(3000):
        name = f"n{number}.example.com"
        s.ask(name)
        s.expect(name).nxdomain("example.com.", ttl=3600, minimum=3600)
    cache = s.server.resolver.cache
    assert cache.evictions[1] > 0
    assert sum(cache.octets) <= 2**20
    assert s.ask(WWW).addresses == ["192.0.2.1"]
    s.expect_nothing()


# -- prefetch ---------------------------------------------------------------------------------------------------------


@scenario()
async def test_what_is_asked_for_often_is_renewed_before_it_ends(s: Scenario) -> None:
    s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 30 IN A 192.0.2.1")
    for _ in range(27):
        await s.advance(1)
        s.ask(WWW)
    assert s.server.resolver.counts.prefetches == 1
    assert s.ask(WWW).addresses == ["192.0.2.1"], "the old answer is served meanwhile"
    s.expect(WWW).reply(f"{WWW}. 30 IN A 192.0.2.2")
    s.expect_nothing()
    await s.advance(4)
    assert s.ask(WWW).addresses == ["192.0.2.2"]
    s.expect_nothing()


@scenario()
async def test_what_is_asked_for_once_is_not_renewed(s: Scenario) -> None:
    s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 30 IN A 192.0.2.1")
    await s.advance(29)
    s.ask(WWW)
    s.expect_nothing()


# -- stale answers ----------------------------------------------------------------------------------------------------


async def _keep(s: Scenario, ttl: int = 10) -> None:
    s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. {ttl} IN A 192.0.2.1")
    await s.advance(ttl + 1)


@scenario()
async def test_a_stale_answer_comes_after_the_client_timer(s: Scenario) -> None:
    await _keep(s)
    asked = s.ask(WWW)
    s.expect(WWW)
    await s.advance(1.5)
    assert asked.is_waiting
    await s.advance(0.5)
    assert asked.records == [f"{WWW}. 30 A 192.0.2.1"]
    assert asked.errors == [3]
    assert s.server.resolver.counts.stale == 1


@scenario()
async def test_after_a_failure_it_is_served_at_once_until_the_recheck(s: Scenario) -> None:
    await _keep(s)
    asked = s.ask(WWW)
    s.expect(WWW).reply(rcode="SERVFAIL")
    assert asked.addresses == ["192.0.2.1"]
    for _ in range(29):
        await s.advance(1)
        assert s.ask(WWW).errors == [3]
    s.expect_nothing()
    await s.advance(1.5)
    asked = s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 60 IN A 192.0.2.2")
    assert asked.records == [f"{WWW}. 60 A 192.0.2.2"]
    assert asked.errors == []


@scenario()
async def test_never_stale_after_a_fresh_nxdomain(s: Scenario) -> None:
    s.ask(WWW, "AAAA")
    s.expect(WWW, "AAAA").reply(f"{WWW}. 10 IN AAAA 2001:db8::1")
    await _keep(s)
    asked = s.ask(WWW)
    s.expect(WWW).nxdomain("example.com.")
    assert asked.rcode == "NXDOMAIN"
    assert s.ask(WWW).rcode == "NXDOMAIN"
    assert s.ask(WWW, "AAAA").rcode == "NXDOMAIN", "of any type"
    s.expect_nothing()


@scenario()
async def test_never_stale_after_a_denial_that_is_not_kept(s: Scenario) -> None:
    for rcode, authority in (("NXDOMAIN", ""), ("NXDOMAIN", "example.com. 0 IN SOA a. b. 1 2 3 4 0")):
        await _keep(s)
        asked = s.ask(WWW)
        s.expect(WWW).reply(rcode=rcode, authority=authority)
        assert asked.rcode == "NXDOMAIN"
        asked = s.ask(WWW)
        s.expect(WWW).reply(rcode="SERVFAIL")
        assert asked.rcode == "SERVFAIL"
        await s.advance(2)


@scenario()
async def test_what_was_said_last_counts_when_all_of_it_is_stale(s: Scenario) -> None:
    await _keep(s)
    s.ask(WWW, "AAAA")
    s.expect(WWW, "AAAA").nxdomain("example.com.", ttl=5, minimum=5)
    await s.advance(10)
    asked = s.ask(WWW)
    s.expect(WWW).reply(rcode="SERVFAIL")
    assert asked.rcode == "NXDOMAIN"


@scenario()
async def test_a_fresh_denial_above_ends_a_stale_answer_below(s: Scenario) -> None:
    await _keep(s)
    s.ask("example.com")
    s.expect("example.com").nxdomain("com.")
    assert s.ask(WWW).rcode == "NXDOMAIN"
    s.expect_nothing()


@scenario()
async def test_an_answer_ends_what_was_denied_of_all_types(s: Scenario) -> None:
    s.ask(WWW, "AAAA")
    s.expect(WWW, "AAAA").nxdomain("example.com.", ttl=5, minimum=5)
    await s.advance(6)
    s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 60 IN A 192.0.2.1")
    asked = s.ask(WWW, "AAAA")
    s.expect(WWW, "AAAA").reply(rcode="SERVFAIL")
    assert asked.rcode == "SERVFAIL", "the stale denial is gone"


@scenario(max_stale=60)
async def test_staleness_has_an_end(s: Scenario) -> None:
    await _keep(s)
    await s.advance(60)
    asked = s.ask(WWW)
    s.expect(WWW)
    await s.advance(4.5)
    assert asked.rcode == "SERVFAIL"
    assert asked.errors == [22]


@scenario(max_stale=0)
async def test_staleness_can_be_switched_off(s: Scenario) -> None:
    await _keep(s)
    asked = s.ask(WWW)
    s.expect(WWW).reply(rcode="SERVFAIL")
    assert asked.rcode == "SERVFAIL"


@scenario()
async def test_a_late_answer_replaces_the_stale_one(s: Scenario) -> None:
    await _keep(s)
    asked = s.ask(WWW)
    sent = s.expect(WWW)
    await s.advance(2)
    assert asked.errors == [3]
    sent.reply(f"{WWW}. 60 IN A 192.0.2.2")
    assert s.ask(WWW).records == [f"{WWW}. 60 A 192.0.2.2"]


# -- failures ---------------------------------------------------------------------------------------------------------


@scenario()
async def test_a_failure_is_remembered_and_doubles(s: Scenario) -> None:
    times = []
    for _ in range(120):
        asked = s.ask(WWW)
        if s.pending:
            times.append(s.server.resolver.now())
            s.expect(WWW).reply(rcode="SERVFAIL")
        assert asked.rcode == "SERVFAIL"
        await s.advance(0.5)
    waits = [round(later - earlier, 1) for earlier, later in pairwise(times)]
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert max(waits) <= 30.5


@scenario()
async def test_an_answer_ends_a_row_of_failures(s: Scenario) -> None:
    s.ask(WWW)
    s.expect(WWW).reply(rcode="SERVFAIL")
    await s.advance(1.25)
    asked = s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 0 IN A 192.0.2.1")
    assert asked.rcode == "NOERROR"


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP"])
def test_refusals_are_not_kept_as_answers(rcode: str) -> None:
    @scenario()
    async def steps(s: Scenario) -> None:
        asked = s.ask(WWW)
        s.expect(WWW).reply(rcode=rcode)
        if s.pending:
            s.expect(WWW).reply(rcode=rcode)  # FORMERR and NOTIMP: once more, without EDNS
        assert asked.rcode == rcode
        await s.advance(1.25)
        s.ask(WWW)
        s.expect(WWW)

    steps()


@scenario()
async def test_a_stale_denial_says_so(s: Scenario) -> None:
    s.ask("no.example.com")
    s.expect("no.example.com").nxdomain("example.com.", ttl=5, minimum=5)
    await s.advance(6)
    asked = s.ask("no.example.com")
    s.expect("no.example.com").reply(rcode="SERVFAIL")
    assert asked.rcode == "NXDOMAIN"
    assert asked.errors == [19]
    assert asked.ttl == 30
