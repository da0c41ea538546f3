"""Counts of queries, under CoreDNS's metric names and labels.

The hot path hands over whole batches of answered entries, which are counted in C and taken apart only once a second
or when someone looks; everything else is counted as it happens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from kdns.proto.label import Label
from kdns.proto.query import NXDOMAIN, RCODE_TEXT
from kdns.proto.table import Entry, Sort
from zones.records import rrtype_to_text

DURATION_BUCKETS: Final = tuple(0.00025 * 2**power for power in range(16))
SIZE_BUCKETS: Final = (0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16e3, 32e3, 48e3, 64e3)
MAX_UNCOUNTED: Final = 2048
"""Rows that wait to be taken apart: as many as take a third of a millisecond, in which no query is answered. Those of
hits keep their responses alive meanwhile."""

_TYPES: Final = frozenset(
    map(rrtype_to_text, (1, 2, 5, 6, 12, 15, 16, 28, 33, 35, 43, 46, 47, 48, 50, 64, 65, 251, 252, 255, 257))
)
_NO_ZONE = "dropped"
_LAST_BUCKET: Final = len(DURATION_BUCKETS) - 1

_K = TypeVar("_K", bound=Hashable)


class _Row(NamedTuple):
    """What tells one kind of query from another; sizes in octets, ``bucket`` the index of its duration's."""

    proto: str
    family: str
    label: Label | None
    request: int
    response: int
    rcode: int
    is_truncated: int
    bucket: int


_Miss = tuple[str, str, Label | None, int, int, int, int]
"""A query as it is noted: protocol, family, label, octets asked and answered, the response's flags, its bucket."""


class Histogram:
    """Counts by bucket, and a sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count *value*, *times* over."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound, as Prometheus wants them."""
        rows = []
        running = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            rows.append(("+Inf" if bound == float("inf") else f"{float(bound)}", float(running)))
        return rows


class QueryStats:
    """Counts for one program's handlers; *server* is CoreDNS's label, such as ``dns://:53``.

    *plugin_of* says which of CoreDNS's plugins would have given an answer.
    """

    def __init__(self, server: str, *, plugin_of: Callable[[Label], str]) -> None:
        self.server = server
        self._plugin_of = plugin_of
        self._hits: dict[tuple[str, str, int], Counter[Entry]] = {}
        self._misses: list[_Miss] = []
        self._made: list[tuple[str, str, Sort, int]] = []
        self.requests: Counter[tuple[str, str, str, str]] = Counter()
        self.responses: Counter[tuple[str, str, str]] = Counter()
        self.do: Counter[str] = Counter()
        self.truncated: Counter[str] = Counter()
        self.panics = 0
        self.table_answers = 0
        self.table_denials = 0
        """What the table of finished answers answered: NXDOMAIN are denials, the rest answers."""
        self._durations: dict[str, Histogram] = {}
        self._request_sizes: dict[tuple[str, str], Histogram] = {}
        self._response_sizes: dict[tuple[str, str], Histogram] = {}

    def hits(self, proto: str, family: str, entries: Sequence[Entry], seconds: float) -> None:
        """Count a batch of answers of the table, each of which took *seconds* at most."""
        key = (proto, family, _bucket(seconds))
        counter = self._hits.get(key)
        if counter is None:
            counter = self._hits[key] = Counter()
        counter.update(entries)
        if len(counter) > MAX_UNCOUNTED:
            self.flush()

    def was_hit(self, entry: Entry) -> bool:
        """Tell whether an answer of the table was sent since ``is_used`` was reset, or just before that."""
        return entry.is_used or any(entry in counter for counter in self._hits.values())

    def made(self, proto: str, family: str, sort: Sort, seconds: float) -> None:
        """Count a query answered with one of *sort*, which the table did not have."""
        made = self._made
        made.append((proto, family, sort, bisect_left(DURATION_BUCKETS, seconds)))
        if len(made) > MAX_UNCOUNTED:
            self.flush()

    def miss(
        self, proto: str, family: str, label: Label | None, request: int, tail: bytes | None, seconds: float
    ) -> None:
        """Count a query of *request* octets and the *tail* made for it (None: silence).

        *label* is None for what could not be read.
        """
        size, flags = (len(tail) + 2, tail[0] << 8 | tail[1]) if tail is not None else (0, 0)
        misses = self._misses
        misses.append((proto, family, label, request, size, flags, bisect_left(DURATION_BUCKETS, seconds)))
        if len(misses) > MAX_UNCOUNTED:
            self.flush()

    def flush(self) -> None:
        """Take the batches apart."""
        misses, self._misses = self._misses, []
        for (proto, family, label, request, size, flags, bucket), times in Counter(misses).items():
            rcode = label.rcode if label is not None else flags & 15
            row = _Row(proto, family, label, request, size, rcode, flags & 0x0200, min(bucket, _LAST_BUCKET))
            self._count(row, times)
        made, self._made = self._made, []
        for (proto, family, sort, bucket), times in Counter(made).items():
            self._count(_row_of(proto, family, sort, min(bucket, _LAST_BUCKET)), times)
        hits, self._hits = self._hits, {}
        for (proto, family, bucket), counter in hits.items():
            by_sort: dict[Sort, int] = {}
            for entry, times in counter.items():
                entry.is_used = True
                by_sort[entry.sort] = by_sort.get(entry.sort, 0) + times
            for sort, times in by_sort.items():
                hit = _row_of(proto, family, sort, bucket)
                if hit.rcode == NXDOMAIN:
                    self.table_denials += times
                else:
                    self.table_answers += times
                self._count(hit, times)

    def _count(self, row: _Row, times: int) -> None:
        label = row.label
        zone = (label.zone if label is not None else "") or _NO_ZONE
        text = rrtype_to_text(label.qtype) if label is not None else ""
        self.requests[zone, row.proto, row.family, text if text in _TYPES else "other"] += times
        if label is not None and label.do:
            self.do[zone] += times
        if row.response:
            self.responses[
                zone, RCODE_TEXT.get(row.rcode, str(row.rcode)), "" if label is None else self._plugin_of(label)
            ] += times
        if row.is_truncated:
            self.truncated[row.proto] += times
        _of(self._durations, zone, DURATION_BUCKETS).observe(DURATION_BUCKETS[row.bucket], times)
        _of(self._request_sizes, (zone, row.proto), SIZE_BUCKETS).observe(row.request, times)
        _of(self._response_sizes, (zone, row.proto), SIZE_BUCKETS).observe(row.response, times)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        self.flush()
        server = self.server
        requests = CounterMetricFamily(
            "coredns_dns_requests",
            "Counter of DNS requests made per zone, protocol and family.",
            labels=("server", "zone", "view", "proto", "family", "type"),
        )
        for (zone, proto, family, qtype), count in self.requests.items():
            requests.add_metric((server, zone, "", proto, family, qtype), count)
        yield requests
        responses = CounterMetricFamily(
            "coredns_dns_responses",
            "Counter of response status codes.",
            labels=("server", "zone", "view", "rcode", "plugin"),
        )
        for (zone, rcode, plugin), count in self.responses.items():
            responses.add_metric((server, zone, "", rcode, plugin), count)
        yield responses
        do = CounterMetricFamily(
            "coredns_dns_do_requests",
            "Counter of DNS requests with DO bit set per zone.",
            labels=("server", "zone", "view"),
        )
        for zone, count in self.do.items():
            do.add_metric((server, zone, ""), count)
        yield do
        durations = HistogramMetricFamily(
            "coredns_dns_request_duration_seconds",
            "Histogram of the time (in seconds) each request took per zone.",
            labels=("server", "zone", "view"),
        )
        for zone, histogram in self._durations.items():
            durations.add_metric((server, zone, ""), histogram.buckets(), histogram.total)
        yield durations
        for name, text, histograms in (
            ("request", "Size of the request in bytes per zone and protocol.", self._request_sizes),
            ("response", "Size of the returned response in bytes.", self._response_sizes),
        ):
            sizes = HistogramMetricFamily(
                f"coredns_dns_{name}_size_bytes", text, labels=("server", "zone", "view", "proto")
            )
            for (zone, proto), histogram in histograms.items():
                sizes.add_metric((server, zone, "", proto), histogram.buckets(), histogram.total)
            yield sizes
        truncated = CounterMetricFamily(
            "kdns_truncated_responses",
            "Responses with TC set: over TCP, those of more than 64 KiB.",
            labels=("proto",),
        )
        for proto, count in self.truncated.items():
            truncated.add_metric((proto,), count)
        yield truncated
        panics = CounterMetricFamily("coredns_panics", "A metrics that counts the number of panics.")
        panics.add_metric((), self.panics)
        yield panics


def _row_of(proto: str, family: str, sort: Sort, bucket: int) -> _Row:
    label = sort.label
    assert isinstance(label, Label)  # what the makers of answers count by
    return _Row(proto, family, label, sort.request, sort.response, label.rcode, sort.is_truncated, bucket)


def _bucket(seconds: float) -> int:
    """Return the index of the duration's bucket; what is longer than any counts in the last."""
    return min(bisect_left(DURATION_BUCKETS, seconds), _LAST_BUCKET)


def _of(histograms: dict[_K, Histogram], key: _K, bounds: Sequence[float]) -> Histogram:
    histogram = histograms.get(key)
    if histogram is None:
        histogram = histograms[key] = Histogram(bounds)
    return histogram
