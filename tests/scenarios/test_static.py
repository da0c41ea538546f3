"""Static records and rewritten names in nodelocal: as asked, along search paths, and beside the cache."""

from __future__ import annotations

from pathlib import Path

from kdns.proto import peer
from tests.support.scenario import CLUSTER, OUTSIDE, Scenario, scenario

RECORDS = ["db.corp.example A 10.1.1.1", "db.corp.example 60 A 10.1.1.2", "alias.corp.example CNAME www.example.com",
           "near.corp.example CNAME db.corp.example", "far.demo.svc.cluster.local A 10.4.4.4"]  # fmt: skip
REWRITES = [
    "old.example=www.example.com",
    "*.legacy.example=*.demo.svc.cluster.local",
    "short.demo.svc.cluster.local=web.demo.svc.cluster.local",
]


@scenario(record=RECORDS, expand="off")
async def test_static_records_are_answered_without_asking_anyone(s: Scenario) -> None:
    asked = s.ask("DB.corp.example")
    assert asked.addresses == ["10.1.1.1", "10.1.1.2"]
    assert asked.ttl == 30
    for _ in range(3):
        assert s.ask("db.corp.example").addresses == ["10.1.1.1", "10.1.1.2"]
    nodata = s.ask("db.corp.example", "AAAA")
    assert (nodata.rcode, nodata.records) == ("NOERROR", [])
    assert s.ask("near.corp.example").records[0] == "near.corp.example. 30 CNAME db.corp.example."
    assert s.ask("near.corp.example").addresses == ["10.1.1.1", "10.1.1.2"]
    s.expect_nothing()


@scenario(record=RECORDS, expand="off")
async def test_other_types_go_to_the_upstreams(s: Scenario) -> None:
    asked = s.ask("db.corp.example", "MX")
    s.expect("db.corp.example", "MX", server=OUTSIDE).reply("db.corp.example. 60 IN MX 10 mail.example.")
    assert asked.records == ["db.corp.example. 60 MX 10 mail.example."]


@scenario(record=RECORDS, expand="off")
async def test_a_static_alias_is_followed_where_its_target_is_asked_for(s: Scenario) -> None:
    asked = s.ask("alias.corp.example")
    s.expect("www.example.com", server=OUTSIDE).reply("www.example.com. 60 IN A 192.0.2.1")
    assert asked.records == ["alias.corp.example. 30 CNAME www.example.com.", "www.example.com. 60 A 192.0.2.1"]
    assert s.ask("alias.corp.example").addresses == ["192.0.2.1"]
    assert s.ask("alias.corp.example", "CNAME").records == ["alias.corp.example. 30 CNAME www.example.com."]
    s.expect_nothing()


@scenario(record=RECORDS)
async def test_a_search_path_ends_at_a_static_name(s: Scenario) -> None:
    asked = s.ask("db.corp.example.demo.svc.cluster.local")
    for step in (
        "db.corp.example.demo.svc.cluster.local",
        "db.corp.example.svc.cluster.local",
        "db.corp.example.cluster.local",
    ):
        s.expect(step, server=CLUSTER).nxdomain("cluster.local.")
    s.expect("db.corp.example.corp.test", server=OUTSIDE).nxdomain("corp.test.")
    assert asked.records[0].endswith("CNAME db.corp.example.")
    assert asked.addresses == ["10.1.1.1", "10.1.1.2"]


@scenario(record=RECORDS)
async def test_a_static_name_in_the_cluster_is_found_although_kdns_is_asked(s: Scenario) -> None:
    s.ask("x.demo.svc.cluster.local")
    s.expect("x.demo.svc.cluster.local").nxdomain("cluster.local.", note=0)  # now it is known that this is kdns
    asked = s.ask("far.demo.other.svc.cluster.local")
    s.expect("far.demo.other.svc.cluster.local").nxdomain("cluster.local.", note=0)
    assert asked.addresses == ["10.4.4.4"]
    assert s.ask("far.demo.svc.cluster.local").addresses == ["10.4.4.4"]


@scenario(rewrite=REWRITES, expand="off")
async def test_a_rewritten_name_is_asked_for_as_the_other(s: Scenario) -> None:
    asked = s.ask("Old.Example")
    s.expect("www.example.com", server=OUTSIDE).reply(
        "www.example.com. 60 IN CNAME cdn.example.", "cdn.example. 50 IN A 192.0.2.1"
    )
    assert asked.records == ["Old.Example. 50 CNAME cdn.Example.", "cdn.Example. 50 A 192.0.2.1"]
    assert s.ask("old.example").addresses == ["192.0.2.1"]
    assert s.ask("www.example.com").addresses == ["192.0.2.1"]
    s.expect_nothing()


@scenario(rewrite=REWRITES, expand="off")
async def test_a_rewritten_name_is_denied_in_its_own_name(s: Scenario) -> None:
    asked = s.ask("old.example", "AAAA")
    s.expect("www.example.com", "AAAA", server=OUTSIDE).nodata("example.com.")
    assert (asked.rcode, asked.records, str(asked.message.authority[0].name)) == ("NOERROR", [], "old.example.")
    missing = s.ask("no.legacy.example")
    s.expect("no.demo.svc.cluster.local", server=CLUSTER).nxdomain("cluster.local.")
    assert (missing.rcode, str(missing.message.authority[0].name)) == ("NXDOMAIN", "no.legacy.example.")


@scenario(rewrite=REWRITES)
async def test_a_search_path_ends_at_a_rewritten_name(s: Scenario) -> None:
    asked = s.ask("old.example.demo.svc.cluster.local")
    for step in ("old.example.demo.svc.cluster.local", "old.example.svc.cluster.local", "old.example.cluster.local"):
        s.expect(step, server=CLUSTER).nxdomain("cluster.local.")
    s.expect("old.example.corp.test", server=OUTSIDE).nxdomain("corp.test.")
    s.expect("www.example.com", server=OUTSIDE).reply("www.example.com. 60 IN A 192.0.2.1")
    assert asked.addresses == ["192.0.2.1"]
    assert asked.records[0].split()[-1] == "old.example."


@scenario(rewrite=REWRITES)
async def test_a_step_that_is_rewritten_is_not_left_to_kdns(s: Scenario) -> None:
    s.ask("x.demo.svc.cluster.local")
    s.expect("x.demo.svc.cluster.local").nxdomain("cluster.local.", note=0)
    assert peer.VERSION == 1
    asked = s.ask("short.demo.svc.cluster.local")
    s.expect("web.demo.svc.cluster.local").reply("web.demo.svc.cluster.local. 5 IN A 10.96.0.1", note=0)
    assert asked.records == ["short.demo.svc.cluster.local. 5 A 10.96.0.1"]


@scenario(rewrite=REWRITES, expand="off")
async def test_a_failure_is_one_under_both_names(s: Scenario) -> None:
    asked = s.ask("old.example")
    s.expect("www.example.com").lost()
    await s.advance(4.5)
    assert asked.rcode == "SERVFAIL"


def test_an_upstreams_word_never_replaces_a_static_record(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("10.5.5.5 www.example.com\nnonsense\n")

    @scenario(hosts=[str(hosts)], expand="off")
    async def steps(s: Scenario) -> None:
        asked = s.ask("a.example.com")
        s.expect("a.example.com").reply(
            "a.example.com. 60 IN CNAME www.example.com.", "www.example.com. 60 IN A 192.0.2.66"
        )
        assert asked.rcode == "NOERROR"
        assert s.ask("www.example.com").addresses == ["10.5.5.5"]
        assert s.server.troubles() == [
            f"--hosts {hosts}: line 2: found 'nonsense' ('nonsense' is no IP address); expected an address and names"
        ]

    steps()
