"""``--upstream``: names outside the zones, outside targets of aliases, reverse names that the cluster lacks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import pytest

from tests.support.client import addresses, lookup
from tests.support.process import Kdns, kdns
from tests.support.upstream import answer, Reply, Upstream

pytestmark = pytest.mark.system

WWW = "www.example.com."


def example(query: dns.message.Message, tcp: bool) -> Reply:
    question = query.question[0]
    name, rrtype = question.name.to_text().lower(), question.rdtype
    if name == WWW and rrtype == 1:
        return answer(
            query,
            f"{WWW} 60 IN CNAME web.example.com.",
            "web.example.com. 30 IN A 192.0.2.1",
            "evil.test. 60 IN A 192.0.2.66",
        ).to_wire()
    if name == "8.8.8.8.in-addr.arpa.":
        return answer(query, f"{name} 60 IN PTR dns.example.").to_wire()
    if name == "big.example.com.":
        if not tcp:
            return answer(query, flags=dns.flags.QR | dns.flags.TC).to_wire()
        return answer(query, *(f"{name} 60 IN A 192.0.2.{number}" for number in range(200))).to_wire(max_size=65_535)
    reply = answer(query)
    reply.set_rcode(dns.rcode.NXDOMAIN)
    return reply.to_wire()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(example) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def server(manifests: Path, upstream: Upstream) -> Iterator[Kdns]:
    with kdns("--manifests", manifests, "--upstream", upstream.text) as running:
        running.wait_for("synced")
        yield running
        assert "Traceback" not in running.output()


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_outside_names_are_resolved(server: Kdns, tcp: bool) -> None:
    reply = lookup(server.port, WWW, tcp=tcp)
    assert [rrset.to_text() for rrset in reply.answer] == [
        f"{WWW} 60 IN CNAME web.example.com.",
        "web.example.com. 30 IN A 192.0.2.1",
    ]
    assert reply.flags & dns.flags.RA
    assert not reply.flags & dns.flags.AA


def test_what_was_not_asked_for_is_left_out(server: Kdns) -> None:
    assert "evil" not in lookup(server.port, WWW).to_text()


def test_denials_pass(server: Kdns) -> None:
    assert lookup(server.port, "no.example.com.").rcode() == dns.rcode.NXDOMAIN


def test_our_own_answers_say_that_recursion_is_to_be_had(server: Kdns) -> None:
    reply = lookup(server.port, "web.default.svc.cluster.local.")
    assert reply.flags & dns.flags.RA
    assert reply.flags & dns.flags.AA


def test_an_alias_to_the_outside_is_followed(server: Kdns) -> None:
    reply = lookup(server.port, "ext.default.svc.cluster.local.")
    assert [rrset[0].to_text() for rrset in reply.answer] == [WWW, "web.example.com.", "192.0.2.1"]
    assert reply.flags & dns.flags.AA


def test_reverse_names_that_the_cluster_lacks(server: Kdns) -> None:
    assert lookup(server.port, "8.8.8.8.in-addr.arpa.", "PTR").answer[0][0].to_text() == "dns.example."
    assert (
        lookup(server.port, "1.0.96.10.in-addr.arpa.", "PTR").answer[0][0].to_text() == "web.default.svc.cluster.local."
    )


def test_truncated_replies_are_asked_for_over_tcp(server: Kdns, upstream: Upstream) -> None:
    assert len(lookup(server.port, "big.example.com.", tcp=True).answer[0]) == 200
    assert lookup(server.port, "big.example.com.").flags & dns.flags.TC
    assert any(tcp for _, tcp, _ in upstream.queries)


def test_every_question_has_a_port_and_an_id_of_its_own(server: Kdns, upstream: Upstream) -> None:
    upstream.queries.clear()
    for number in range(100):
        lookup(server.port, f"n{number}.example.com.")
    ports = {client[1] for _, _, client in upstream.queries}
    ids = {query.id for query, _, _ in upstream.queries}
    assert len(ports) > 90
    assert len(ids) > 90
    assert all(query.payload == 1232 for query, _, _ in upstream.queries)


def test_case_of_the_question_is_kept(server: Kdns) -> None:
    reply = lookup(server.port, "WwW.eXample.com.")
    assert reply.question[0].name.to_text() == "WwW.eXample.com."
    assert len(reply.answer) == 2


def test_wrong_datagrams_are_ignored_and_waiting_goes_on(manifests: Path) -> None:
    def liar(query: dns.message.Message, tcp: bool) -> Reply:
        wrong_id = answer(query, f"{WWW} 60 IN A 192.0.2.66")
        wrong_id.id ^= 1
        other = dns.message.make_query("other.example.", "A", id=query.id)
        truth = answer(query, f"{WWW} 60 IN A 192.0.2.1")
        return [b"", b"x", b"\0" * 12, wrong_id.to_wire(), answer(other, "other.example. 60 IN A 192.0.2.66").to_wire(), query.to_wire(), truth.to_wire()]  # fmt: skip

    with Upstream(liar) as upstream, kdns("--manifests", manifests, "--upstream", upstream.text) as server:
        server.wait_for("synced")
        assert addresses(server.port, WWW) == {"192.0.2.1"}


def test_a_dead_server_costs_less_than_a_second_once(manifests: Path) -> None:
    with (
        Upstream(lambda query, tcp: None) as dead,
        Upstream(example) as living,
        kdns("--manifests", manifests, "--upstream", dead.text, "--upstream", living.text) as server,
    ):
        server.wait_for("synced")
        for _ in range(2):
            began = time.monotonic()
            assert addresses(server.port, WWW) == {"192.0.2.1"}
            assert time.monotonic() - began < 3
        before = len(dead.queries)
        for number in range(5):
            lookup(server.port, f"n{number}.example.com.")
        assert len(dead.queries) - before <= 1  # it backs off
        metrics = server.page("/metrics")[1]
        assert (
            f'coredns_proxy_request_duration_seconds_count{{proxy_name="forward",rcode="NOERROR",to="{living.text}"}} 2.0'
            in metrics
        )


def test_a_refusing_server_is_passed_over(manifests: Path) -> None:
    def refusing(query: dns.message.Message, tcp: bool) -> Reply:
        reply = answer(query)
        reply.set_rcode(dns.rcode.REFUSED)
        return reply.to_wire()

    with (
        Upstream(refusing) as bad,
        Upstream(example) as good,
        kdns("--manifests", manifests, "--upstream", bad.text, "--upstream", good.text) as server,
    ):
        server.wait_for("synced")
        assert addresses(server.port, WWW) == {"192.0.2.1"}
    with Upstream(refusing) as bad, kdns("--manifests", manifests, "--upstream", bad.text) as server:
        server.wait_for("synced")
        assert lookup(server.port, WWW).rcode() == dns.rcode.REFUSED


def test_no_upstream_answers(manifests: Path) -> None:
    with (
        Upstream(lambda query, tcp: None) as dead,
        kdns("--manifests", manifests, "--upstream", dead.text, "--log-errors") as server,
    ):
        server.wait_for("synced")
        began = time.monotonic()
        reply = lookup(server.port, WWW)
        assert reply.rcode() == dns.rcode.SERVFAIL
        assert [int(option.otype) for option in reply.options] == [15]
        assert time.monotonic() - began < 10
        assert addresses(server.port, "web.default.svc.cluster.local.") == {"10.96.0.1"}
        server.wait_for(r"\[WARNING\] kdns.upstream.forwarder: no upstream answers: ")
        server.wait_for(r"\[ERROR\] plugin/errors: 2 www.example.com. A: ")


def test_a_resolv_conf_is_followed(manifests: Path, tmp_path: Path) -> None:
    def other(query: dns.message.Message, tcp: bool) -> Reply:
        return answer(query, f"{WWW} 60 IN A 192.0.2.2").to_wire()

    path = tmp_path / "resolv.conf"
    with Upstream(example) as one, Upstream(other) as two:
        path.write_text(f"# of the node\nsearch example.com\nnameserver {one.text}\noptions ndots:5\n")
        with kdns("--manifests", manifests, "--upstream", path) as server:
            server.wait_for("synced")
            assert addresses(server.port, WWW) == {"192.0.2.1"}
            path.write_text(f"nameserver {two.text}\n")
            server.wait_until(lambda: addresses(server.port, WWW) == {"192.0.2.2"})
            path.write_text("nothing here\n")
            time.sleep(1.1)  # a file is looked at once a second at most
            assert addresses(server.port, WWW) == {"192.0.2.2"}
            server.wait_for("names no nameserver that can be asked; those it last named stay in use")


def test_nothing_is_asked_outside_before_the_first_sync(upstream: Upstream) -> None:
    with kdns("--api-server", "http://127.0.0.1:9", "--upstream", upstream.text) as server:
        assert lookup(server.port, "8.8.8.8.in-addr.arpa.", "PTR").rcode() == dns.rcode.SERVFAIL
        assert addresses(server.port, WWW) == {"192.0.2.1"}  # but what is nobody's business of ours is
