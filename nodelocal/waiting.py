"""Queries that wait: for a lookup to end, or for a walk along a search path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdns.net.handler import Client, Deliver
from kdns.proto.query import Query
from kdns.upstream.forwarder import TOTAL_SECONDS
from nodelocal import answers
from nodelocal.entry import Entry
from nodelocal.expand import Expanded
from nodelocal.found import Found
from nodelocal.resolver import Lookup
from nodelocal.route import Route
from nodelocal.walking import Ending
from zones.search import Walk

if TYPE_CHECKING:
    from nodelocal.queries import Handler


class Waiting(Lookup):
    """A query that waits for its answer; *entry* is what the cache has for it, stale or leading elsewhere."""

    __slots__ = ("_began", "_client", "_deliver", "_entry", "_handler", "_of", "_query", "_wire")

    def __init__(
        self,
        handler: Handler,
        wire: bytes,
        query: Query,
        key: bytes,
        route: Route,
        client: Client,
        began: float,
        entry: Entry | None,
        now: float,
        *,
        do: bool,
        cd: bool,
    ) -> None:
        resolver = handler.resolver
        forwarder = resolver.forwarders[route.servers]
        super().__init__(resolver, key, query.qname, query.qtype, do, cd, forwarder, route, None)
        self.since = now
        self._entry = entry
        self._handler = handler
        self._wire = wire
        self._query = query
        self._of = route
        self._client = client
        self._began = began

    def wait(self, deliver: Deliver) -> None:
        """Ask, and deliver when the answer is there (``kdns.net.handler.Later``)."""
        self._deliver = deliver
        self.start(self._entry, self.since)

    def answered_by(self, entry: Entry) -> None:
        """Make the commonest response in the shortest way."""
        handler, query = self._handler, self._query
        try:
            tail = answers.simple(query, entry, handler.resolver.now())
            if tail is not None:
                label = handler.front.labels.of(self._of.text, query, tail[1] & 15)
                handler.done(self._wire, tail, label, self._client, self._began)
        except Exception:  # noqa: BLE001 - told and counted there
            tail = handler.broken(self._wire, self._client, self._began)
        if tail is None:
            super().answered_by(entry)
        else:
            self._deliver(tail)

    def answered(self, found: Found) -> None:
        """Make the response."""
        handler, wire, client, began = self._handler, self._wire, self._client, self._began
        try:
            now = handler.resolver.now()
            tail = handler.answer(wire, self._query, self._of, found, now, client, began, is_common=False)
        except Exception:  # noqa: BLE001 - told and counted there
            tail = handler.broken(wire, client, began)
        self._deliver(tail)


class Walking:
    """A query that waits for the end of a search path; it has until the client's patience ends, whatever the steps do.

    ``tail`` is its response, once it is there.
    """

    __slots__ = ("_began", "_client", "_deliver", "_handler", "_query", "_walk", "_wire", "tail")

    def __init__(self, handler: Handler, wire: bytes, query: Query, walk: Walk, client: Client, began: float) -> None:
        self._handler = handler
        self._wire = wire
        self._query = query
        self._walk = walk
        self._client = client
        self._began = began
        self._deliver: Deliver | None = None
        self.tail: bytes | None = None

    def start(self) -> None:
        """Walk."""
        query = self._query
        do = query.edns is not None and query.edns.do
        self._handler.expander.expand(self._walk, query.qtype, self._take, do=do, cd=query.checking_disabled)

    def wait(self, deliver: Deliver) -> None:
        """Have the response delivered when it is there (``kdns.net.handler.Later``)."""
        self._deliver = deliver
        resolver = self._handler.resolver
        resolver.timers.call_at(resolver.now() + TOTAL_SECONDS, self._give_up)

    def _take(self, expanded: Expanded) -> None:
        if self.tail is not None:
            return
        handler, wire, query = self._handler, self._wire, self._query
        try:
            if expanded.decision.ending is Ending.LITERAL:
                do = query.edns is not None and query.edns.do
                handler.resolver.resolve(
                    query.qname, query.qtype, self._take_plainly, do=do, cd=query.checking_disabled
                )
                return
            tail = handler.expanded(wire, query, self._walk, expanded, self._client, self._began)
        except Exception:  # noqa: BLE001 - told and counted there
            tail = handler.broken(wire, self._client, self._began)
        self._finish(tail)

    def _take_plainly(self, found: Found) -> None:
        """Take the answer to the name as it stands."""
        if self.tail is not None:
            return
        handler, wire, query = self._handler, self._wire, self._query
        try:
            route = handler.resolver.routes.of(query.qname)
            assert route is not None  # the cluster's, which was asked
            now = handler.resolver.now()
            tail = handler.answer(wire, query, route, found, now, self._client, self._began, is_common=False)
        except Exception:  # noqa: BLE001 - told and counted there
            tail = handler.broken(wire, self._client, self._began)
        self._finish(tail)

    def _give_up(self) -> None:
        if self.tail is None:
            self._finish(self._handler.failed(self._wire, self._query, self._client, self._began))

    def _finish(self, tail: bytes) -> None:
        self.tail = tail
        if self._deliver is not None:
            self._deliver(tail)
