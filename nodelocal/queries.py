"""Between the listeners and the resolver: the query boundary, the table of finished answers, counting, logging.

| a query                                     | what happens                                                           |
|---------------------------------------------|------------------------------------------------------------------------|
| in the table of finished answers            | the stored answer, made anew once a second (``nodelocal.finished``)    |
| over its client's share                     | TC over UDP (``kdns.net.fairness``)                                    |
| not readable, or refused whatever its name  | as ``kdns.proto.refusal`` has it                                       |
| ANY                                         | HINFO "RFC8482" (RFC 8482 section 4.2)                                 |
| class CH, ``alive.nodelocal``               | NOERROR: this loop runs (``nodelocal.lease``)                          |
| of a static record, or to be rewritten      | that (``nodelocal.local``)                                             |
| a probe of ours that came back              | REFUSED, and its upstream is not asked any more (``nodelocal.loops``)  |
| the first step of a search path             | what the whole path ends at (``nodelocal.expand``)                     |
| anything else                               | the cache, then the upstreams (``nodelocal.resolver``)                 |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Final

import trio

from kdns.admin.logs import QueryLog
from kdns.admin.stats import QueryStats
from kdns.errors import WireError
from kdns.net.cookies import is_proven
from kdns.net.fairness import Fairness, Verdict
from kdns.net.handler import Client, Deliver, Later
from kdns.proto.label import Label
from kdns.proto.labels import Labels
from kdns.proto.query import NOERROR, NXDOMAIN, Query, REFUSED, SERVFAIL, Transport
from kdns.proto.reading import read_query
from kdns.proto.refusal import refusal
from kdns.proto.response import make_bare, make_response
from kdns.proto.table import Entry as Finished
from nodelocal import answers
from nodelocal.body import whole_seconds
from nodelocal.cache import key_of, STALE_TTL
from nodelocal.expand import Expanded, Expander
from nodelocal.finished import FinishedAnswers, Made, Renew
from nodelocal.found import Found, Link
from nodelocal.lease import CHAOS, PROBE_NAME
from nodelocal.loops import LoopGuard
from nodelocal.resolver import Resolver
from nodelocal.route import Route
from nodelocal.waiting import Waiting, Walking
from nodelocal.walking import Ending
from zones.names import ROOT
from zones.records import ANY, IN, OPT, RRset
from zones.search import Walk

log = logging.getLogger(__name__)

_FIRST_ODD_TYPE: Final = 249
"""From TKEY on come the types that ask for something else than records."""

HINFO: Final = 13
RFC8482: Final = b"\x07RFC8482\0"
RFC8482_TTL: Final = 3600

LOCAL: Final = Route(ROOT, "", text="static")
"""What answers of this program's own are counted by."""

SETTLED_SECONDS: Final = 1.0
"""Only answers that are good until they are made anew are stored among the finished ones."""


class Front:
    """What all handlers of the program share."""

    def __init__(
        self,
        resolver: Resolver,
        expander: Expander,
        guard: LoopGuard,
        stats: QueryStats,
        query_log: QueryLog | None = None,
        fairness: Fairness | None = None,
    ) -> None:
        self.resolver = resolver
        self.expander = expander
        self.guard = guard
        self.stats = stats
        self.query_log = query_log
        self.fairness = fairness
        self.labels = Labels()
        self.finished = FinishedAnswers(stats.was_hit)
        self.expanded = 0
        """Questions answered under another name than asked for."""
        self._turn = 0

    def handler(self, transport: Transport, family: int) -> Handler:
        """Return what answers on one listener."""
        return Handler(self, transport, family)

    def pick(self, tails: tuple[bytes, ...]) -> bytes:
        """Return one of the orders of an answer, another each time."""
        if len(tails) == 1:
            return tails[0]
        self._turn += 1
        return tails[self._turn % len(tails)]


class Handler:
    """Answers messages of one transport and family (``kdns.net.handler.Handler``)."""

    def __init__(self, front: Front, transport: Transport, family: int) -> None:
        self.front = front
        self.resolver = front.resolver
        self.expander = front.expander
        self._transport = transport
        self._proto = transport.value
        self._family = str(1 if family == 4 else 2)  # CoreDNS's numbers for IPv4 and IPv6
        self._table = front.finished.tables[transport]
        is_direct = front.query_log is None and front.fairness is None
        self.find: Callable[[bytes], Finished | None] = self._table.find if is_direct else _nothing
        self._find_kept = self._table.find

    def respond(self, wire: bytes, client: Client) -> bytes | Later | None:
        """Return the tail for a message, now or later; one that breaks us costs that message alone."""
        began = perf_counter()
        try:
            return self._respond(wire, client, began)
        except Exception:  # noqa: BLE001 - told and counted there
            return self.broken(wire, client, began)

    def count(self, hits: Sequence[Finished], seconds: float) -> None:
        """Count what ``find`` answered."""
        self.front.stats.hits(self._proto, self._family, hits, seconds)

    def _respond(self, wire: bytes, client: Client, began: float) -> bytes | Later | None:
        front = self.front
        fairness = front.fairness
        if fairness is not None:
            proven = self._transport is Transport.TCP or is_proven(client)
            verdict = fairness.judge(client()[0], trio.current_time(), is_proven=proven)
            if verdict is Verdict.TRUNCATE:
                return self._limited(wire, client, began)
            if verdict is Verdict.DROP:
                return None
        key = wire[2:]
        finished = self._table.find_again(key) or self._find_kept(key)
        if finished is not None:
            assert isinstance(finished.sort.label, Label)  # what is stored below
            finished.is_used = True
            return self.done(wire, finished.next(), finished.sort.label, client, began)
        try:
            query = read_query(wire, self._transport)
        except WireError as exc:
            if exc.rcode_hint is None:
                front.stats.miss(self._proto, self._family, None, len(wire), None, 0.0)
                return None
            return self.done(wire, make_bare(wire, exc.rcode_hint, ra=True), None, client, began)
        qtype = query.qtype
        if qtype >= _FIRST_ODD_TYPE or qtype == OPT or query.qclass != IN or query.signed is not None or query.edns:
            tail = self._oddly(query)
            if tail is not None:
                return self._plainly(wire, query, tail, "", client, began)
        qname = query.qname
        resolver = front.resolver
        if resolver.local is not None and resolver.local.has(qname):
            found = self._locally(wire, query, client, began)
            if found is not None:
                return found
        route = resolver.routes.of(qname)
        if front.guard.probes and front.guard.is_probe(qname):
            route = None
        is_common = True
        if qname.labels[-1:] in front.expander.endings_of_zones:
            walk = front.expander.walk_of(qname)
            if walk is not None and front.expander.is_for(walk, client):
                return self._expand(wire, query, walk, client, began)
            if (rcode := front.expander.denial_of(qname)) is not None:
                return self._plainly(wire, query, answers.denied(query, None, rcode=rcode), "", client, began)
            is_common = walk is None  # others are answered otherwise
        if route is None:
            tail = make_response(query, rcode=REFUSED, ra=True)[0]
            return self._plainly(wire, query, tail, "", client, began)
        return self._resolve(wire, query, route, client, began, is_common=is_common)

    @staticmethod
    def _oddly(query: Query) -> bytes | None:
        """Return the response to what is refused or answered whatever its name, None for any other query."""
        if query.qclass == CHAOS and query.qname == PROBE_NAME:
            return make_response(query, rcode=NOERROR, ra=True)[0]
        if (refused := refusal(query, ra=True)) is not None:
            return refused[1]
        if query.qtype == ANY:
            hinfo = RRset(query.qname, HINFO, RFC8482_TTL, (RFC8482,))
            return make_response(query, rcode=NOERROR, answer=(hinfo,), ra=True)[0]
        return None

    def _locally(self, wire: bytes, query: Query, client: Client, began: float) -> Later | None:
        """Return the response to a question about a name that is decided here, None where its type is not."""
        resolver, qname = self.resolver, query.qname
        assert resolver.local is not None  # the caller has looked
        if resolver.local.rewrites.of(qname) is None and resolver.local.find(qname, query.qtype, 0.0) is None:
            return None
        sender = self._sender(client)
        do = query.edns is not None and query.edns.do

        def wait(deliver: Deliver) -> None:
            def take(found: Found) -> None:
                try:
                    tail = self.answer(wire, query, LOCAL, found, resolver.now(), sender, began, is_common=True)
                except Exception:  # noqa: BLE001 - told and counted there
                    tail = self.broken(wire, sender, began)
                deliver(tail)

            resolver.resolve(qname, query.qtype, take, do=do, cd=query.checking_disabled)

        return wait

    # -- as asked ---------------------------------------------------------------------------------------------------

    def _resolve(
        self, wire: bytes, query: Query, route: Route, client: Client, began: float, *, is_common: bool
    ) -> bytes | Later:
        edns = query.edns
        do = edns is not None and edns.do
        cd = bool(query.flags & 0x0010)
        resolver = self.resolver
        qname, qtype = query.qname, query.qtype
        now = resolver.now()
        key = key_of(qname, qtype, do=do, cd=cd)
        entry = resolver.cache.find(key, now)
        if entry is not None and now < entry.expires_at and entry.target is None:
            resolver.hit(key, qname, qtype, entry, route, do=do, cd=cd, now=now)
            found = Found((Link(qname, entry),))
            return self.answer(wire, query, route, found, now, client, began, is_common=is_common)
        sender = _nobody if self.front.query_log is None else self._sender(client)
        return Waiting(self, wire, query, key, route, sender, began, entry, now, do=do, cd=cd).wait

    def answer(
        self,
        wire: bytes,
        query: Query,
        route: Route,
        found: Found,
        now: float,
        client: Client,
        began: float,
        *,
        is_common: bool,
    ) -> bytes:
        """Return the response of what was found; store it if it is the same for all clients, and good for a while."""
        front = self.front
        tails = answers.plain(query, found, now)
        label = front.labels.of(route.text, query, tails[0][1] & 15)
        if is_common and found.expires_at - now >= SETTLED_SECONDS and not found.is_stale:
            self._store(wire, (tails, label), partial(self._plain_again, query, route))
        return self.done(wire, tails[0] if len(tails) == 1 else front.pick(tails), label, client, began)

    def _plain_again(self, query: Query, route: Route) -> Made | None:
        """Make the response of what the cache has, as for one who asks now."""
        resolver, qname, qtype = self.resolver, query.qname, query.qtype
        if resolver.local is not None and resolver.local.has(qname):
            return None
        do, cd = query.edns is not None and query.edns.do, query.checking_disabled
        now = resolver.now()
        key = key_of(qname, qtype, do=do, cd=cd)
        entry = resolver.cache.find(key, now)
        if entry is None or entry.target is not None or entry.expires_at - now < SETTLED_SECONDS:
            return None
        resolver.hit(key, qname, qtype, entry, route, do=do, cd=cd, now=now)
        tails = answers.plain(query, Found((Link(qname, entry),)), now)
        return tails, self.front.labels.of(route.text, query, tails[0][1] & 15)

    def broken(self, wire: bytes, client: Client, began: float) -> bytes:
        """Return SERVFAIL for a query that broke us, from within the handling of the exception."""
        log.exception("a query of %d octets: %s", len(wire), wire[:512].hex())
        self.front.stats.panics += 1
        return self.done(wire, make_bare(wire, SERVFAIL, ra=True), None, client, began)

    # -- by the search path -------------------------------------------------------------------------------------------

    def _expand(self, wire: bytes, query: Query, walk: Walk, client: Client, began: float) -> bytes | Later:
        front = self.front
        namespace = walk.namespace if front.expander.pods is not None else None
        if namespace is not None:
            known = front.finished.find_own(namespace, self._transport, wire[2:])
            if known is not None:
                return self.done(wire, front.pick(known[0]), known[1], client, began)
        waiting = Walking(self, wire, query, walk, self._sender(client), began)
        waiting.start()
        return waiting.tail if waiting.tail is not None else waiting.wait

    def expanded(
        self, wire: bytes, query: Query, walk: Walk, expanded: Expanded, client: Client, began: float
    ) -> bytes:
        """Return the response of what a walk came to, and store it where it is good for a while."""
        front = self.front
        tails, lives = self._tails(query, expanded, self.resolver.now())
        label = front.labels.of(walk.zone.to_text(), query, tails[0][1] & 15)
        if lives >= SETTLED_SECONDS:
            if front.expander.pods is None:
                self._store(wire, (tails, label), partial(self._expanded_again, query, walk))
            else:
                front.finished.store_own(walk.namespace, self._transport, wire[2:], (tails, label))
        return self.done(wire, front.pick(tails), label, client, began)

    def _expanded_again(self, query: Query, walk: Walk) -> Made | None:
        """Make the response of what is known of a walk's end."""
        ends: list[Expanded] = []
        do = query.edns is not None and query.edns.do
        self.expander.expand(walk, query.qtype, ends.append, do=do, cd=query.checking_disabled)
        if not ends or ends[0].decision.ending is Ending.LITERAL:
            return None
        tails, lives = self._tails(query, ends[0], self.resolver.now())
        if lives < SETTLED_SECONDS:
            return None
        return tails, self.front.labels.of(walk.zone.to_text(), query, tails[0][1] & 15)

    def failed(self, wire: bytes, query: Query, client: Client, began: float) -> bytes:
        """Return SERVFAIL for a query whose time is up."""
        return self._plainly(wire, query, answers.failed(query, "not answered in time"), "", client, began)

    def _tails(self, query: Query, expanded: Expanded, now: float) -> tuple[tuple[bytes, ...], float]:
        """Return the response and the seconds that it is good for; 0: not to be stored."""
        decision, found = expanded.decision, expanded.found
        left = max(0.0, decision.expires_at - now)
        ttl = whole_seconds(left)
        is_stale = decision.is_stale or (found is not None and found.is_stale)
        if is_stale:
            ttl = STALE_TTL
        if decision.ending is Ending.FAILED or (decision.ending is Ending.WON and found is None):
            return (answers.failed(query, "a step of the search path failed"),), 0
        if found is not None and decision.name is not None:
            if decision.name != query.qname and not found.last.is_failure:
                self.front.expanded += 1
            tails = answers.expanded(query, decision.name, found, now, ttl=ttl)
            is_fit = not is_stale and not found.last.is_failure
            return tails, min(left, found.expires_at - now) if is_fit else 0
        rcode = NOERROR if decision.is_nodata else NXDOMAIN
        soa = decision.soa
        if soa is not None:
            soa = RRset(soa.owner, soa.rtype, min(soa.ttl, ttl), soa.rdatas)
        return (answers.denied(query, soa, rcode=rcode, is_stale=is_stale),), 0 if is_stale else left

    # -- bookkeeping --------------------------------------------------------------------------------------------------

    def _store(self, wire: bytes, made: Made, renew: Renew) -> None:
        self.front.finished.store(self._transport, wire[2:], made, renew)

    def _limited(self, wire: bytes, client: Client, began: float) -> bytes | None:
        try:
            query = read_query(wire, self._transport)
        except WireError as exc:
            if exc.rcode_hint is None:
                return None
            return self.done(wire, make_bare(wire, exc.rcode_hint, ra=True), None, client, began)
        tail = make_response(query, rcode=NOERROR, ra=True, flags=0x0200)[0]
        return self._plainly(wire, query, tail, "", client, began)

    def _plainly(self, wire: bytes, query: Query, tail: bytes, zone: str, client: Client, began: float) -> bytes:
        return self.done(wire, tail, self.front.labels.of(zone, query, tail[1] & 15), client, began)

    def done(self, wire: bytes, tail: bytes, label: Label | None, client: Client, began: float) -> bytes:
        """Count a response, log it where that is wanted, and return it."""
        front = self.front
        seconds = perf_counter() - began
        front.stats.miss(self._proto, self._family, label, len(wire), tail, seconds)
        if front.query_log is not None:
            front.query_log.note(wire, tail, client(), self._transport, seconds)
        return tail

    def _sender(self, client: Client) -> Client:
        """Return what tells the client after this call, too; only a log wants to know."""
        if self.front.query_log is None:
            return _nobody
        sender = client()
        return lambda: sender


def _nothing(_: bytes) -> None:
    return None


def _nobody() -> tuple[str, int]:
    return "", 0


def plugin_of(label: Label) -> str:
    """Return the name that CoreDNS's metrics have for what answered."""
    if label.zone == LOCAL.text:
        return "hosts"
    return "forward" if label.zone and label.rcode != REFUSED else ""
