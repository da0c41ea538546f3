"""Who is asked, when another is asked, what is believed (ROBUSTNESS section 3)."""

from __future__ import annotations

from itertools import pairwise

from kdns.upstream.forwarder import MAX_WAITERS
from tests.support.scenario import CLUSTER, OUTSIDE, Scenario, scenario

WWW = "www.example.com"
SECOND = "192.0.2.54:53"
THIRD = "192.0.2.55:53"
STUB = "198.51.100.1:53"


# -- coalescing -------------------------------------------------------------------------------------------------------


@scenario()
async def test_equal_questions_on_their_way_cost_one(s: Scenario) -> None:
    asked = [s.ask(WWW, client=f"10.0.0.{number}") for number in range(50)]
    asked += [s.ask("WWW.example.com", tcp=True)]
    s.expect(WWW).reply(f"{WWW}. 60 IN A 192.0.2.1")
    s.expect_nothing()
    assert all(one.addresses == ["192.0.2.1"] for one in asked)


@scenario()
async def test_who_waits_longest_goes_when_too_many_wait(s: Scenario) -> None:
    asked = [s.ask(WWW) for _ in range(MAX_WAITERS + 3)]
    assert [one.rcode for one in asked if not one.is_waiting] == ["SERVFAIL"] * 3
    assert not asked[0].is_waiting
    s.expect(WWW).reply(f"{WWW}. 60 IN A 192.0.2.1")
    assert asked[-1].addresses == ["192.0.2.1"]


@scenario()
async def test_the_oldest_question_is_shed(s: Scenario) -> None:
    most = s.server.forwarders["upstream"]._max_questions
    asked = [s.ask(f"www.n{number}.test") for number in range(most + 5)]
    assert [one.is_waiting for one in asked[:6]] == [False] * 5 + [True]
    assert asked[0].rcode == "SERVFAIL"
    assert len(s.pending) == most
    flooded = [s.ask(f"n{number}.flood.test") for number in range(most)]
    assert [one.rcode for one in flooded if not one.is_waiting] == ["SERVFAIL"] * (most // 2)
    assert sum(one.is_waiting for one in asked) == most // 2, "one zone takes half of the room, and no more"
    inside = s.ask("web.default.svc.cluster.local")
    s.expect("web.default.svc.cluster.local").reply("web.default.svc.cluster.local. 5 IN A 10.96.0.1")
    assert inside.addresses == ["10.96.0.1"], "a route that is full leaves the others alone"


# -- fail-over --------------------------------------------------------------------------------------------------------


@scenario(upstream=[OUTSIDE, SECOND, THIRD])
async def test_a_silent_server_is_followed_by_the_next_before_a_second(s: Scenario) -> None:
    asked = s.ask(WWW)
    s.expect(WWW, server=OUTSIDE)
    await s.advance(0.5)
    s.expect(WWW, server=SECOND)
    await s.advance(0.5)
    s.expect(WWW, server=THIRD).reply(f"{WWW}. 60 IN A 192.0.2.1")
    assert asked.addresses == ["192.0.2.1"]


@scenario(upstream=[OUTSIDE, SECOND])
async def test_a_late_reply_of_the_first_still_counts(s: Scenario) -> None:
    asked = s.ask(WWW)
    first = s.expect(WWW, server=OUTSIDE)
    await s.advance(0.5)
    s.expect(WWW, server=SECOND)
    first.reply(f"{WWW}. 60 IN A 192.0.2.1")
    assert asked.addresses == ["192.0.2.1"]
    s.expect_nothing()


@scenario(upstream=[OUTSIDE, SECOND])
async def test_a_refusal_is_followed_by_the_next_at_once(s: Scenario) -> None:
    for rcode in ("SERVFAIL", "REFUSED"):
        asked = s.ask(f"{rcode}.example.com")
        s.expect(f"{rcode.lower()}.example.com", server=OUTSIDE).reply(rcode=rcode)
        s.expect(f"{rcode.lower()}.example.com", server=SECOND).reply(f"{rcode}.example.com. 60 IN A 192.0.2.1")
        assert asked.addresses == ["192.0.2.1"]


@scenario(upstream=[OUTSIDE, SECOND])
async def test_the_systems_refusal_too(s: Scenario) -> None:
    s.ask(WWW)
    s.expect(WWW, server=OUTSIDE).lost()
    s.expect(WWW, server=SECOND)


@scenario(upstream=[OUTSIDE, SECOND])
async def test_a_dead_server_is_asked_last_until_its_backoff_ends(s: Scenario) -> None:
    for number in range(2):
        s.ask(f"n{number}.example.com")
        s.expect(f"n{number}.example.com", server=OUTSIDE).lost()
        s.expect(f"n{number}.example.com", server=SECOND).reply(f"n{number}.example.com. 60 IN A 192.0.2.1")
    s.ask("n2.example.com")
    s.expect("n2.example.com", server=SECOND).reply("n2.example.com. 60 IN A 192.0.2.1")
    s.expect_nothing()
    await s.advance(1.5)
    s.ask("n3.example.com")
    s.expect("n3.example.com", server=OUTSIDE).reply("n3.example.com. 60 IN A 192.0.2.1")
    s.ask("n4.example.com")
    s.expect("n4.example.com", server=OUTSIDE)


@scenario()
async def test_the_only_server_is_asked_once_a_second_and_three_times(s: Scenario) -> None:
    asked = s.ask(WWW)
    times = []
    for _ in range(20):
        while s.pending:
            s.expect(WWW)
            times.append(s.server.resolver.now())
        await s.advance(0.25)
    assert len(times) == 3
    assert all(later - earlier >= 0.99 for earlier, later in pairwise(times))
    assert asked.rcode == "SERVFAIL"
    assert asked.errors == [22]


@scenario()
async def test_the_end_comes_before_the_clients(s: Scenario) -> None:
    asked = s.ask(WWW)
    await s.advance(3.5)
    assert asked.is_waiting
    await s.advance(1)
    assert asked.rcode == "SERVFAIL"


# -- other ways of asking ---------------------------------------------------------------------------------------------


@scenario()
async def test_a_truncated_reply_is_asked_for_over_tcp_and_never_kept(s: Scenario) -> None:
    asked = s.ask(WWW, tcp=True)
    s.expect(WWW).reply(f"{WWW}. 60 IN A 192.0.2.9", tc=True)
    assert asked.is_waiting
    sent = s.expect(WWW)
    assert sent.transport == "tcp"
    sent.reply(*(f"{WWW}. 60 IN A 192.0.2.{number}" for number in range(100)))
    assert len(asked.addresses) == 100
    assert len(s.ask(WWW, tcp=True).addresses) == 100
    short = s.ask(WWW, edns=False)
    assert short.message.flags & 0x0200
    assert len(short.wires[0] or b"") <= 512


@scenario()
async def test_a_server_without_edns_is_asked_without(s: Scenario) -> None:
    for rcode in ("FORMERR", "NOTIMP"):
        name = f"{rcode}.example.com".lower()
        asked = s.ask(name)
        s.expect(name).reply(rcode=rcode)
        sent = s.expect(name)
        assert sent.message.edns == -1
        sent.reply(f"{name}. 60 IN A 192.0.2.1")
        assert asked.addresses == ["192.0.2.1"]


@scenario()
async def test_at_most_1232_octets_are_asked_for_and_client_subnet_is_not_passed_on(s: Scenario) -> None:
    import dns.edns
    import dns.message

    query = dns.message.make_query(WWW, "A", use_edns=0, payload=65_535, options=[dns.edns.ECSOption("192.0.2.0", 24)])
    s.ask_wire(query.to_wire())
    sent = s.expect(WWW)
    assert sent.message.payload == 1232
    assert sent.options == set()


# -- routes -----------------------------------------------------------------------------------------------------------


@scenario(stub=[f"corp.example={STUB}", f"deep.corp.example={SECOND}"])
async def test_the_longest_zone_says_who_is_asked(s: Scenario) -> None:
    for name, server in (
        ("www.example.com", OUTSIDE),
        ("a.corp.example", STUB),
        ("corp.example", STUB),
        ("a.deep.corp.example", SECOND),
        ("notcorp.example", OUTSIDE),
        ("web.default.svc.cluster.local", CLUSTER),
    ):
        s.ask(name)
        s.expect(name, server=server)


@scenario()
async def test_reverse_names_are_the_clusters_first(s: Scenario) -> None:
    asked = s.ask("1.0.96.10.in-addr.arpa", "PTR")
    s.expect("1.0.96.10.in-addr.arpa", "PTR", server=CLUSTER).reply(
        "1.0.96.10.in-addr.arpa. 5 IN PTR web.default.svc.cluster.local."
    )
    assert asked.records == ["1.0.96.10.in-addr.arpa. 5 PTR web.default.svc.cluster.local."]
    for refused in (False, True):
        name = f"{8 + refused}.8.8.8.in-addr.arpa"
        asked = s.ask(name, "PTR")
        sent = s.expect(name, "PTR", server=CLUSTER)
        if refused:
            sent.reply(rcode="REFUSED")
        else:
            sent.nxdomain("in-addr.arpa.")
        s.expect(name, "PTR", server=OUTSIDE).reply(f"{name}. 60 IN PTR dns.example.")
        assert asked.records == [f"{name}. 60 PTR dns.example."]
        assert s.ask(name, "PTR").records == [f"{name}. 60 PTR dns.example."]
        s.expect_nothing()


@scenario()
async def test_the_clusters_denial_of_a_reverse_name_stands_where_the_upstreams_fail(s: Scenario) -> None:
    asked = s.ask("1.2.3.10.in-addr.arpa", "PTR")
    s.expect("1.2.3.10.in-addr.arpa", "PTR").nxdomain("in-addr.arpa.")
    s.expect("1.2.3.10.in-addr.arpa", "PTR", server=OUTSIDE).reply(rcode="SERVFAIL")
    assert asked.rcode == "NXDOMAIN"
    assert s.ask("1.2.3.10.in-addr.arpa", "PTR").rcode == "NXDOMAIN"
    s.expect_nothing()


# -- what is believed -------------------------------------------------------------------------------------------------


@scenario()
async def test_what_was_not_asked_for_is_neither_sent_on_nor_kept(s: Scenario) -> None:
    """ROBUSTNESS: reply ``a.example A`` and extra ``bank.test A`` → later ``bank.test`` must be asked upstream."""
    asked = s.ask("a.example")
    s.expect("a.example").reply(
        "a.example. 60 IN A 192.0.2.1",
        "bank.test. 60 IN A 192.0.2.66",
        authority="bank.test. 60 IN NS ns.evil.test.",
        extra="ns.evil.test. 60 IN A 192.0.2.66",
    )
    assert asked.records == ["a.example. 60 A 192.0.2.1"]
    assert asked.message.authority == []
    assert asked.message.additional == []
    s.ask("bank.test")
    s.expect("bank.test")


@scenario(stub=[f"corp.example={STUB}"])
async def test_a_stub_zones_server_speaks_for_its_zone_alone(s: Scenario) -> None:
    asked = s.ask("x.corp.example")
    s.expect("x.corp.example", server=STUB).reply(
        "x.corp.example. 60 IN CNAME kubernetes.default.svc.cluster.local.",
        "kubernetes.default.svc.cluster.local. 60 IN A 192.0.2.66",
    )
    s.expect("kubernetes.default.svc.cluster.local", server=CLUSTER).reply(
        "kubernetes.default.svc.cluster.local. 5 IN A 10.96.0.1"
    )
    assert asked.records == [
        "x.corp.example. 60 CNAME kubernetes.default.svc.cluster.local.",
        "kubernetes.default.svc.cluster.local. 5 A 10.96.0.1",
    ]


@scenario()
async def test_the_upstreams_do_not_speak_for_the_cluster(s: Scenario) -> None:
    asked = s.ask(WWW)
    s.expect(WWW, server=OUTSIDE).reply(
        f"{WWW}. 60 IN CNAME web.default.svc.cluster.local.", "web.default.svc.cluster.local. 60 IN A 192.0.2.66"
    )
    s.expect("web.default.svc.cluster.local", server=CLUSTER).reply("web.default.svc.cluster.local. 5 IN A 10.96.0.1")
    assert asked.addresses == ["10.96.0.1"]


@scenario(expand="off")
async def test_an_alias_that_leads_out_of_the_cluster_is_followed(s: Scenario) -> None:
    asked = s.ask("ext.default.svc.cluster.local")
    s.expect("ext.default.svc.cluster.local", server=CLUSTER).reply(f"ext.default.svc.cluster.local. 5 IN CNAME {WWW}.")
    s.expect(WWW, server=OUTSIDE).reply(f"{WWW}. 60 IN A 192.0.2.1")
    assert asked.records == [f"ext.default.svc.cluster.local. 5 CNAME {WWW}.", f"{WWW}. 60 A 192.0.2.1"]


@scenario()
async def test_an_alias_without_an_end_is_asked_for(s: Scenario) -> None:
    asked = s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 60 IN CNAME cdn.example.net.")
    s.expect("cdn.example.net").reply("cdn.example.net. 30 IN A 192.0.2.1")
    assert asked.addresses == ["192.0.2.1"]


@scenario()
async def test_aliases_in_a_ring_end(s: Scenario) -> None:
    asked = s.ask("a.example")
    s.expect("a.example").reply("a.example. 60 IN CNAME b.example.")
    s.expect("b.example").reply("b.example. 60 IN CNAME a.example.")
    assert asked.rcode == "SERVFAIL"
    asked = s.ask("c.example")
    s.expect("c.example").reply("c.example. 60 IN CNAME d.example.", "d.example. 60 IN CNAME c.example.")
    assert asked.rcode in ("SERVFAIL", "NOERROR")
    s.expect_nothing()


@scenario()
async def test_a_reply_that_cannot_be_read_does_not_end_the_wait(s: Scenario) -> None:
    """TuDoor: CVE-2023-29483."""
    asked = s.ask(WWW)
    sent = s.expect(WWW)
    whole = sent.message.to_wire()
    broken = bytearray(whole)
    broken[2:4] = b"\x81\x80"
    broken[6:8] = b"\0\x05"  # five answers, none there
    assert not sent.raw(bytes(broken))
    assert asked.is_waiting
    sent.reply(f"{WWW}. 60 IN A 192.0.2.1")
    assert asked.addresses == ["192.0.2.1"]
    assert s.server.forwarders["upstream"].unreadable == 1


@scenario()
async def test_ten_thousand_records_are_no_reply(s: Scenario) -> None:
    asked = s.ask(WWW, tcp=True)
    s.expect(WWW).reply(tc=True)
    sent = s.expect(WWW)
    head = sent.message.to_wire()
    question = head[12 : 12 + len(WWW) + 6]
    records = b"\xc0\x0c\0\x10\0\1\0\0\0\x3c\0\1\0" * 5000
    sent.raw(b"\0\0\x81\x80\0\1" + (5000).to_bytes(2, "big") + b"\0\0\0\0" + question + records)
    await s.advance(4.5)
    assert asked.rcode == "SERVFAIL"
    assert sum(s.server.resolver.cache.counts) == 0


@scenario(expand="off")
async def test_authentic_data_is_told_to_those_who_ask(s: Scenario) -> None:
    s.ask(WWW, ad=True)
    s.expect(WWW).reply(f"{WWW}. 60 IN A 192.0.2.1", ad=True)
    assert s.ask(WWW, ad=True).message.flags & 0x0020
    assert not s.ask(WWW).message.flags & 0x0020


@scenario()
async def test_signatures_go_with_what_they_sign_to_those_who_ask(s: Scenario) -> None:
    signature = f"{WWW}. 60 IN RRSIG A 8 3 60 20300101000000 20200101000000 1 example.com. AAAA"
    asked = s.ask(WWW, do=True)
    s.expect(WWW).reply(f"{WWW}. 60 IN A 192.0.2.1", signature)
    assert {line.split()[2] for line in asked.records} == {"A", "RRSIG"}
    asked = s.ask("plain.example.com")
    s.expect("plain.example.com").reply(
        "plain.example.com. 60 IN A 192.0.2.1", signature.replace(WWW, "plain.example.com")
    )
    assert {line.split()[2] for line in asked.records} == {"A"}


@scenario()
async def test_addresses_take_turns(s: Scenario) -> None:
    s.ask(WWW)
    s.expect(WWW).reply(*(f"{WWW}. 60 IN A 192.0.2.{number}" for number in range(3)))
    firsts = {s.ask(WWW).records[0] for _ in range(9)}
    assert len(firsts) == 3


# -- clients ----------------------------------------------------------------------------------------------------------


@scenario(client_rate="5")
async def test_a_client_over_its_share_comes_over_tcp(s: Scenario) -> None:
    s.ask(WWW)
    s.expect(WWW).reply(f"{WWW}. 60 IN A 192.0.2.1")
    await s.advance(2)
    greedy = [s.ask(WWW, client="10.0.0.1") for _ in range(30)]
    limited = [one for one in greedy if one.message.flags & 0x0200]
    assert len(limited) == 20, "two seconds' worth are answered"
    assert all(one.message.answer == [] for one in limited)
    assert s.ask(WWW, client="10.0.0.1", tcp=True).addresses == ["192.0.2.1"]
    assert s.ask(WWW, client="10.0.0.2").addresses == ["192.0.2.1"], "others are not touched"
    await s.advance(1)
    assert not s.ask(WWW, client="10.0.0.1").message.flags & 0x0200
    assert s.server.front.fairness is not None
    assert s.server.front.fairness.limited == 21


# -- loops ------------------------------------------------------------------------------------------------------------


@scenario(upstream=[OUTSIDE, SECOND])
async def test_a_server_that_asks_us_in_turn_is_left_out_and_taken_back(s: Scenario) -> None:
    import trio

    guard = s.server.front.guard

    async def probe(loops: bool) -> list[str]:
        names = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guard.probe)
            await trio.testing.wait_all_tasks_blocked()
            for sent in list(s.pending):
                names.append(sent.name)
                if loops and sent.server == OUTSIDE:
                    back = s.ask(sent.name, sent.rrtype)
                    assert back.rcode == "REFUSED"
                    sent.reply(rcode="REFUSED")
                else:
                    sent.nxdomain("test.")
                if sent in s.pending:
                    s.pending.remove(sent)
        return names

    first = await probe(loops=True)
    assert [str(server) for server in s.server.forwarders["upstream"].servers.looping] == [OUTSIDE]
    assert "upstream 192.0.2.53:53: it asks this server in turn" in s.server.troubles()
    asked = s.ask(WWW)
    s.expect(WWW, server=SECOND).reply(f"{WWW}. 60 IN A 192.0.2.1")
    assert asked.addresses == ["192.0.2.1"]
    second = await probe(loops=True)
    assert set(first).isdisjoint(second), "nobody can guess the next name"
    assert all(len(label) == 32 for name in first for label in name.split(".")[:2])
    assert any(name.endswith(".cluster.local.") for name in first), "each group is asked for its own zone"
    await s.advance(0.25)
    await probe(loops=False)
    assert s.server.forwarders["upstream"].servers.looping == ()
    s.ask("n.example.com")
    s.expect("n.example.com", server=OUTSIDE)


@scenario(upstream=[OUTSIDE, SECOND])
async def test_a_cluster_that_asks_us_for_the_world_is_no_loop(s: Scenario) -> None:
    """CoreDNS forwards what is not the cluster's to the node's resolver, which may be us."""
    import trio

    async with trio.open_nursery() as nursery:
        nursery.start_soon(s.server.front.guard.probe)
        await trio.testing.wait_all_tasks_blocked()
        for sent in list(s.pending):
            if sent.server == CLUSTER:
                assert sent.name.endswith(".cluster.local.")
                assert s.ask("anything.test").is_waiting, "what it passes on to us is another question"
            s.pending.remove(sent)
            sent.nxdomain("test." if sent.server != CLUSTER else "cluster.local.")
    assert s.server.forwarders["cluster"].servers.looping == ()
    assert sum(s.server.resolver.cache.counts) == 0, "replies to probes are not kept"
    assert not s.server.forwarders["upstream"].is_failing


@scenario(upstream=[OUTSIDE, SECOND])
async def test_a_dead_server_beside_a_good_one_is_no_failure_of_the_route(s: Scenario) -> None:
    import trio

    async with trio.open_nursery() as nursery:
        nursery.start_soon(s.server.front.guard.probe)
        await trio.testing.wait_all_tasks_blocked()
        for sent in list(s.pending):
            s.pending.remove(sent)
            if sent.server != OUTSIDE:
                sent.nxdomain("test.")
        for _ in range(20):
            await s.advance(0.25)
            s.pending.clear()
    assert not s.server.forwarders["upstream"].is_failing
    assert s.server.troubles() == []


@scenario()
async def test_type_0_is_a_type_like_any_other(s: Scenario) -> None:
    s.ask(WWW, "TYPE0")
    s.expect(WWW, "TYPE0").nodata("example.com.")
    s.ask(WWW)
    s.expect(WWW)


@scenario(stub=["corp.internal=198.51.100.1"])
async def test_a_denial_of_one_route_cuts_nothing_of_another(s: Scenario) -> None:
    for denied, below in (("local", "web.default.svc.cluster.local"), ("internal", "db.corp.internal")):
        s.ask(denied)
        s.expect(denied, server=OUTSIDE).nxdomain("test.")
        s.ask(below)
        s.expect(below)


@scenario()
async def test_three_hundred_proofs_are_passed_on(s: Scenario) -> None:
    import dns.message
    import dns.rrset

    asked = s.ask("no.example.com", do=True, tcp=True)
    sent = s.expect("no.example.com")
    reply = dns.message.make_response(sent.message)
    reply.set_rcode(3)  # type: ignore[arg-type]
    reply.authority.append(dns.rrset.from_text("example.com.", 60, "IN", "SOA", "a. b. 1 2 3 4 60"))
    for number in range(300):
        reply.authority.append(
            dns.rrset.from_text(f"n{number}.example.com.", 60, "IN", "NSEC", f"n{number}a.example.com. A")
        )
    sent.raw(reply.to_wire(max_size=65_535))
    assert asked.rcode == "NXDOMAIN"
    assert len(s.ask("no.example.com", do=True, tcp=True).message.authority) == 301
    assert s.server.stats.panics == 0


@scenario()
async def test_what_grows_beyond_64_kib_when_read_is_truncated_and_not_kept(s: Scenario) -> None:
    asked = s.ask(WWW, "SRV", tcp=True)
    s.expect(WWW, "SRV").reply(tc=True)
    sent = s.expect(WWW, "SRV")
    question = sent.message.to_wire()[12 : 12 + len(WWW) + 6]
    record = b"\xc0\x0c\0\x21\0\1\0\0\0\x3c\0\x08\0\0\0\0%c%c\xc0\x0c"
    records = b"".join(record % divmod(number, 256) for number in range(2500))
    sent.raw(b"\0\0\x81\x80\0\1" + (2500).to_bytes(2, "big") + b"\0\0\0\0" + question + records)
    assert asked.message.flags & 0x0200
    assert sum(s.server.resolver.cache.counts) == 0


@scenario(random_case=True)
async def test_a_random_spelling_must_be_repeated(s: Scenario) -> None:
    """0x20: off by default; a server that folds case is asked over TCP."""
    spellings = set()
    for number in range(20):
        name = f"spelled-at-random{number}.example.com"
        asked = s.ask(name)
        sent = s.expect(name)
        spellings.add(sent.message.question[0].name.to_text().replace(str(number), ""))
        sent.reply(f"{name}. 60 IN A 192.0.2.1")
        assert asked.message.question[0].name.to_text() == f"{name}."
        assert asked.message.answer[0].name.to_text() == f"{name}.", "the client's own spelling"
    assert len(spellings) > 15
    asked = s.ask(WWW)
    sent = s.expect(WWW)
    folded = bytearray(sent.message.to_wire())
    folded[2:4] = b"\x81\x80"
    folded[10:12] = b"\0\0"  # no OPT
    question = bytes(folded[12 : 12 + len(WWW) + 6])
    other = question.swapcase() if question.swapcase() != question else question.lower()
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\x42"
    assert not sent.raw(bytes(folded[:7]) + b"\1" + bytes(4) + other + record)
    assert asked.is_waiting
    again = s.expect(WWW)
    assert again.transport == "tcp"
    again.reply(f"{WWW}. 60 IN A 192.0.2.1")
    assert asked.addresses == ["192.0.2.1"]


@scenario()
async def test_names_are_spelled_as_the_client_did_without_it(s: Scenario) -> None:
    s.ask("WwW.example.com")
    assert s.expect(WWW).message.question[0].name.to_text() == "WwW.example.com."


@scenario(stub=[f"corp.example={STUB}"])
async def test_a_chain_over_two_routes_is_not_authentic(s: Scenario) -> None:
    asked = s.ask("x.corp.example", ad=True)
    s.expect("x.corp.example").reply(f"x.corp.example. 60 IN CNAME {WWW}.", ad=True)
    s.expect(WWW).reply(f"{WWW}. 60 IN A 192.0.2.1", ad=True)
    assert asked.addresses == ["192.0.2.1"]
    assert not asked.message.flags & 0x0020


@scenario()
async def test_a_chain_of_aliases_has_an_end(s: Scenario) -> None:
    asked = s.ask("n0.example")
    count = 0
    while s.pending and count < 50:
        s.pending.pop(0).reply(f"n{count}.example. 60 IN CNAME n{count + 1}.example.")
        count += 1
    assert asked.rcode == "SERVFAIL"
    assert count == 11


@scenario()
async def test_a_denial_by_another_zones_soa_is_not_kept(s: Scenario) -> None:
    asked = s.ask("no.example.com")
    s.expect("no.example.com").nxdomain("evil.test.")
    assert asked.rcode == "NXDOMAIN"
    assert asked.message.authority == []
    s.ask("no.example.com")
    s.expect("no.example.com")
