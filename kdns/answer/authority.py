"""Authoritative answers over a set of zones (RFC 1034 section 4.3.2, RFC 2308, RFC 8020; CONTRACT section 9).

| the question                                            | the response                                       |
|---------------------------------------------------------|----------------------------------------------------|
| what neither program answers (``kdns.proto.refusal``)   | BADVERS, NOTAUTH, REFUSED, FORMERR                 |
| of a static record                                      | that (``zones.static``)                            |
| in no zone of ours                                      | the upstreams', else REFUSED                       |
| a CNAME of ours                                         | followed through our zones, then the upstreams     |
| a reverse name that no zone of ours has                 | the upstreams', else NXDOMAIN                      |
| ANY                                                     | one RRset, the smallest (RFC 8482)                 |
| nothing there, and what the zone needs is not complete  | SERVFAIL                                           |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from kdns.answer.denials import Parent
from kdns.answer.rewriting import restored_tails, rewritten_query
from kdns.proto import peer
from kdns.proto.label import Label
from kdns.proto.labels import Labels
from kdns.proto.message import Message, Record, rrsets_of
from kdns.proto.query import BADVERS, NOERROR, NOTAUTH, NXDOMAIN, Query, REFUSED, SERVFAIL
from kdns.proto.refusal import is_usual, refusal
from kdns.proto.response import ede, make_negative, make_nxdomain, make_response
from zones.cluster import ClusterZone
from zones.names import Name
from zones.records import A, AAAA, ANY, CNAME, NS, PTR, RRset, SOA, SRV, srv_target, TXT
from zones.rewrite import Rewrites
from zones.search import MARKER
from zones.static import Overlay
from zones.zone import Alias, Found, NODATA, NoData, NxDomain, Outcome, Reads, Zone
from zones.zone import NXDOMAIN as NXDOMAIN_HERE

MAX_ALIASES: Final = 10
"""CNAMEs followed for one answer: what CoreDNS follows; a longer chain is a mistake, and ends there."""

_EVERY: Final = (A, AAAA, CNAME, SRV, TXT, PTR, NS, SOA)
"""Every type that a zone has records of."""

_DNAME: Final = 39
_DNSSEC: Final = frozenset((46, 47, 50))  # RRSIG, NSEC, NSEC3

STATIC: Final = "static"
"""What answers of static records in none of our zones are counted by in the place of a zone."""

EDE_STALE: Final = 3
STALE_TEXT: Final = "known before a restart, the API server has not been heard since"
EDE_NOT_READY: Final = 14
EDE_NO_REACHABLE: Final = 22


class Answer(msgspec.Struct, gc=False):
    """A finished response: one tail or several orders of it; ``owners`` it was made from, None: not to be stored."""

    tails: tuple[bytes, ...]
    owners: tuple[bytes, ...] | None
    label: Label


class Ask(msgspec.Struct):
    """A question for the upstreams; ``complete`` makes the response of their reply, or of its absence."""

    qname: Name
    qtype: int
    do: bool
    complete: Callable[[Message | None], Answer]


class ZoneSet:
    """The zones served, found by the longest match of whole labels."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        self.zones = tuple(zones)
        self._by_labels = {zone.origin.labels: zone for zone in zones}
        self._depths = sorted({len(zone.origin.labels) for zone in zones}, reverse=True)
        self.above = names_above(zone.origin for zone in zones)
        """The keys of the names that exist at least because a zone begins below them."""

    def closest(self, name: Name) -> Zone | None:
        """Return the zone that *name* lies in."""
        labels = name.labels
        for depth in self._depths:
            zone = self._by_labels.get(labels[len(labels) - depth :] if depth else ())
            if zone is not None and len(labels) >= depth:
                return zone
        return None

    def labels_below(self, name: Name) -> frozenset[bytes]:
        """Return the labels right below *name* that zones begin at or below."""
        depth = len(name.labels)
        below = [zone.origin.labels for zone in self.zones if len(zone.origin.labels) > depth]
        return frozenset(labels[-depth - 1] for labels in below if labels[len(labels) - depth :] == name.labels)


def names_above(origins: Iterable[Name]) -> frozenset[bytes]:
    """Return the keys of all names above *origins*."""
    above = set()
    for origin in origins:
        key = origin.key
        while key[0]:
            key = key[1 + key[0] :]
            above.add(key)
    return frozenset(above)


class Authority:
    """Answers from *zones*. With *forwards* there are upstreams, and what is not ours becomes an ``Ask``.

    ``unsynced`` are the origins of the zones whose objects are not complete yet: at first all. Whoever knows that they
    are takes them out. *overlay* has static records: the zones have them over themselves, and here they are for names
    in none of them. *rewrites* apply to what is asked for, not to what that leads to. With *pushes* those who ask
    whether this is kdns are told that it has changes to push.
    """

    def __init__(
        self,
        zones: ZoneSet,
        *,
        forwards: bool = False,
        reverse: frozenset[Name] = frozenset(),
        overlay: Overlay | None = None,
        rewrites: Rewrites | None = None,
        pushes: bool = False,
    ) -> None:
        self._greets = peer.FEED * pushes
        self.zones = zones
        self._overlay = overlay or Overlay()
        self._rewrites = rewrites
        self.unsynced = {zone.origin for zone in zones.zones}
        self.is_stale = False
        """Whether what is known is of an earlier life: told to clients that speak EDNS."""
        self._forwards = forwards
        self._reverse = reverse
        self._labels = Labels()
        self._zone_text = {zone.origin.key: zone.origin.to_text() for zone in zones.zones}

    def answer(self, query: Query) -> Answer | Ask:
        """Answer *query*; every well-formed query gets one or the other."""
        if not is_usual(query) and (refused := refusal(query, ra=self._forwards)) is not None:
            rcode, tail = refused
            return Answer((tail,), None, self._label("", query, rcode))
        if self._rewrites is not None and (target := self._rewrites.of(query.qname)) is not None:
            return self._rewritten(query, target)
        zone = self.zones.closest(query.qname)
        return self._resolve(query, zone) if zone is not None else self._find(query, None)

    def _find(self, query: Query, zone: Zone | None) -> Answer | Ask:
        if zone is None and self._overlay.records.at(query.qname.key) is None:
            if self._forwards:
                return self._ask(query, query.qname, [])
            return self._outside(query)
        return self._resolve(query, zone)

    def _rewritten(self, query: Query, target: Name) -> Answer | Ask:
        """Answer the question for *target* in its place: whole, as over TCP, and then as the one that was asked."""
        found = self._find(rewritten_query(query, target), self.zones.closest(target))
        if not isinstance(found, Ask):
            return self._restored(query, target, found)
        complete = found.complete
        return Ask(found.qname, found.qtype, found.do, lambda message: self._restored(query, target, complete(message)))

    def _restored(self, query: Query, target: Name, answer: Answer) -> Answer:
        tails = restored_tails(query, target, answer.tails)
        owners = None if answer.owners is None else (query.qname.key, *answer.owners)
        return Answer(tails, owners, self._label(answer.label.zone, query, answer.label.rcode))

    def _resolve(self, query: Query, zone: Zone | None) -> Answer | Ask:
        name, qtype = query.qname, query.qtype
        outcome = zone.lookup(name, qtype) if zone is not None else self._static(name, qtype)
        if outcome is NXDOMAIN_HERE and zone is not None and self._denies_at_once(name):
            return self._denied(query, zone)
        chain: list[RRset] = []
        owners: list[bytes] | None = [name.key]
        note = 0
        while True:
            if outcome is None:
                if self._forwards:
                    return self._ask(query, name, chain)
                outcome = NODATA  # the name has other static records
            owners = _joined(owners, outcome.reads)
            if isinstance(outcome, NxDomain) and name.key in self.zones.above:
                outcome = NoData(outcome.reads, outcome.is_literal)  # a zone of ours begins below it
            match outcome:
                case Found(rrset, rotates):
                    return self._positive(query, zone, [*chain, rrset], owners, note, rotate=rotates)
                case Alias(rrset, target):
                    if outcome.passed_over and zone is not None and zone.origin in self.unsynced:
                        return self._unready(query, zone, chain)  # a step before it may exist after all
                    chain.append(rrset)
                    note |= peer.LITERAL * outcome.is_literal
                    # A loop is cut where it would close, with NOERROR and what was found: the CNAMEs are true.
                    if qtype in (CNAME, ANY) or len(chain) == MAX_ALIASES or any(r.owner == target for r in chain):
                        return self._positive(query, zone, chain, owners, note)
                    following = self.zones.closest(target)
                    if following is None and self._overlay.records.at(target.key) is None:
                        if self._forwards:
                            return self._ask(query, target, chain)
                        return self._positive(query, zone, chain, owners, note)
                    name, zone = target, following
                    owners = _joined(owners, (name.key,))
                    outcome = zone.lookup(name, qtype) if zone is not None else self._static(name, qtype)
                case NxDomain() if (
                    self._forwards and not chain and zone is not None and zone.origin in self._reverse - self.unsynced
                ):
                    return self._ask(query, name, [])
                case NoData() | NxDomain():
                    return self._negative(query, zone, chain, owners, note, outcome)

    def parent(self, query: Query, label: Label) -> Parent | None:
        """Return what denies siblings of *query* at a glance, which was denied itself and is counted by *label*.

        None where that takes a lookup for each, and where it was denied at the end of an alias in another zone.
        """
        name = query.qname
        zone = self.zones.closest(name)
        if not isinstance(zone, ClusterZone) or self._rewrites is not None or not self._denies_at_once(name):
            return None
        if label.zone != self._zone_text[zone.origin.key]:
            return None
        above = name.parent()
        names = zone.names_below(above)
        if names is None or not is_usual(query):
            return None
        return Parent(zone, zone.apex.serial, names, self.zones.labels_below(above))

    def _denies_at_once(self, name: Name) -> bool:
        return not self.unsynced and not self._forwards and name.key not in self.zones.above

    def _denied(self, query: Query, zone: Zone) -> Answer:
        """Answer NXDOMAIN, the commonest answer to what was not asked before, in the shortest way."""
        if query.edns is None:
            tail = make_nxdomain(query, zone.soa)
        else:
            options = self._greeting(query, peer.NOTHING_MATCHED)
            tail = make_negative(query, rcode=NXDOMAIN, soa=zone.soa, aa=True, ra=False, options=options)
        label = self._labels.of(self._zone_text[zone.origin.key], query, NXDOMAIN)
        return Answer((tail,), (query.qname.key,), label)

    def _static(self, name: Name, qtype: int) -> Outcome | None:
        return self._overlay.records.lookup(name, qtype)

    def _positive(
        self,
        query: Query,
        zone: Zone | None,
        answer: list[RRset],
        owners: list[bytes] | None,
        note: int,
        *,
        rotate: bool = False,
    ) -> Answer:
        additional: Iterator[RRset] | tuple[RRset, ...] = ()
        reads: list[bytes | None] = []
        if answer[-1].rtype in (SRV, NS):
            additional = self._targets(answer[-1], reads)
        tails = make_response(
            query,
            rcode=NOERROR,
            answer=answer,
            additional=additional,
            rotate=rotate,
            aa=True,
            ra=self._forwards,
            options=self._greeting(query, note),
        )
        known = [read for read in reads if read is not None]
        owners = _joined(owners, None if len(known) < len(reads) else tuple(known))
        return Answer(tails, _tuple(owners), self._label(self._text(zone), query, NOERROR))

    def _targets(self, rrset: RRset, reads: list[bytes | None]) -> Iterator[RRset]:
        """Yield the addresses of the names that *rrset* points to, noting whose they are; None: of no list of names."""
        targets = (srv_target(rdata) if rrset.rtype == SRV else Name.trusted(rdata) for rdata in rrset.rdatas)
        for target in dict.fromkeys(targets):
            zone = self.zones.closest(target)
            reads.append(target.key)
            for rtype in (A, AAAA):
                outcome = zone.lookup(target, rtype) if zone is not None else self._static(target, rtype)
                if outcome is not None:
                    reads += (None,) if outcome.reads is None else outcome.reads
                if isinstance(outcome, Found):
                    yield outcome.rrset

    def _negative(
        self,
        query: Query,
        zone: Zone | None,
        chain: list[RRset],
        owners: list[bytes] | None,
        note: int,
        outcome: NoData | NxDomain,
    ) -> Answer:
        if zone is None:  # a static name without the type: no zone, and so no SOA
            tails = make_response(
                query, rcode=NOERROR, answer=chain, aa=True, ra=self._forwards, options=self._greeting(query)
            )
            return Answer(tails, _tuple(owners), self._label(STATIC, query, NOERROR))
        if self.unsynced and zone.origin in self.unsynced and (query.qname != zone.origin or chain):
            return self._unready(query, zone, chain)
        soa, forwards = zone.soa, self._forwards
        rcode = NOERROR if isinstance(outcome, NoData) else NXDOMAIN
        note |= peer.NOTHING_MATCHED * (not chain) | peer.LITERAL * outcome.is_literal
        options = self._greeting(query, note)
        if chain:
            tails = make_response(
                query, rcode=rcode, answer=chain, authority=(soa,), aa=True, ra=forwards, options=options
            )
        else:
            tails = (make_negative(query, rcode=rcode, soa=soa, aa=True, ra=forwards, options=options),)
        return Answer(tails, _tuple(owners), self._label(self._text(zone), query, rcode))

    def _unready(self, query: Query, zone: Zone, chain: list[RRset]) -> Answer:
        """Return SERVFAIL: what is not known yet must not be denied."""
        options = ede(EDE_NOT_READY, "not synced with the cluster yet") if query.edns is not None else b""
        options += self._greeting(query)
        if chain:
            tail = make_response(query, rcode=SERVFAIL, ra=self._forwards, options=options)[0]
        else:
            tail = make_negative(query, rcode=SERVFAIL, soa=zone.soa, aa=True, ra=self._forwards, options=options)
        return Answer((tail,), None, self._label(self._text(zone), query, SERVFAIL))

    def _ask(self, query: Query, name: Name, chain: list[RRset]) -> Ask:
        do = query.edns is not None and query.edns.do

        def complete(message: Message | None) -> Answer:
            if message is None:
                options = ede(EDE_NO_REACHABLE, "no upstream answered") + self._greeting(query)
                tail = make_response(query, rcode=SERVFAIL, ra=True, options=options)[0]
                return Answer((tail,), None, self._label(".", query, SERVFAIL))
            rcode = message.rcode if message.rcode < BADVERS else SERVFAIL
            found = chain_of(message.answer, name, query.qtype)
            authority = [r for r in message.authority if r.rtype == SOA or (do and r.rtype in _DNSSEC)]
            tails = make_response(
                query,
                rcode=rcode,
                answer=[*chain, *rrsets_of(found)],
                authority=rrsets_of(authority if not any(r.rtype == query.qtype for r in found) else []),
                aa=bool(chain),
                ra=True,
                options=self._greeting(query),
            )
            return Answer(tails, None, self._label(".", query, rcode))

        return Ask(name, query.qtype, do, complete)

    def _outside(self, query: Query) -> Answer:
        tail = make_response(query, rcode=REFUSED, ra=self._forwards, options=self._greeting(query))[0]
        return Answer((tail,), (), self._label("", query, REFUSED))

    def records_of(self, name: Name, qtype: int) -> tuple[dict[int, RRset], Reads] | int:
        """Return the RRsets of a name and type (ANY: of the name) by type, and the owner names they were made from.

        An RCODE where there are none to speak of: NOTAUTH for a name of no zone, SERVFAIL before its zone is complete.
        Aliases are not followed (RFC 8765 section 6.2.1); a name that stands for a search path has its alias for
        every type.
        """
        target = (self._rewrites.of(name) if self._rewrites is not None else None) or name
        zone = self.zones.closest(target)
        if zone is None and self._overlay.records.at(target.key) is None:
            return NOTAUTH
        if zone is not None and zone.origin in self.unsynced:
            return SERVFAIL
        found: dict[int, RRset] = {}
        owners: list[bytes] | None = [] if target is name else [target.key]
        is_path = target.is_under(MARKER)
        for rtype in _EVERY if qtype == ANY and not is_path else (qtype,):
            outcome = zone.lookup(target, rtype) if zone is not None else self._static(target, rtype)
            owners = _joined(owners, outcome.reads if outcome is not None else ())
            if isinstance(outcome, Found) or (isinstance(outcome, Alias) and (is_path or qtype in (CNAME, ANY))):
                rrset = outcome.rrset
                found[rrset.rtype] = rrset if target is name else msgspec.structs.replace(rrset, owner=name)
        return found, _tuple(owners)

    def _greeting(self, query: Query, note: int = 0) -> bytes:
        """Return the options that say that the answer is stale, and to a peer that this is kdns, and *note*."""
        if query.edns is None:
            return b""
        stale = ede(EDE_STALE, STALE_TEXT) if self.is_stale else b""
        return stale + peer.greeting(self._greets | note) if query.edns.is_peer else stale

    def _text(self, zone: Zone | None) -> str:
        return self._zone_text[zone.origin.key] if zone is not None else STATIC

    def _label(self, zone: str, query: Query, rcode: int) -> Label:
        return self._labels.of(zone, query, rcode)


def chain_of(records: Sequence[Record], name: Name, qtype: int) -> list[Record]:
    """Return the records of an answer that belong to the question: its CNAME chain and what the chain ends at.

    Anything else that the answer section holds is somebody's who was not asked (ROBUSTNESS section 3).
    """
    names = {name}
    current = name
    aliases = {record.owner: record for record in records if record.rtype == CNAME}
    while qtype != CNAME and (alias := aliases.get(current)) is not None:
        current = Name.trusted(alias.rdata)
        if current in names:
            break
        names.add(current)
    return [
        record
        for record in records
        if record.owner in names or (record.rtype == _DNAME and any(n.is_under(record.owner) for n in names))
    ]


def _joined(owners: list[bytes] | None, reads: Reads) -> list[bytes] | None:
    """Add *reads* to *owners*; None on either side means that the answer must not be stored."""
    if owners is None or reads is None:
        return None
    return [*owners, *reads] if reads else owners


def _tuple(owners: list[bytes] | None) -> tuple[bytes, ...] | None:
    return None if owners is None else tuple(owners)
