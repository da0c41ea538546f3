"""The numbers of the status page, and who may see it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from kdns.admin.pages import Audience, StatusPages
from kdns.admin.status import quantile, Rates, read_totals, Status


class Counts:
    """A program's metrics, as far as the page reads them."""

    def __init__(self) -> None:
        self.queries = 0
        self.failures = 0

    def collect(self) -> list[Metric]:
        responses = CounterMetricFamily("coredns_dns_responses", "", labels=("zone", "rcode"))
        responses.add_metric(("a.", "NOERROR"), self.queries)
        responses.add_metric(("b.", "NOERROR"), self.queries)
        responses.add_metric(("a.", "SERVFAIL"), self.failures)
        durations = HistogramMetricFamily("coredns_dns_request_duration_seconds", "", labels=("zone",))
        durations.add_metric(
            ("a.",), [("0.001", self.queries), ("0.002", 2 * self.queries), ("+Inf", 2 * self.queries)], 1
        )
        forward = HistogramMetricFamily("coredns_forward_request_duration_seconds", "", labels=("to", "rcode"))
        forward.add_metric(("192.0.2.1:53", "NOERROR"), [("+Inf", self.queries)], self.queries * 0.004)
        forward.add_metric(("192.0.2.1:53", "<none>"), [("+Inf", self.failures)], self.failures * 2.0)
        return [responses, durations, forward]


class Program:
    """What the page asks of a program."""

    def not_ready(self) -> list[str]:
        return ["not synced: Service"]

    def troubles(self) -> list[str]:
        return ["a trouble"]

    def facts(self) -> dict[str, Any]:
        return {"addresses": ["127.0.0.1:53"]}

    def client_name(self, address: str) -> str:
        return "shop/web-1" if address == "10.1.0.1" else ""

    async def rates(self, count: int) -> Rates:
        return [(b"\3web\0\0\1", 12.345), (b"\xff\xff\0\1", 1.0)][:count], [(b"10.1.0.1", 9.0), (b"10.1.0.2", 1.0)][
            :count
        ]

    async def explain(self, name: str, rrtype: str, asker: str) -> list[str]:
        if not name:
            raise ValueError("no name")
        return [f"{name} {rrtype} {asker}"]


def test_rates_and_latencies_are_of_the_last_while() -> None:
    counts = Counts()
    status = Status("kdns", Program(), [counts])
    status.look(0.0, 1000.0)
    counts.queries, counts.failures = 200, 10
    status.look(2.0, 1002.0)
    told = trio.run(status.now)
    assert told["rate"] == 205.0
    assert told["responses"] == {"NOERROR": 200.0, "SERVFAIL": 5.0}
    assert told["history"] == [[1002.0, 205.0, 0.0, 5.0, 1.0, 1.98]]
    assert told["latency"] == {"p50": 1.0, "p90": 1.8, "p99": 1.98}
    assert told["upstreams"] == [["192.0.2.1:53", 105.0, round((0.8 + 20) * 1000 / 210, 3), round(10 / 210, 4)]]
    assert told["names"] == [["web.", "A", 12.35], ["\\xff\\xff", "A", 1.0]]
    assert told["clients"] == [["10.1.0.1", 9.0, "shop/web-1"], ["10.1.0.2", 1.0]]
    assert (told["ready"], told["not_ready"], told["troubles"]) == (False, ["not synced: Service"], ["a trouble"])
    status.look(4.0, 1004.0)
    assert trio.run(status.now)["history"][-1] == [1004.0, 0.0, 0.0, 0.0, None, None]


def test_a_program_that_counts_anew_is_no_negative_rate() -> None:
    """A worker that died takes its counts with it until it has told them again."""
    counts = Counts()
    status = Status("kdns", Program(), [counts])
    counts.queries = 100
    status.look(0.0, 1000.0)
    counts.queries = 0
    status.look(2.0, 1002.0)
    told = trio.run(status.now)
    assert told["rate"] == 0
    assert told["history"][-1][1] == 0


def test_quantiles_lie_within_buckets() -> None:
    before: Counter[float] = Counter()
    now: Counter[float] = Counter({0.001: 50, 0.002: 100, float("inf"): 100})
    assert quantile(before, now, 0.25) == pytest.approx(0.0005)
    assert quantile(before, now, 0.75) == pytest.approx(0.0015)
    assert quantile(now, now, 0.5) is None
    assert quantile(before, Counter({0.001: 0, float("inf"): 5}), 0.5) == 0.001, "longer than any bucket"
    assert quantile(before, Counter(), 0.5) is None


def test_nothing_counted_yet() -> None:
    totals = read_totals([])
    assert (sum(totals.responses.values()), totals.upstreams) == (0, {})
    told = trio.run(Status("kdns", Program(), []).now)
    assert (told["rate"], told["history"], told["hit_ratio"]) == (0, [], None)


HERE = ("127.0.0.1", "localhost:9153")


@pytest.mark.parametrize(
    ("audience", "client", "host", "wanted"),
    [
        (Audience.LOCAL, *HERE, 200),
        (Audience.LOCAL, "::1", "[::1]:9153", 200),
        (Audience.LOCAL, "::ffff:127.0.0.1", "127.0.0.1", 200),
        (Audience.LOCAL, "127.0.0.1", "", 200),
        (Audience.LOCAL, "10.1.0.9", "10.0.0.1:9153", 403),
        (Audience.LOCAL, "::ffff:10.1.0.9", "10.0.0.1:9153", 403),
        (Audience.LOCAL, "127.0.0.1", "evil.example:9153", 403),
        (Audience.LOCAL, "127.0.0.1", "evil.example", 403),
        (Audience.LOCAL, "127.0.0.1", "127.0.0.1.evil.example", 403),
        (Audience.LOCAL, "", "localhost", 403),
        (Audience.ALL, "10.1.0.9", "dns.example", 200),
        (Audience.OFF, *HERE, None),
    ],
)
@pytest.mark.parametrize("path", ["/", "/status.json", "/explain.json"])
def test_who_may_see_it(audience: Audience, client: str, host: str, wanted: int | None, path: str) -> None:
    pages = StatusPages(Status("kdns", Program(), []), audience)
    reply = trio.run(pages.answer, path, b"name=a&type=aaaa&as=b", client, host)
    assert (None if reply is None else reply[0]) == wanted
    assert trio.run(pages.answer, "/metrics", b"", client, host) is None


def test_explanations_and_what_is_no_question() -> None:
    pages = StatusPages(Status("kdns", Program(), []), Audience.LOCAL)
    reply = trio.run(pages.answer, "/explain.json", b"name=+web+&type=aaaa&as=shop%2Fp", *HERE)
    assert reply is not None
    assert reply[2] == b'{"lines":["web AAAA shop/p"]}'
    for query in (b"", b"name=", b"%ff&&=&name", b"type=A"):
        reply = trio.run(pages.answer, "/explain.json", query, *HERE)
        assert reply is not None
        assert reply[2] == b'{"error":"no name"}'


def test_the_page_loads_nothing_and_runs_what_is_in_it_alone() -> None:
    pages = StatusPages(Status("kdns", Program(), []), Audience.LOCAL)
    reply = trio.run(pages.answer, "/", b"", *HERE)
    assert reply is not None
    _, _, page, headers = reply
    assert len(page) < 30_000
    for forbidden in (b"innerHTML", b"http://", b"https://", b"src=", b"@import", b"url(", b"eval("):
        assert forbidden not in page.replace(b'"http://www.w3.org/2000/svg"', b""), forbidden
    policy = dict(headers)[b"content-security-policy"].decode()
    assert "default-src 'none'" in policy
    assert policy.count("sha256-") == 2
    assert "unsafe" not in policy
