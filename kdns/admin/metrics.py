"""Metrics of the control plane and of the process, and the page that shows all of them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from kdns.tap import Tap

PROGRAMMING_BUCKETS: Final = tuple(0.001 * 2**power for power in range(20))


class Collector(Protocol):
    """Whatever can be asked for metrics when someone looks."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as of now."""


class Metrics:
    """One program's metrics."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        build = Gauge(
            "coredns_build_info",
            "A metric with a constant '1' value labeled by version, revision, and goversion.",
            ("version", "revision", "goversion"),
            registry=self._registry,
        )
        build.labels(version, "kdns", f"python{platform.python_version()}").set(1)
        self._requests = Counter(
            "coredns_kubernetes_rest_client_requests",
            "Number of HTTP requests, partitioned by status code, method, and host.",
            ("code", "method", "host"),
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "coredns_kubernetes_rest_client_request_duration_seconds",
            "Request latency in seconds. Broken down by verb and host.",
            ("verb", "host"),
            registry=self._registry,
        )
        self.programming_seconds = Histogram(
            "coredns_kubernetes_dns_programming_duration_seconds",
            "Histogram of the time (in seconds) it took to program a dns instance.",
            ("service_kind",),
            buckets=PROGRAMMING_BUCKETS,
            registry=self._registry,
        )

    def add(self, collector: Collector) -> None:
        """Have *collector* asked at each look."""
        self._registry.register(collector)

    def observe_request(self, method: str, host: str, code: int, seconds: float) -> None:
        """Note a request to the API server; may be called from any thread."""
        self._requests.labels(str(code) if code else "<error>", method, host).inc()
        self._request_seconds.labels(method, host).observe(seconds)

    def page(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class Gauges:
    """Values read when someone looks: name to help text and a function that gives rows of labels and value."""

    def __init__(self) -> None:
        self._gauges: list[
            tuple[str, str, tuple[str, ...], Callable[[], Iterable[tuple[tuple[str, ...], float]]], bool]
        ] = []

    def add(
        self,
        name: str,
        text: str,
        read: Callable[[], Iterable[tuple[tuple[str, ...], float]]],
        *,
        labels: tuple[str, ...] = (),
        is_counter: bool = False,
    ) -> None:
        """Add one; a counter's *name* goes without its ``_total``."""
        self._gauges.append((name, text, labels, read, is_counter))

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        for name, text, labels, read, is_counter in self._gauges:
            family = (CounterMetricFamily if is_counter else GaugeMetricFamily)(name, text, labels=labels)
            for row, value in read():
                family.add_metric(row, value)
            yield family


def tap_gauges(tap: Tap) -> Gauges:
    """Return what there is to know of dnstap."""
    gauges = Gauges()
    gauges.add("kdns_dnstap_sent", "Messages sent to the dnstap collector.", lambda: [((), tap.sent)], is_counter=True)
    gauges.add(
        "kdns_dnstap_dropped",
        "Messages for the dnstap collector that there was no room for.",
        lambda: [((), tap.dropped)],
        is_counter=True,
    )
    return gauges
