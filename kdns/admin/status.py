"""What goes on now, for a person: rates, latencies, who asks most and for what; the same for the page and for ``top``.

Everything is read from the metrics as they are exported, so it is the same whether one process answers or many.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import chain
from math import inf
from typing import Any, Final, Protocol

import msgspec
import trio

from kdns.admin.metrics import Collector
from kdns.version import VERSION
from zones.errors import BadName
from zones.names import Name
from zones.records import rrtype_to_text

POINT_SECONDS: Final = 2.0
POINTS: Final = 300
"""Ten minutes of them."""
RATE_SECONDS: Final = 20.0
"""Rates are of that long, or of as long as the program has run."""
TOP: Final = 20

Rates = tuple[Sequence[tuple[bytes, float]], Sequence[tuple[bytes, float]]]
"""Questions as ``net.hitters`` has them and clients, each with its queries a second."""


class Totals(msgspec.Struct):
    """Sums since the start. Durations in seconds: upper bound of a bucket to how many lie in it or below."""

    responses: Counter[str]
    types: Counter[str]
    durations: Counter[float]
    hits: float = 0.0
    lookups: float = 0.0
    upstreams: dict[str, tuple[float, float, float]] = {}
    """By server: tries, seconds that they took, tries without a reply."""


def read_totals(collectors: Iterable[Collector]) -> Totals:
    """Add up what *collectors* tell."""
    totals = Totals(Counter(), Counter(), Counter(), upstreams={})
    for family in chain.from_iterable(collector.collect() for collector in collectors):
        for sample in family.samples:
            labels, value = sample.labels, sample.value
            match sample.name:
                case "coredns_dns_responses_total":
                    totals.responses[labels["rcode"]] += value  # type: ignore[assignment]
                case "coredns_dns_requests_total":
                    totals.types[labels["type"]] += value  # type: ignore[assignment]
                case "coredns_dns_request_duration_seconds_bucket":
                    totals.durations[float(labels["le"])] += value  # type: ignore[assignment]
                case "coredns_cache_hits_total":
                    totals.hits += value
                case "coredns_cache_requests_total":
                    totals.lookups += value
                case "coredns_forward_request_duration_seconds_count":
                    tries, seconds, silent = totals.upstreams.get(labels["to"], (0.0, 0.0, 0.0))
                    silent += value if labels["rcode"] == NO_REPLY else 0.0
                    totals.upstreams[labels["to"]] = tries + value, seconds, silent
                case "coredns_forward_request_duration_seconds_sum":
                    tries, seconds, silent = totals.upstreams.get(labels["to"], (0.0, 0.0, 0.0))
                    totals.upstreams[labels["to"]] = tries, seconds + value, silent
    return totals


NO_REPLY: Final = "<none>"


def quantile(before: Counter[float], now: Counter[float], share: float) -> float | None:
    """Return below how many seconds that *share* of the durations between two looks lies; None without any.

    Within a bucket they are taken to be spread evenly, as Prometheus does.
    """
    rows = [(bound, now[bound] - before[bound]) for bound in sorted(now)]
    if not rows or rows[-1][1] <= 0:
        return None
    wanted = rows[-1][1] * share
    below, lower = 0.0, 0.0
    for bound, count in rows:
        if count >= wanted:
            return lower if bound == inf else lower + (bound - lower) * (wanted - below) / ((count - below) or 1)
        below, lower = count, bound
    return lower


class Facts(Protocol):
    """What a program tells of itself."""

    def not_ready(self) -> list[str]:
        """List why the program is not ready."""

    def troubles(self) -> list[str]:
        """List what is wrong."""

    def facts(self) -> dict[str, Any]:
        """Return what only this program has: zones, objects, watches, cache; see the page."""

    def client_name(self, address: str) -> str:
        """Return who has an address, as far as that is known."""

    async def rates(self, count: int) -> Rates:
        """Return the first *count* questions and clients."""

    async def explain(self, name: str, rrtype: str, asker: str) -> list[str]:
        """Return the lines that say why a question is answered as it is, *asker* a namespace, a pod or a client.

        Raises ValueError for what is no question.
        """


class Status:
    """The last minutes of a program; *collectors* are those of its queries."""

    def __init__(self, name: str, facts: Facts, collectors: Sequence[Collector]) -> None:
        self._name = name
        self._facts = facts
        self._collectors = collectors
        self._began_at = time.time()
        self._seen: deque[tuple[float, Totals]] = deque(maxlen=int(RATE_SECONDS / POINT_SECONDS) + 1)
        self._points: deque[list[float | None]] = deque(maxlen=POINTS)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            self.look(trio.current_time(), time.time())
            await trio.sleep(POINT_SECONDS)

    def look(self, now: float, wall: float) -> None:
        """Note how things are; *wall* is the time of day, as Unix time."""
        totals = read_totals(self._collectors)
        if self._seen:
            at, before = self._seen[-1]
            seconds = max(now - at, 0.001)
            gone = {
                rcode: max(count - before.responses[rcode], 0) / seconds for rcode, count in totals.responses.items()
            }
            quantiles = [quantile(before.durations, totals.durations, share) for share in (0.5, 0.99)]
            self._points.append(
                [
                    round(wall, 1),
                    round(sum(gone.values()), 1),
                    round(gone.get("NXDOMAIN", 0.0), 1),
                    round(gone.get("SERVFAIL", 0.0), 1),
                    *(None if one is None else round(one * 1000, 3) for one in quantiles),
                ]
            )
        self._seen.append((now, totals))

    async def now(self) -> dict[str, Any]:
        """Return everything, as an object of JSON. Times are Unix times and milliseconds, rates are a second."""
        missing = self._facts.not_ready()
        names, clients = await self._facts.rates(TOP)
        return {
            "program": self._name,
            "version": VERSION,
            "now": round(time.time(), 1),
            "began": round(self._began_at, 1),
            "ready": not missing,
            "not_ready": missing,
            "troubles": self._facts.troubles(),
            **self._rates(),
            "history": list(self._points),
            "names": [[*_question(key), round(rate, 2)] for key, rate in names],
            "clients": [self._client(client.decode(), rate) for client, rate in clients],
            **self._facts.facts(),
        }

    def _client(self, address: str, rate: float) -> list[Any]:
        name = self._facts.client_name(address)
        return [address, round(rate, 2), name] if name else [address, round(rate, 2)]

    async def explain(self, name: str, rrtype: str, asker: str) -> dict[str, Any]:
        """Return ``lines``, or ``error``."""
        try:
            return {"lines": await self._facts.explain(name, rrtype, asker)}
        except ValueError as exc:
            return {"error": str(exc) or "no question"}

    def _rates(self) -> dict[str, Any]:
        empty = Totals(Counter(), Counter(), Counter())
        (at, before), (now, totals) = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, empty),) * 2
        seconds = max(now - at, POINT_SECONDS)

        def rates(some: Counter[str], others: Counter[str]) -> dict[str, float]:
            found = {key: round(max(count - others[key], 0) / seconds, 2) for key, count in some.items()}
            return dict(sorted(((key, rate) for key, rate in found.items() if rate), key=lambda item: -item[1]))

        responses = rates(totals.responses, before.responses)
        lookups = totals.lookups - before.lookups
        shares = (
            (f"p{share * 100:g}", quantile(before.durations, totals.durations, share)) for share in (0.5, 0.9, 0.99)
        )
        return {
            "rate": round(sum(responses.values()), 2),
            "responses": responses,
            "types": rates(totals.types, before.types),
            "hit_ratio": round((totals.hits - before.hits) / lookups, 4) if lookups > 0 else None,
            "latency": {key: None if value is None else round(value * 1000, 3) for key, value in shares},
            "upstreams": sorted(_upstreams(totals, before, seconds), key=lambda row: -(row[2] or 0.0)),
        }


def _upstreams(totals: Totals, before: Totals, seconds: float) -> Iterable[list[Any]]:
    """Yield each server, its tries a second, the milliseconds that one took, and the share that had no reply."""
    for server, (tries, spent, silent) in totals.upstreams.items():
        old_tries, old_spent, old_silent = before.upstreams.get(server, (0.0, 0.0, 0.0))
        count = tries - old_tries
        took = round((spent - old_spent) * 1000 / count, 3) if count > 0 else None
        lost = round((silent - old_silent) / count, 4) if count > 0 else 0.0
        yield [server, round(count / seconds, 2), took, lost]


def _question(key: bytes) -> tuple[str, str]:
    """Return the name and the type of a question's octets."""
    try:
        name = Name.from_wire(key[:-2]).to_text()
    except (BadName, ValueError):
        name = key[:-2].decode("ascii", "backslashreplace")
    return name, rrtype_to_text(int.from_bytes(key[-2:], "big"))
