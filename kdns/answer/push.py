"""Who subscribes to what, and what is pushed to them when it changes (RFC 8765 section 6).

A topic is a name and a type that somebody subscribes to, with the records that its subscribers know of. When an owner
name changes that a topic was made from, the topic is looked up again and the difference goes to all of them; it costs
one look-up, however many they are. Nothing is pushed for a name that has no records before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol

from kdns.proto.dso import make_pushes
from kdns.proto.query import NOERROR, REFUSED
from zones.names import Name
from zones.records import RRset
from zones.zone import Reads

MAX_SUBSCRIPTIONS: Final = 1_000_000
"""Of all subscribers together: half a kilobyte each, and as much for each topic."""

Records = Mapping[int, RRset]
Look = Callable[[Name, int], tuple[Records, Reads] | int]
"""Gives the records of a name and type (ANY: of the name) and the owner names they were made from beside its own, or an
RCODE where there is nothing to subscribe to."""


class Subscriber(Protocol):
    """Takes what is pushed."""

    def push(self, wire: bytes) -> None:
        """Take a message."""


class _Topic:
    __slots__ = ("name", "owners", "qtype", "records", "subscribers")

    def __init__(self, name: Name, qtype: int) -> None:
        self.name = name
        self.qtype = qtype
        self.records: Records = {}
        self.owners: tuple[bytes, ...] | None = ()
        self.subscribers: dict[Subscriber, None] = {}


class Feed:
    """All topics; *look* finds their records."""

    def __init__(self, look: Look, *, max_subscriptions: int = MAX_SUBSCRIPTIONS) -> None:
        self._look = look
        self._max = max_subscriptions
        self._topics: dict[tuple[bytes, int], _Topic] = {}
        self._by_owner: dict[bytes, dict[_Topic, None]] = {}
        self._volatile: dict[_Topic, None] = {}
        self._dirty: dict[_Topic, None] = {}
        self.subscriptions = 0
        self.pushed = 0
        """Messages pushed, counted for each subscriber."""

    def __len__(self) -> int:
        return len(self._topics)

    @property
    def has_news(self) -> bool:
        """Whether ``flush`` has something to do."""
        return bool(self._dirty)

    # -- subscribers ------------------------------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber, name: Name, qtype: int) -> tuple[int, list[bytes]]:
        """Subscribe; return the RCODE and, with NOERROR, the messages that tell what there is now."""
        if self.subscriptions >= self._max:
            return REFUSED, []
        topic = self._topics.get((name.key, qtype))
        if topic is None:
            topic = _Topic(name, qtype)
            rcode = self._renew(topic)
            if rcode != NOERROR:
                return rcode, []
            self._topics[name.key, qtype] = topic
        elif topic in self._dirty:
            self._push(topic)  # so that all know the same
        topic.subscribers[subscriber] = None
        self.subscriptions += 1
        pushes = make_pushes((), list(topic.records.values()))
        self.pushed += len(pushes)
        return NOERROR, pushes

    def unsubscribe(self, subscriber: Subscriber, name: Name, qtype: int) -> None:
        """Undo ``subscribe``."""
        topic = self._topics[name.key, qtype]
        del topic.subscribers[subscriber]
        self.subscriptions -= 1
        if not topic.subscribers:
            del self._topics[name.key, qtype]
            self._dirty.pop(topic, None)
            self._unlink(topic)

    # -- changes ----------------------------------------------------------------------------------------------------

    def changed(self, owners: Iterable[bytes]) -> None:
        """Take notice that these owner names (their ``key``) changed."""
        by_owner = self._by_owner
        if not by_owner:
            return
        for owner in owners:
            for topic in by_owner.get(owner, ()):
                self._dirty[topic] = None

    def changed_unseen(self, *, all_of_them: bool = False) -> None:
        """Take notice that what no owner name tells of may have changed, or anything at all."""
        for topic in list(self._topics.values() if all_of_them else self._volatile):
            self._dirty[topic] = None

    def flush(self) -> Iterator[None]:
        """Push what changed, topic by topic; whoever iterates may do something else in between."""
        while self._dirty:
            self._push(next(iter(self._dirty)))
            yield

    def _push(self, topic: _Topic) -> None:
        self._dirty.pop(topic, None)
        before = topic.records
        if self._renew(topic) != NOERROR:
            topic.records = {}
        removed, added = list(_beyond(before, topic.records)), list(_beyond(topic.records, before))
        if not removed and not added:
            return
        for wire in make_pushes(removed, added):
            for subscriber in list(topic.subscribers):
                self.pushed += 1
                subscriber.push(wire)

    def _renew(self, topic: _Topic) -> int:
        """Look the topic's records up; return the RCODE."""
        found = self._look(topic.name, topic.qtype)
        if isinstance(found, int):
            return found
        topic.records, reads = found
        owners = None if reads is None else tuple(dict.fromkeys((topic.name.key, *reads)))
        if owners != topic.owners:
            self._unlink(topic)
            topic.owners = owners
            for owner in owners or ():
                self._by_owner.setdefault(owner, {})[topic] = None
            if owners is None:
                self._volatile[topic] = None
                self._by_owner.setdefault(topic.name.key, {})[topic] = None
        return NOERROR

    def _unlink(self, topic: _Topic) -> None:
        self._volatile.pop(topic, None)
        for owner in topic.owners if topic.owners is not None else (topic.name.key,):
            topics = self._by_owner.get(owner)
            if topics is not None:
                topics.pop(topic, None)
                if not topics:
                    del self._by_owner[owner]


def _beyond(some: Records, others: Records) -> Iterator[RRset]:
    """Yield the records of *some* that *others* lack."""
    for rtype, rrset in some.items():
        other = others.get(rtype)
        if other is None:
            yield rrset
        elif other.rdatas != rrset.rdatas:
            known = set(other.rdatas)
            left = tuple(rdata for rdata in rrset.rdatas if rdata not in known)
            if left:
                yield RRset(rrset.owner, rrset.rtype, rrset.ttl, left)
