"""Counts of questions to upstreams, under CoreDNS's metric names and labels (OPERATORS section 2)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from kdns.admin.stats import DURATION_BUCKETS, Histogram
from kdns.proto.query import RCODE_TEXT
from kdns.upstream.forwarder import Exchanges, Forwarder
from kdns.upstream.servers import Protocol, Server

PROXY = "forward"
"""The label ``proxy_name`` of CoreDNS."""

NO_REPLY = "<none>"

OLD_NAME = "What coredns_proxy_… of that name tells, under the name that it had before."


class UpstreamStats:
    """Counts of all routes of a program: every try is observed, the rest is read when someone looks."""

    def __init__(self) -> None:
        self._tries: dict[tuple[Server, int | None], Histogram] = {}
        self._forwarders: Sequence[Forwarder[Any]] = ()
        self._exchanges: Exchanges | None = None

    def observe(self, server: Server, rcode: int | None, seconds: float) -> None:
        """Note a try to have *server* answer; *rcode* is None when it did not."""
        key = server, rcode
        histogram = self._tries.get(key)
        if histogram is None:
            histogram = self._tries[key] = Histogram(DURATION_BUCKETS)
        histogram.counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
        histogram.total += seconds

    def watch(self, forwarders: Sequence[Forwarder[Any]], exchanges: Exchanges) -> None:
        """Read the counts of these, too."""
        self._forwarders = forwarders
        self._exchanges = exchanges

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield from self._collect_tries()
        failures: Counter[Server] = Counter()
        for forwarder in self._forwarders:
            failures.update(forwarder.failures)
        failed = CounterMetricFamily(
            "coredns_proxy_healthcheck_failures",
            "Counter of the number of failed healthchecks: here, of questions that a server left without reply.",
            labels=("proxy_name", "to"),
        )
        old = CounterMetricFamily("coredns_forward_healthcheck_failures", OLD_NAME, labels=("to",))
        for server, count in failures.items():
            failed.add_metric((PROXY, str(server)), count)
            old.add_metric((str(server),), count)
        yield failed
        yield old
        broken = CounterMetricFamily(
            "coredns_forward_healthcheck_broken",
            "Counter of the number of complete failures of the healthchecks: every server was backed off from.",
        )
        broken.add_metric((), sum(forwarder.all_down for forwarder in self._forwarders))
        yield broken
        pending = GaugeMetricFamily("kdns_upstream_questions", "Questions on their way to upstreams.")
        pending.add_metric((), sum(map(len, self._forwarders)))
        yield pending
        if (exchanges := self._exchanges) is not None:
            for name, text, counts in (
                ("hits", "Questions asked on a connection that was open.", exchanges.streams.reused),
                ("misses", "Connections opened for a question.", exchanges.streams.opened),
            ):
                family = CounterMetricFamily(
                    f"coredns_proxy_conn_cache_{name}", text, labels=("proxy_name", "to", "proto")
                )
                for server, count in counts.items():
                    proto = "tcp-tls" if server.protocol is Protocol.TLS else "tcp"
                    family.add_metric((PROXY, str(server), proto), count)
                yield family

    def _collect_tries(self) -> Iterator[Metric]:
        seconds = HistogramMetricFamily(
            "coredns_proxy_request_duration_seconds",
            "Histogram of the time each request took.",
            labels=("proxy_name", "to", "rcode"),
        )
        old_seconds = HistogramMetricFamily(
            "coredns_forward_request_duration_seconds", OLD_NAME, labels=("to", "rcode")
        )
        requests = CounterMetricFamily("coredns_forward_requests", "Questions sent, by server.", labels=("to",))
        responses = CounterMetricFamily(
            "coredns_forward_responses", "Replies, by server and RCODE.", labels=("to", "rcode")
        )
        sent: Counter[Server] = Counter()
        for (server, rcode), histogram in self._tries.items():
            text = NO_REPLY if rcode is None else RCODE_TEXT.get(rcode, str(rcode))
            count = sum(histogram.counts)
            sent[server] += count
            seconds.add_metric((PROXY, str(server), text), histogram.buckets(), histogram.total)
            old_seconds.add_metric((str(server), text), histogram.buckets(), histogram.total)
            if rcode is not None:
                responses.add_metric((str(server), text), count)
        for server, count in sent.items():
            requests.add_metric((str(server),), count)
        yield from (seconds, old_seconds, requests, responses)
