"""Which names of the cluster are subscribed to for what the cache holds, and what goes when one is told of (RFC 8765).

| an entry                                 | subscribes to                                                        |
|------------------------------------------|----------------------------------------------------------------------|
| every alias in it, of a cluster zone     | CNAME of that name                                                   |
| records at the end of the aliases        | their type, of the name there                                        |
| NODATA                                   | the type and CNAME, of the name                                      |
| NXDOMAIN                                 | every type, of the name                                              |
| of a name that stands for a search path  | the type, of that name: its alias is told of under every type        |

A subscription knows what there is now, as a sum over its records, and an entry what it was made from. They are compared
when a subscription begins, so that what changed before it did is not missed; when something is pushed; and when an
entry comes that a subscription knows better than, from another replica that lags behind: that one is soon asked for
again. Nothing is kept longer for being subscribed to, so a lost connection leaves ordinary TTLs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from kdns.proto import dso
from kdns.proto.query import NOERROR, NXDOMAIN, SERVFAIL
from nodelocal.body import sections
from nodelocal.cache import Cache
from nodelocal.entry import Entry
from zones.names import Name
from zones.records import ANY, CNAME, NS, PTR, SOA, SRV
from zones.search import MARKER

_NAMES: Final = frozenset((NS, CNAME, SOA, PTR, SRV))
"""The types whose RDATA has names in it."""

MAX_SUBSCRIPTIONS: Final = 10_000
"""Of one connection; the one that was needed longest ago goes first. A kilobyte each."""

LAGGING_SECONDS: Final = 1.0
"""How long an entry is kept that a subscription knows better than."""


Topic = tuple[Name, int, int]
"""A name, a type, and the sum of the records of both that an entry was made from."""


def topics_of(qname: Name, qtype: int, entry: Entry, is_ours: Callable[[Name], bool]) -> Iterator[Topic]:
    """Yield what *entry* was made from; *is_ours* tells the cluster's names."""
    answer, _ = sections(entry, qname, 0)
    aliases = {rrset.owner: rrset for rrset in answer if rrset.rtype == CNAME}
    name = qname
    seen = set()
    if qname.is_under(MARKER):
        alias = aliases.get(qname)
        yield qname, qtype, 0 if alias is None else _sum((CNAME, rdata) for rdata in alias.rdatas)
        if alias is None:
            return
        name = Name.trusted(alias.rdatas[0])
    while qtype != CNAME and (alias := aliases.get(name)) is not None and name not in seen and is_ours(name):
        seen.add(name)
        yield name, CNAME, _sum((CNAME, rdata) for rdata in alias.rdatas)
        name = Name.trusted(alias.rdatas[0])
    if entry.target is not None or not is_ours(name):
        return
    rdatas = [(r.rtype, rdata) for r in answer if r.owner == name and r.rtype == qtype for rdata in r.rdatas]
    if rdatas or qtype == CNAME:
        yield name, qtype, _sum(rdatas)
    elif entry.rcode == NXDOMAIN:
        yield name, ANY, 0
    else:
        yield name, qtype, 0
        yield name, CNAME, 0


def _sum(records: Iterable[tuple[int, bytes]]) -> int:
    return sum(_number(rtype, rdata) for rtype, rdata in records)


def _number(rtype: int, rdata: bytes) -> int:
    """Return what stands for a record; names in it compare without case."""
    return hash((rtype, rdata.lower() if rtype in _NAMES else rdata))


class _Subscription:
    __slots__ = ("entries", "is_active", "is_over", "is_refused", "known", "message_id", "name", "qtype")

    def __init__(self, name: Name, qtype: int) -> None:
        self.name = name
        self.qtype = qtype
        self.message_id = 0
        self.is_active = False
        self.is_refused = False
        self.is_over = False
        self.known: set[int] = set()
        """What there is now, a number for each record."""
        self.entries: dict[bytes, tuple[Entry, int]] = {}
        """The entries that depend on it, by their key in the cache, each with the sum it was made from."""


class Subscriptions:
    """The subscriptions of one connection at a time, for the entries of *cache*."""

    def __init__(
        self, cache: Cache, is_ours: Callable[[Name], bool], *, max_subscriptions: int = MAX_SUBSCRIPTIONS
    ) -> None:
        self._cache = cache
        self._is_ours = is_ours
        self._max = max_subscriptions
        self._all: OrderedDict[tuple[bytes, int], _Subscription] = OrderedDict()
        self._by_name: dict[bytes, dict[int, _Subscription]] = {}
        self._by_id: dict[int, _Subscription] = {}
        self._barriers: dict[int, list[_Subscription]] = {}
        self._to_ask: dict[_Subscription, None] = {}
        self._to_end: list[int] = []
        self._to_retry: dict[_Subscription, None] = {}
        self._last_id = 0
        self.dropped = 0
        """Entries dropped because they were told of, or had changed before they could be."""
        self.lagging = 0
        """Entries from a server that lags behind the one that tells."""

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def has_requests(self) -> bool:
        """Whether there is something to send."""
        return bool(self._to_ask or self._to_end)

    # -- the cache ----------------------------------------------------------------------------------------------------

    def hold(self, qname: Name, qtype: int, key: bytes, entry: Entry, now: float) -> None:
        """Subscribe for an entry that the cache has under *key* from now on."""
        for name, rtype, made_from in topics_of(qname, qtype, entry, self._is_ours):
            subscription = self._all.get((name.key, rtype))
            if subscription is None:
                subscription = self._begin(name, rtype)
            else:
                self._all.move_to_end((name.key, rtype))
            subscription.entries[key] = entry, made_from
            if subscription.is_active and sum(subscription.known) != made_from:
                self.lagging += 1
                entry.expires_at = min(entry.expires_at, now + LAGGING_SECONDS)

    def sweep(self) -> None:
        """End the subscriptions that no entry needs any more."""
        for subscription in list(self._all.values()):
            self._tidy(subscription)
            if not subscription.entries:
                self._end(subscription)

    def _tidy(self, subscription: _Subscription) -> None:
        gone = [key for key, (entry, _) in subscription.entries.items() if self._cache.get(key) is not entry]
        for key in gone:
            del subscription.entries[key]

    def _begin(self, name: Name, qtype: int) -> _Subscription:
        while len(self._all) >= self._max:
            self._end(next(iter(self._all.values())))
        subscription = self._by_name.get(name.key, {}).get(qtype)
        if subscription is not None:  # one that was over before it was answered
            subscription.is_over = False
            self._all[name.key, qtype] = subscription
            return subscription
        subscription = self._all[name.key, qtype] = _Subscription(name, qtype)
        self._by_name.setdefault(name.key, {})[qtype] = subscription
        self._to_ask[subscription] = None
        return subscription

    def _end(self, subscription: _Subscription) -> None:
        del self._all[subscription.name.key, subscription.qtype]
        subscription.is_over = True
        if subscription.is_active:
            self._to_end.append(subscription.message_id)
        elif subscription.message_id and not subscription.is_refused:
            return  # not answered yet: it ends when it is
        self._forget(subscription)

    def _forget(self, subscription: _Subscription) -> None:
        key = subscription.name.key
        of_name = self._by_name[key]
        del of_name[subscription.qtype]
        if not of_name:
            del self._by_name[key]
        self._to_ask.pop(subscription, None)
        if subscription.message_id:
            del self._by_id[subscription.message_id]

    # -- the connection -----------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Ask for everything: a new connection knows of nothing."""
        self.lost()
        self._to_ask = dict.fromkeys(self._all.values())

    def lost(self) -> None:
        """Take notice that nothing will be told."""
        for subscription in list(self._by_id.values()):
            if subscription.is_over:
                self._forget(subscription)
        self._by_id.clear()
        self._barriers.clear()
        self._to_ask.clear()
        self._to_end.clear()
        self._to_retry.clear()
        for subscription in self._all.values():
            subscription.message_id = 0
            subscription.is_active = subscription.is_refused = False

    def requests(self, most: int) -> list[bytes]:
        """Return messages to send, of which the last asks for an answer that shows that all the others were taken."""
        wires = [dso.make_dso(0, dso.unsubscribe(message_id)) for message_id in self._to_end]
        self._to_end.clear()
        asked = []
        for subscription in list(self._to_ask)[:most]:
            del self._to_ask[subscription]
            subscription.message_id = self._next_id()
            subscription.known = set()
            self._by_id[subscription.message_id] = subscription
            wires.append(dso.make_dso(subscription.message_id, dso.subscribe(subscription.name, subscription.qtype)))
            asked.append(subscription)
        return [*wires, self.barrier(asked)]

    def barrier(self, asked: list[_Subscription] | None = None) -> bytes:
        """Return a Keepalive request; its response comes after all that was told of what was asked for before."""
        message_id = self._next_id()
        self._barriers[message_id] = asked or []
        return dso.make_dso(message_id, dso.keepalive(0, 0))

    def is_barrier(self, message_id: int) -> bool:
        """Tell whether a response to that request shows that all before it were taken."""
        return message_id in self._barriers

    def answered(self, message_id: int, rcode: int) -> bool:
        """Take a response; False for one to nothing that was asked."""
        passed = self._barriers.pop(message_id, None)
        if passed is not None:
            for subscription in passed:
                if self._by_id.get(subscription.message_id) is not subscription:
                    continue
                if subscription.is_over:
                    if not subscription.is_refused:
                        self._to_end.append(subscription.message_id)
                    self._forget(subscription)
                elif not subscription.is_refused:
                    subscription.is_active = True
                    self._compare(subscription)
            return True
        asked = self._by_id.get(message_id)
        if asked is None:
            return False
        if rcode != NOERROR:
            asked.is_refused = True
            if rcode == SERVFAIL:
                self._to_retry[asked] = None
        return True

    def retry(self) -> None:
        """Ask again for what the server could not promise yet: it did not know the cluster."""
        for subscription in self._to_retry:
            if not subscription.is_over:
                del self._by_id[subscription.message_id]
                subscription.message_id = 0
                subscription.is_refused = False
                self._to_ask[subscription] = None
        self._to_retry.clear()

    def told(self, notices: Iterable[dso.Notice]) -> None:
        """Take what was pushed, and drop the entries that it makes untrue."""
        changed: dict[_Subscription, None] = {}
        for notice in notices:
            for qtype, subscription in self._by_name.get(notice.owner.key, {}).items():
                if qtype not in (notice.rtype, ANY) and not notice.owner.is_under(MARKER):
                    continue
                if notice.ttl == dso.ALL_REMOVED:
                    subscription.known.clear()  # of every type at once is the same for what is asked for by one type
                elif notice.ttl == dso.REMOVED:
                    subscription.known.discard(_number(notice.rtype, notice.rdata))
                else:
                    subscription.known.add(_number(notice.rtype, notice.rdata))
                changed[subscription] = None
        for subscription in changed:
            if subscription.is_active:
                self._compare(subscription)

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is due."""
        return bool(self._barriers)

    def _compare(self, subscription: _Subscription) -> None:
        known = sum(subscription.known)
        for key, (entry, made_from) in list(subscription.entries.items()):
            if made_from != known:
                del subscription.entries[key]
                if self._cache.get(key) is entry:
                    self._cache.forget(key)
                    self.dropped += 1
        if subscription.qtype == ANY and not subscription.entries:
            self._end(subscription)  # what exists is asked for by type

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % 0xFFFF + 1
            if self._last_id not in self._by_id and self._last_id not in self._barriers:
                return self._last_id
