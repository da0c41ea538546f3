"""The walk along a search path, asked for step by step or, where the cluster's DNS is kdns, in one question.

``zones.search`` has the steps and the choice among their outcomes; here they are resolved. What a walk ends at is
remembered until the first answer that led there ends, so A and AAAA, and every client of the namespace, share one
decision.

| whether a question is expanded                         |                                                             |
|--------------------------------------------------------|-------------------------------------------------------------|
| mode ``off``                                           | never                                                       |
| mode ``explicit``                                      | the explicit form alone                                     |
| mode ``transparent``                                   | both forms                                                  |
| the node's pods are known                              | for a running pod of that namespace alone; in the           |
|                                                        | transparent form, one whose path is the ordinary one        |
| the prefix's last label is a Service of the namespace  | not: the client may have meant the name as it stands (kdns  |
|                                                        | says so)                                                    |
| the namespace does not exist                           | not: it is a later step of somebody's walk (kdns says so; a |
|                                                        | namespace like ``com`` is asked for before it is believed)  |
| what the prefix and the namespace spell was walked for | not: the same                                               |
| ``_port._proto.<service>``                             | not                                                         |
| a prefix of one label, pods not known                  | not                                                         |
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

import cachetools
import msgspec

from kdns.proto.query import NOERROR, NXDOMAIN
from kdns.proto.tlds import is_public_tld
from nodelocal.body import sections
from nodelocal.entry import seal
from nodelocal.found import Found, Link
from nodelocal.pods import NodePods
from nodelocal.resolver import Resolver
from nodelocal.route import CLUSTER
from nodelocal.walking import Decision, Ending, Walking
from zones.names import label_octets, Name
from zones.objects import SearchPath
from zones.records import CNAME
from zones.search import (
    explicit_walk,
    MARKER,
    NDOTS,
    transparent_walk,
    types_of,
    Walk,
)

log = logging.getLogger(__name__)

MAX_DECISIONS: Final = 8192
MAX_WALK_SECONDS: Final = 60.0
"""A walk that has not ended after this long never will: something broke, and it is begun again."""

MAX_HIJACKERS: Final = 100
"""Namespaces that are named like top-level domains and told of in the log."""


class Mode(Enum):
    """Which forms are expanded; the value is what a user writes."""

    TRANSPARENT = "transparent"
    EXPLICIT = "explicit"
    OFF = "off"


class Expanded(msgspec.Struct):
    """The answer to an expanded question: a decision, and, where it was won, what was found there."""

    decision: Decision
    found: Found | None = None


class Expander:
    """Walks search paths. *domains* gives the host's own search domains as of now; with *absolute_first* names whose
    last label is a public top-level domain are tried as they are before any other namespace than the pod's own."""

    def __init__(
        self,
        resolver: Resolver,
        zones: Sequence[Name],
        mode: Mode,
        *,
        domains: Callable[[], Sequence[Name]] = tuple,
        pods: NodePods | None = None,
        absolute_first: bool = False,
    ) -> None:
        self.mode = mode
        self.pods = pods
        marked = () if mode is Mode.OFF else (MARKER.labels[-1:], *(zone.labels[-1:] for zone in zones))
        self.endings_of_zones = frozenset(marked)
        """The last labels of names that may be expanded: most names of the outside world are passed over by them."""
        self.resolver = resolver
        self._zones = tuple(zones)
        self.domains = domains
        self.absolute_first = absolute_first
        self._decisions: cachetools.LRUCache[bytes, Decision] = cachetools.LRUCache(MAX_DECISIONS)
        # What was walked for lately: the client's own next step, <prefix>.svc.<zone>, looks like the first step of
        # another walk, and must not be taken for one.
        self._walked: cachetools.LRUCache[tuple[bytes, ...], None] = cachetools.LRUCache(MAX_DECISIONS)
        self._walking: dict[bytes, tuple[float, list[Callable[[Decision], None]]]] = {}
        self._generation = 0
        self.endings: Counter[Ending] = Counter()
        self.hijacks = 0
        """Walks that ended at a Service whose namespace is named like a public top-level domain (CVE-2022-2835)."""
        self._hijackers: set[bytes] = set()

    # -- whether ----------------------------------------------------------------------------------------------------

    def walk_of(self, qname: Name) -> Walk | None:
        """Return the walk that a question stands for, None where it stands for itself."""
        if self.mode is Mode.OFF:
            return None
        walk = explicit_walk(qname, self._zones)
        if walk is None and self.mode is Mode.TRANSPARENT:
            walk = transparent_walk(qname, self._zones, one_label=self.pods is not None)
            if walk is not None and (*walk.labels, walk.namespace) in self._walked:
                return None
        return walk

    def is_for(self, walk: Walk, client: Callable[[], tuple[str, int]]) -> bool:
        """Tell whether *walk* is the walk of the client who asks: without knowledge of the node's pods, of anyone."""
        if self.pods is None:
            return True
        pod = self.pods.at(client()[0])
        if pod is None or pod.namespace != walk.namespace:
            return False
        return walk.is_explicit or pod.search_path is SearchPath.USUAL

    def why_not(self, qname: Name, client: Callable[[], tuple[str, int]], *, is_known: bool) -> str | None:
        """Return why a question is answered as it stands, None where it is not; *is_known*: a client was named."""
        walk = self.walk_of(qname)
        if walk is not None:
            if self.pods is None or self.is_for(walk, client):
                return None
            if not self.pods.is_synced:
                return "the pods of the node are not known yet"
            return "the client is no pod of that namespace with the usual path" if is_known else "no client was named"
        if self.mode is Mode.OFF:
            return "--expand off"
        any_walk = transparent_walk(qname, self._zones, one_label=True)
        if any_walk is not None and self.mode is Mode.EXPLICIT:
            return "--expand explicit"
        if any_walk is not None and len(any_walk.prefix) == 1:
            return "a prefix of one label, which may mean just that (with --node it is known who asks)"
        if any_walk is not None:
            return "the next step of a search path that was walked just before"
        for zone in self._zones:
            labels = qname.labels[: len(qname.labels) - len(zone.labels)]
            if qname.is_under(zone) and len(labels) > 2 and labels[-1] == b"svc":
                if len(labels) - 2 > NDOTS:
                    return "a prefix of five dots or more is tried as it is first"
                return "_port._proto.<service> asks for a port of that Service"
        return "not below <namespace>.svc of a cluster zone"

    def denial_of(self, qname: Name) -> int | None:
        """Return what a name of the explicit form gets that is walked for nobody, None for any other name.

        The search domain itself, and what is above it, exist (NODATA). All such names are ours to deny: no upstream
        ever sees one.
        """
        if self.mode is Mode.OFF or not qname.is_under(MARKER):
            return None
        labels = qname.labels[: len(qname.labels) - len(MARKER.labels)]
        for zone in self._zones:
            count = len(labels) - len(zone.labels)
            if count >= 0 and labels[count:] == zone.labels:
                return NOERROR if count < 2 or (count == 2 and labels[0] == b"search") else NXDOMAIN
        return None

    # -- where it ends ----------------------------------------------------------------------------------------------

    def expand(
        self, walk: Walk, qtype: int, callback: Callable[[Expanded], None], *, do: bool = False, cd: bool = False
    ) -> None:
        """Have *callback* called once with where *walk* ends and what is there."""

        def decided(decision: Decision) -> None:
            if decision.ending is not Ending.WON or decision.name is None:
                callback(Expanded(decision))
                return
            name, question = decision.name, walk.question

            def resolve() -> None:
                self.resolver.resolve(
                    name, qtype, lambda found: callback(Expanded(decision, found)), do=do, cd=cd, since=since
                )

            if not decision.is_inside or question is None or not self.asks_kdns(walk):
                resolve()
                return

            def replied(found: Found) -> None:
                behind = _behind_alias(question, found, qtype, name)
                if behind is None:  # it failed, or the cluster changed meanwhile
                    resolve()
                else:
                    callback(Expanded(decision, behind))

            forwarder = self.resolver.forwarders[CLUSTER]
            self.resolver.ask_peers(question, qtype, replied, forwarder=forwarder, do=do, cd=cd, since=since)

        since = self.resolver.now()
        self.decide(walk, qtype, decided, do=do, cd=cd)

    def decide(
        self, walk: Walk, qtype: int, callback: Callable[[Decision], None], *, do: bool = False, cd: bool = False
    ) -> None:
        """Have *callback* called once with where *walk* ends for questions of *qtype*."""
        key = _key(walk, qtype, do=do, cd=cd)
        now = self.resolver.now()
        decision = self._decisions.get(key)
        if decision is not None and now < decision.expires_at:
            callback(decision)
            return
        waiting = self._walking.get(key)
        if waiting is not None and now - waiting[0] < MAX_WALK_SECONDS:
            waiting[1].append(callback)
            return
        generation = self._generation
        self._walking[key] = now, [*(waiting[1] if waiting is not None else ()), callback]
        self._walked[walk.labels] = None

        def end(decision: Decision) -> None:
            if key not in self._walking:
                return  # it ended before
            self.endings[decision.ending] += 1
            if decision.ending is not Ending.FAILED and generation == self._generation:
                self._decisions[key] = decision
            if decision.ending is Ending.WON and decision.name == _in_namespace_typed(walk):
                self._note_hijack(walk.tld)
            for waiter in self._walking.pop(key)[1]:
                try:
                    waiter(decision)
                except Exception:
                    log.exception("an answer to %s", walk.question)

        walking = Walking(self, walk, qtype, end, do=do, cd=cd)
        try:
            walking.start()
        except Exception:
            log.exception("a walk for %s", walk.question)
            walking.fail()

    def asks_kdns(self, walk: Walk) -> bool:
        """Tell whether the steps inside the cluster are asked of kdns at once: it is asked first, and none is decided
        here."""
        local = self.resolver.local
        if local is not None and any(map(local.has, walk.inside)):
            return False
        forwarder = self.resolver.forwarders.get(CLUSTER)
        if forwarder is None or not self.resolver.peers:
            return False
        servers = forwarder.servers.in_order(self.resolver.now())
        return bool(servers) and servers[0] in self.resolver.peers

    def _note_hijack(self, namespace: bytes) -> None:
        if not is_public_tld(namespace):
            return
        self.hijacks += 1
        if not self.absolute_first and namespace not in self._hijackers and len(self._hijackers) < MAX_HIJACKERS:
            self._hijackers.add(namespace)
            log.warning(
                "namespace %s is named like a public top-level domain: pods find names that end so in it first",
                namespace.decode(errors="replace"),
            )

    def forget(self) -> None:
        """Forget every decision, and do not remember those that walks under way come to."""
        self._generation += 1
        self._decisions.clear()


def _behind_alias(question: Name, found: Found, qtype: int, name: Name) -> Found | None:
    """Return what kdns answered to the explicit form without its own alias: an entry of *name*.

    None where there is no such alias to *name*: it failed, or the cluster changed meanwhile.
    """
    first, *rest = found.links
    entry = first.entry
    if entry.is_failure:
        return None
    answer, authority = sections(entry, first.qname, entry.ttl)
    alias = next((rrset for rrset in answer if rrset.rtype == CNAME and rrset.owner == question), None)
    if alias is None or Name.trusted(alias.rdatas[0]) != name:
        return None
    sealed = seal(
        name,
        qtype,
        rcode=entry.rcode,
        answer=[rrset for rrset in answer if rrset is not alias],
        authority=authority,
        is_denial=entry.is_denial,
        target=entry.target,
        server=entry.server,
    )
    sealed.ttl, sealed.expires_at = entry.ttl, entry.expires_at
    return Found((Link(name, sealed, first.is_stale), *rest))


def _in_namespace_typed(walk: Walk) -> Name | None:
    """Return the step that takes the last label typed for a namespace."""
    if len(walk.prefix) < 2 or walk.tld == walk.namespace:
        return None
    wanted = len(walk.prefix) + 1 + len(walk.zone.labels)
    return next((name for name in walk.inside if len(name.labels) == wanted), None)


def _key(walk: Walk, qtype: int, *, do: bool, cd: bool) -> bytes:
    """Return what walks with the same end share; A and AAAA are one."""
    kind = min(types_of(qtype))
    flags = bytes((kind >> 8, kind & 255, do << 2 | cd << 1 | walk.is_explicit))
    return walk.zone.key + label_octets((walk.namespace,)) + label_octets(walk.labels) + flags
