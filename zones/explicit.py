"""Names that ask for a whole search path at once: ``<prefix>.search.<namespace>.<cluster domain>.ap.k8s.io``.

| the name                              | outcome                                                                 |
|---------------------------------------|-------------------------------------------------------------------------|
| a prefix below ``search.<namespace>`` | an alias to the first step in the cluster zone that has records, else   |
|                                       | NODATA if some step exists, else NXDOMAIN                               |
| ``search.<namespace>``, ``<namespace>`` | NODATA: names lie below                                               |
| the apex                              | SOA, NS                                                                 |

The steps outside the cluster are for whoever asked: a denial here says only that nothing of the cluster matched. It
says as well (``is_literal``) when a client may have meant the name ``<prefix>.<namespace>.svc.<zone>`` as it stands:
the prefix's last label is a Service of the namespace, or there is no such namespace, and so no pod that would walk that
path (ROBUSTNESS section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from zones.cluster import ClusterZone
from zones.errors import BadName
from zones.multicluster import MulticlusterZone
from zones.names import Name, split_labels
from zones.records import ANY, CNAME, NS, RRset, SOA
from zones.search import decide, explicit_walk, MARKER, Outcome, types_of, Walk, Won
from zones.store import Store
from zones.zone import Alias, Found, NODATA, NoData, NXDOMAIN, NxDomain, Reads
from zones.zone import Outcome as ZoneOutcome

MAX_ALIASES = 10
"""Aliases followed inside the zone to learn whether a step has records."""


class ExplicitZone:
    """The zone ``<domain>.ap.k8s.io`` over the cluster or clusterset zone *cluster*.

    *lookup*, where it is given, looks the steps up in place of that zone; *rename* gives what a step is looked up as,
    if it is another name.
    """

    def __init__(
        self,
        cluster: ClusterZone | MulticlusterZone,
        store: Store,
        *,
        ttl: int,
        lookup: Callable[[Name, int], ZoneOutcome] | None = None,
        rename: Callable[[Name], Name | None] = lambda name: None,
    ) -> None:
        self._rename = rename
        self.origin = Name((*split_labels(cluster.origin.wire), *MARKER.labels))
        self._cluster = cluster
        self._lookup = lookup or cluster.lookup
        self._store = store
        self._ttl = ttl

    @property
    def soa(self) -> RRset:
        """The SOA as of now; names and serial are those of the cluster zone."""
        return self._cluster.apex.soa_of(self.origin)

    def lookup(self, qname: Name, qtype: int) -> ZoneOutcome:
        """Say what the whole path has for the question; *qname* is at or below the origin."""
        walk = explicit_walk(qname, (self._cluster.origin,))
        if walk is not None:
            return self._walk(qname, walk, qtype)
        labels = qname.labels[: len(qname.labels) - len(self.origin.labels)]
        match labels:
            case ():
                if qtype == SOA:
                    return Found(self.soa)
                return Found(self._cluster.apex.ns(qname), reads=None) if qtype in (NS, ANY) else NODATA
            case (namespace,) | (b"search", namespace):
                reads = (self._namespace(namespace),)
                return NoData(reads) if self._store.has_namespace(namespace) else NxDomain(reads)
        return NXDOMAIN

    def walk(self) -> Iterator[RRset]:
        """Yield the apex; what lies below cannot be listed."""
        yield self.soa
        yield self._cluster.apex.ns(self.origin)

    def _walk(self, qname: Name, walk: Walk, qtype: int) -> ZoneOutcome:
        steps = [self._rename(step) or step for step in walk.inside]
        reads: list[bytes] | None = []
        outcomes: list[Outcome | None] = []
        for step in steps:
            outcome, read = self._step(step, qtype)
            reads = None if reads is None or read is None else [*reads, step.key, *read]
            outcomes.append(outcome)
            if outcome is Outcome.DATA:
                break
        is_literal = not self._store.has_namespace(walk.namespace)
        parents = [self._namespace(walk.namespace)]
        if len(walk.prefix) > 1:
            is_literal |= self._cluster.has_service(walk.namespace, walk.tld)
            parents += [_parent(step, len(walk.prefix) - 1) for step in walk.inside[:1]]
        known = None if reads is None else (*reads, *parents)
        decision = decide(outcomes)
        if isinstance(decision, Won):
            target = steps[decision.index]
            alias = RRset(qname, CNAME, self._ttl, (target.wire,))
            return Alias(alias, target, known, decision.index > 0, is_literal)
        is_nodata = Outcome.NODATA in outcomes
        return NoData(known, is_literal) if is_nodata else NxDomain(known, is_literal)

    def _step(self, name: Name, qtype: int) -> tuple[Outcome, Reads]:
        if not name.is_under(self._cluster.origin):
            return Outcome.DATA, ()  # a name elsewhere that a step is rewritten to: whatever it has
        found = Outcome.NXDOMAIN
        reads: list[bytes] | None = []
        origin = self._cluster.origin
        for rtype in types_of(qtype):
            target = name
            for _ in range(MAX_ALIASES):
                outcome = self._lookup(target, rtype)
                reads = None if reads is None or outcome.reads is None else [*reads, target.key, *outcome.reads]
                if not isinstance(outcome, Alias) or rtype == CNAME or not outcome.target.is_under(origin):
                    break
                target = outcome.target
            match outcome:
                case Found() | Alias():
                    return Outcome.DATA, None if reads is None else tuple(reads)
                case NoData():
                    found = Outcome.NODATA
                case NxDomain():
                    pass
        return found, None if reads is None else tuple(reads)

    def _namespace(self, namespace: bytes) -> bytes:
        try:
            return self._cluster.origin.prefixed(namespace, b"svc").key
        except BadName:
            return self.origin.key


def _parent(name: Name, depth: int) -> bytes:
    """Return the key of *name* without its first *depth* labels."""
    at = 0
    for _ in range(depth):
        at += 1 + name.key[at]
    return name.key[at:]
