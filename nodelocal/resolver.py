"""From a question to an answer: the cache first, then the upstreams of its route, then stale answers.

| the cache has                         | what happens                                                               |
|---------------------------------------|----------------------------------------------------------------------------|
| a fresh entry                         | it is the answer; one asked for often and about to end is renewed beside   |
| a stale one, asking failed lately     | it is the answer, stale                                                    |
| a stale one                           | the upstreams are asked; after ``STALE_SECONDS``, or when they fail, the   |
|                                       | stale one is the answer                                                    |
| a failure                             | there is no answer, and nobody is asked                                    |
| nothing                               | the upstreams are asked                                                    |

Before the cache come static records, and names that are looked up as others (``nodelocal.local``).

An answer that goes on at a name of another route is followed there, ``MAX_LINKS`` times at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from kdns.proto import peer
from kdns.proto.query import NOERROR, NXDOMAIN, REFUSED
from kdns.upstream.forwarder import Forwarder, NoReply, TOTAL_SECONDS
from kdns.upstream.question import Question
from kdns.upstream.servers import Server
from kdns.upstream.timers import Timers
from nodelocal.body import remaining, sections
from nodelocal.cache import Cache, key_of, RECHECK_SECONDS
from nodelocal.entry import Entry, FAILURE, seal
from nodelocal.feed import FeedClient
from nodelocal.found import Found, Link
from nodelocal.local import Local
from nodelocal.reply import read_addresses, read_reply
from nodelocal.route import Route
from nodelocal.routes import Routes
from zones.names import Name
from zones.records import CNAME, RRset, SOA

STALE_SECONDS: Final = 1.8
"""RFC 8767 section 5: the client response timer."""

MAX_LINKS: Final = 10


Callback = Callable[[Found], None]


class Counts:
    """What the resolver did, for metrics."""

    def __init__(self) -> None:
        self.answer_hits = 0
        self.denial_hits = 0
        self.misses = 0
        self.prefetches = 0
        self.stale = 0
        self.failures_served = 0


class Resolver:
    """Answers questions by *routes*."""

    def __init__(self, cache: Cache, routes: Routes, timers: Timers) -> None:
        self.cache = cache
        self.routes = routes
        self.forwarders: dict[str, Forwarder[Entry]] = {}
        """By group of servers; whoever makes this sets them, each with ``read`` for its reader."""
        self.timers = timers
        self.now = timers.now
        self.counts = Counts()
        self.local: Local | None = None
        """Set by whoever makes this, where there are static records or names to rewrite."""
        self.feed: FeedClient | None = None
        """Set by whoever makes this, where changes are subscribed to."""
        self.peers: set[Server] = set()
        """The servers that said that they are kdns."""

    # -- questions ------------------------------------------------------------------------------------------------

    def resolve(
        self,
        qname: Name,
        qtype: int,
        callback: Callback,
        *,
        do: bool = False,
        cd: bool = False,
        since: float | None = None,
    ) -> None:
        """Have *callback* called once with the answer, perhaps before this returns; a failure is an entry too.

        *since* is when the client asked, if that was earlier: its patience began then.
        """
        now = self.now()
        if self.local is not None and (target := self.local.rewrites.of(qname)) is not None:
            self._resolve(
                target,
                qtype,
                lambda found: callback(_renamed(found, target, qname, qtype, self.now())),
                do,
                cd,
                now if since is None else since,
            )
            return
        self._resolve(qname, qtype, callback, do, cd, now if since is None else since)

    def _resolve(self, qname: Name, qtype: int, callback: Callback, do: bool, cd: bool, since: float) -> None:
        route = self.routes.of(qname)
        now = self.now()
        key = key_of(qname, qtype, do=do, cd=cd)
        entry = self.find(key, qname, qtype, now)
        if route is None:
            callback(Found((Link(qname, FAILURE if entry is None or entry.target is not None else entry),)))
            return
        lookup = Lookup(self, key, qname, qtype, do, cd, self.forwarders[route.servers], route, callback)
        lookup.since = since
        lookup.start(entry, now)

    def find(self, key: bytes, qname: Name, qtype: int, now: float) -> Entry | None:
        """Return what is static about the question with that key, else what the cache has, fresh or stale."""
        if self.local is not None and (entry := self.local.find(qname, qtype, now)) is not None:
            return entry
        return self.cache.find(key, now)

    def ask_peers(
        self,
        qname: Name,
        qtype: int,
        callback: Callback,
        *,
        forwarder: Forwarder[Entry],
        do: bool,
        cd: bool,
        since: float,
    ) -> None:
        """Resolve a name of the explicit form as ``resolve`` does, but of kdns alone: no other server ever sees it."""
        now = self.now()
        servers = [server for server in forwarder.servers.in_order(now) if server in self.peers]
        key = key_of(qname, qtype, do=do, cd=cd)
        entry = self.cache.find(key, now)
        lookup = Lookup(self, key, qname, qtype, do, cd, forwarder, None, callback, servers)
        lookup.since = since
        lookup.start(entry, now)

    def hit(
        self, key: bytes, qname: Name, qtype: int, entry: Entry, route: Route | None, *, do: bool, cd: bool, now: float
    ) -> None:
        """Count a fresh entry, and renew it if it is asked for often and about to end."""
        counts = self.counts
        if entry.is_denial:
            counts.denial_hits += 1
        else:
            counts.answer_hits += 1
        if self.cache.should_prefetch(entry, now) and route is not None:
            counts.prefetches += 1
            entry.hits = 0
            Lookup(self, key, qname, qtype, do, cd, self.forwarders[route.servers], route, _nobody).ask(now)

    def read(self, wire: bytes, question: Question, server: Server) -> Entry:
        """Read a reply and keep what it is worth; raises WireError. Called once, however many wait for it."""
        qname, options = question.qname, question.options
        route = question.context if isinstance(question.context, Route) else None
        is_probe = route is None and question.context is not None
        entry = read_addresses(wire, question, server)
        if entry is None:
            entry = read_reply(wire, question, self._speaks_for(route, is_peer=bool(options)), server)
        if options:
            if entry.note is not None:
                self.peers.add(server)
            elif not entry.is_failure:
                self.peers.discard(server)
            if route is not None and route.then is not None and passes_on(entry):
                return entry  # what is kept of a reverse name is what the upstreams say
        if is_probe:
            return entry
        now = self.now()
        key = key_of(qname, question.qtype, do=question.do, cd=question.cd)
        self.cache.put(key, entry, now)
        if entry.note is not None and entry.note & peer.FEED and self.feed is not None:
            self._subscribe(self.feed, self.cache.place_of(key, entry), question, entry, server, now)
        return entry

    def _subscribe(
        self, feed: FeedClient, key: bytes, question: Question, entry: Entry, server: Server, now: float
    ) -> None:
        """Have *feed* tell of changes to what was kept under *key*."""
        feed.offered(server)
        if self.cache.get(key) is entry:
            feed.subscriptions.hold(question.qname, question.qtype, key, entry, now)
            feed.wake()

    def _speaks_for(self, route: Route | None, *, is_peer: bool) -> Callable[[Name], bool]:
        """Return what tells whether the server of a reply may speak for a name."""
        if route is None and is_peer:  # the explicit form: names of the cluster
            return self.is_cluster
        return lambda name: self.routes.of(name) is route

    def is_cluster(self, name: Name) -> bool:
        """Tell whether the cluster's DNS speaks for a name."""
        route = self.routes.of(name)
        return route is not None and route.is_cluster


def passes_on(entry: Entry) -> bool:
    """Tell whether what the cluster says of a reverse name leaves it to the upstreams."""
    return entry.is_nxdomain or entry.rcode == REFUSED


class Lookup:
    """One question being resolved: from the cache, by upstreams, stale; then along the aliases that it leads to.

    *route* None is the explicit form, asked of *servers* alone. *callback* is given the answer; whoever makes a kind of
    lookup of their own, to wait in, overrides ``answered``, and ``answered_by`` if it likes, and gives none.
    """

    __slots__ = (
        "_callback", "_cd", "_denial", "_do", "_forwarder", "_is_open", "_key", "_links", "_qname", "_qtype",
        "_resolver", "_route", "_servers", "_stale", "since",
    )  # fmt: skip

    def __init__(
        self,
        resolver: Resolver,
        key: bytes,
        qname: Name,
        qtype: int,
        do: bool,
        cd: bool,
        forwarder: Forwarder[Entry],
        route: Route | None,
        callback: Callback | None,
        servers: Sequence[Server] | None = None,
    ) -> None:
        self._resolver = resolver
        self._key = key
        self._qname = qname
        self._qtype = qtype
        self._do = do
        self._cd = cd
        self._forwarder = forwarder
        self._route = route
        self._callback = callback
        self._is_open = True
        self._servers = servers
        self.since = 0.0
        self._links: tuple[Link, ...] = ()
        self._stale: Entry | None = None
        self._denial: Entry | None = None

    def start(self, entry: Entry | None, now: float) -> None:
        """Answer with what the cache has, or ask."""
        resolver = self._resolver
        cache = resolver.cache
        if entry is None:
            if now < cache.fails_until and cache.has_failed(self._key, now):
                resolver.counts.failures_served += 1
                self._take(FAILURE)
                return
        elif now < entry.expires_at:
            resolver.hit(self._key, self._qname, self._qtype, entry, self._route, do=self._do, cd=self._cd, now=now)
            self._take(entry)
            return
        elif now < entry.retry_at:
            self._take_stale(entry)
            return
        else:
            self._stale = entry
            resolver.timers.call_at(self.since + STALE_SECONDS, self._patience_ends)
        if self._links:  # the upstreams of the links before took their time, too
            resolver.timers.call_at(self.since + TOTAL_SECONDS, self._too_late)
        resolver.counts.misses += 1
        self.ask(now)

    def ask(self, now: float) -> None:
        """Ask the upstreams, whatever the cache has."""
        route = self._route
        options = peer.HELLO if route is None or route.is_cluster else b""
        question = Question(self._qname, self._qtype, self._do, self._cd, options, route)
        key = self._key + options if options else self._key
        self._forwarder.ask(question, self._replied, key=key, servers=self._servers, now=now)

    def _replied(self, entry: Entry | NoReply) -> None:
        if isinstance(entry, NoReply):
            self._ended(entry)
            return
        route = self._route
        if route is not None and route.then is not None and passes_on(entry):
            self._denial = entry if entry.rcode == NXDOMAIN else None
            question = Question(self._qname, self._qtype, self._do, self._cd, b"", route)
            self._resolver.forwarders[route.then].ask(question, self._ended)
        elif self._is_open and entry.rcode in (NOERROR, NXDOMAIN):
            self._take(entry)
        else:
            self._ended(entry)

    def _ended(self, reply: Entry | NoReply) -> None:
        entry = FAILURE if isinstance(reply, NoReply) else reply
        if entry.is_failure:
            resolver = self._resolver
            now = resolver.now()
            if self._denial is not None:
                entry = self._denial  # the cluster's word stands where the upstreams have none
                resolver.cache.put(self._key, entry, now)
            else:
                if reply is not NoReply.SHED:
                    resolver.cache.fail(self._key, now)
                if self._stale is not None:
                    self._stale.retry_at = now + RECHECK_SECONDS
                    if self._is_open:
                        self._take_stale(self._stale)
                    return
        if self._is_open:
            self._take(entry)

    def _patience_ends(self) -> None:
        if self._is_open and self._stale is not None:
            self._take_stale(self._stale)

    def _too_late(self) -> None:
        if self._is_open:
            self._take(FAILURE)

    def _take_stale(self, entry: Entry) -> None:
        self._resolver.counts.stale += 1
        self._take(entry, is_stale=True)

    def answered(self, found: Found) -> None:
        """Hand the answer over."""
        if self._callback is not None:
            self._callback(found)

    def answered_by(self, entry: Entry) -> None:
        """Hand over the commonest answer: of one entry, which is fresh or was asked for just now."""
        self.answered(Found((Link(self._qname, entry),)))

    def _take(self, entry: Entry, *, is_stale: bool = False) -> None:
        """Hand the answer over, or go on at the name that it leads to."""
        assert self._is_open  # nobody is answered twice: all ways here look first
        self._is_open = False
        target = entry.target
        if target is None and not is_stale and not self._links:
            self.answered_by(entry)
            return
        links = (*self._links, Link(self._qname, entry, is_stale))
        if target is None:
            self.answered(Found(links))
            return
        resolver = self._resolver
        route = resolver.routes.of(target)
        if route is None or len(links) > MAX_LINKS or any(link.qname == target for link in links):
            self.answered(Found((*links, Link(target, FAILURE))))
            return
        forwarder = resolver.forwarders[route.servers]
        key = key_of(target, self._qtype, do=self._do, cd=self._cd)
        following = Lookup(resolver, key, target, self._qtype, self._do, self._cd, forwarder, route, self.answered)
        following._links = links
        following.since = self.since
        now = resolver.now()
        following.start(resolver.find(key, target, self._qtype, now), now)


def _nobody(found: Found) -> None:
    """Take the answer to a question that was asked for the cache's sake."""


def _renamed(found: Found, target: Name, qname: Name, qtype: int, now: float) -> Found:
    """Return what was found for *target* as the answer to *qname*: its records, and the SOA of a denial, hang there."""
    last = found.last
    if last.is_failure:
        return Found((Link(qname, last),))
    answer: list[RRset] = []
    authority: list[RRset] = []
    for link in found.links:
        some, authority = sections(link.entry, link.qname, remaining(link.entry, now))
        renamed = [msgspec.structs.replace(r, owner=qname) if r.owner == target else r for r in some]
        # What the other name is an alias of may be the name asked for: it is then answered as it stands.
        answer += [
            r for r in renamed if not (r.rtype == CNAME and r.owner == qname and r.rdatas[0].lower() == qname.key)
        ]
    entry = seal(
        qname,
        qtype,
        rcode=last.rcode,
        answer=answer,
        authority=[msgspec.structs.replace(r, owner=qname) if r.rtype == SOA else r for r in authority],
        is_denial=last.is_denial,
        server=last.server,
        is_kept=False,
        is_truncated=any(link.entry.is_truncated for link in found.links),
    )
    entry.expires_at = found.expires_at
    return Found((Link(qname, entry, found.is_stale),))
