"""One walk along a search path, step by step or in one question to kdns; ``nodelocal.expand`` remembers the end.

Each step is a look-up of both address types, the second only where the first does not decide. The steps in the cluster
are asked all at once, those outside one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Protocol

import msgspec

from kdns.proto import peer
from kdns.proto.query import NXDOMAIN
from kdns.proto.tlds import is_public_tld
from kdns.upstream.forwarder import PATIENCE_SECONDS
from nodelocal.body import remaining, sections
from nodelocal.entry import FAILURE
from nodelocal.found import Found
from nodelocal.pods import NodePods
from nodelocal.resolver import Resolver
from nodelocal.route import CLUSTER
from zones.errors import BadName
from zones.names import Name, split_labels
from zones.records import CNAME, RRset, SOA
from zones.search import decide, Failed, Lost, MARKER, Outcome, types_of, Walk, Won

MAX_TTL: Final = 30
"""A decision is looked at again after this many seconds at most: a Service made meanwhile must win."""


class Ending(Enum):
    """What a walk came to."""

    WON = "won"
    LOST = "lost"
    FAILED = "failed"
    LITERAL = "literal"


class Decision(msgspec.Struct, gc=False):
    """Where a walk ends: at *name*, or nowhere. ``soa`` is what denies, ``steps`` what was asked, for people.

    ``is_inside`` says that kdns answers for *name* under the walk's explicit form.
    """

    ending: Ending
    expires_at: float
    name: Name | None = None
    is_inside: bool = False
    is_nodata: bool = False
    is_stale: bool = False
    soa: RRset | None = None
    steps: tuple[tuple[str, str], ...] = ()


class Owner(Protocol):
    """What a walk asks of whoever has it walked."""

    @property
    def resolver(self) -> Resolver:
        """What steps are looked up with."""

    @property
    def domains(self) -> Callable[[], Sequence[Name]]:
        """What gives the host's own search domains."""

    @property
    def absolute_first(self) -> bool:
        """Whether public names are tried as they are before other namespaces."""

    @property
    def pods(self) -> NodePods | None:
        """The node's pods, where they are known."""

    def asks_kdns(self, walk: Walk) -> bool:
        """Tell whether the steps of *walk* inside the cluster are asked of kdns at once."""


class Walking:
    """One walk under way: *owner* is who remembers what it comes to, *end* is called with that once."""

    def __init__(
        self, owner: Owner, walk: Walk, qtype: int, end: Callable[[Decision], None], *, do: bool, cd: bool
    ) -> None:
        self._owner = owner
        self._resolver = owner.resolver
        self._walk = walk
        self._qtype = qtype
        self._end = end
        self._do = do
        self._cd = cd
        self._waits_for_kdns = False
        self._is_going_on = self._goes_on = False
        self._steps: list[tuple[str, str]] = []
        self._expires_at = self._resolver.now() + MAX_TTL
        self._is_nodata = False
        self._is_stale = False
        self._soa: RRset | None = None
        outside = walk.outside(owner.domains())
        self._absolute_first = owner.absolute_first and len(walk.prefix) > 1 and is_public_tld(walk.tld)
        self._absolute = outside[-1]
        self._outside = [self._absolute, *outside[:-1]] if self._absolute_first else list(outside)
        self._since = owner.resolver.now()

    def fail(self) -> None:
        """End in failure, unless it has ended."""
        self._end(self._decision(Ending.FAILED))

    # -- inside the cluster -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: ask kdns, if it is there."""
        if self._owner.asks_kdns(self._walk) and self._walk.question is not None:
            self._ask_kdns(self._walk.question)
        else:
            self._inside_of_others()

    def _inside_of_others(self) -> None:
        walk = self._walk
        is_known = walk.is_explicit or self._owner.pods is not None
        if is_known or not is_public_tld(walk.namespace):
            self._inside_step_by_step()
            return

        # A namespace named like a top-level domain: the name is likelier a later step of somebody's walk.
        def take(found: Found) -> None:
            if found.last.is_failure:
                self._expires_at = self._resolver.now()  # not remembered: the name itself is asked for as it stands
            else:
                self._expires_at = min(self._expires_at, found.expires_at)
            if found.last.is_failure or found.last.rcode == NXDOMAIN:
                self._end_literally(walk.namespace_name)
            else:
                self._inside_step_by_step()

        self._resolver.resolve(walk.namespace_name, self._qtype, take, do=self._do, cd=self._cd, since=self._since)

    def _ask_kdns(self, question: Name) -> None:
        forwarder = self._resolver.forwarders[CLUSTER]
        peers = self._resolver.peers
        if any(server not in peers for server in forwarder.servers.in_order(self._since)):
            # Another may answer where kdns does not.
            self._resolver.timers.call_at(self._since + PATIENCE_SECONDS, self._give_up_on_kdns)
        self._waits_for_kdns = True
        self._resolver.ask_peers(
            question,
            self._qtype,
            self._peer_replied,
            forwarder=forwarder,
            do=self._do,
            cd=self._cd,
            since=self._since,
        )

    def _give_up_on_kdns(self) -> None:
        if self._waits_for_kdns:
            self._waits_for_kdns = False
            self._inside_of_others()

    def _peer_replied(self, found: Found) -> None:
        if not self._waits_for_kdns:
            return
        self._waits_for_kdns = False
        entry = found.links[0].entry
        question = self._walk.question
        if entry.note is None and question is not None and entry is not FAILURE:  # another server answers there now
            self._inside_of_others()
            return
        if entry.is_failure or question is None or entry.note is None:
            self._note_step(question or self._walk.zone, Outcome.FAILED)
            self._end(self._decision(Ending.FAILED))
            return
        self._expires_at = min(self._expires_at, entry.expires_at)
        self._is_stale |= found.is_stale
        answer, authority = sections(entry, found.links[0].qname, entry.ttl)
        alias = next((rrset for rrset in answer if rrset.rtype == CNAME and rrset.owner == question), None)
        if alias is not None:
            name = Name.trusted(alias.rdatas[0])
            is_first = name == self._walk.inside[0]
            if entry.note & peer.LITERAL and not self._walk.is_explicit and not is_first:
                self._end_literally(question)
                return
            self._note_step(name, Outcome.DATA)
            self._won_inside(name, is_first=is_first, is_inside=True)
            return
        if entry.note & peer.LITERAL and not self._walk.is_explicit:
            self._end_literally(question)
            return
        self._take_soa(authority)
        outcome = Outcome.NXDOMAIN if entry.rcode == NXDOMAIN else Outcome.NODATA
        self._is_nodata |= outcome is Outcome.NODATA
        self._note_step(question, outcome)
        self._next_outside()

    def _end_literally(self, question: Name) -> None:
        self._steps.append((question.to_text(), "literal"))
        self._end(self._decision(Ending.LITERAL))

    def _won_inside(self, name: Name, *, is_first: bool, is_inside: bool = False) -> None:
        """End at *name*; names of the outside world are looked for there before another namespace may take them."""
        if is_first or not self._absolute_first:
            self._end(self._decision(Ending.WON, name, is_inside=is_inside))
            return

        def take(outcome: Outcome) -> None:
            if not self._is_over(self._absolute, outcome):
                self._end(self._decision(Ending.WON, name, is_inside=is_inside))

        self._pair(self._absolute, take)

    def _inside_step_by_step(self) -> None:
        names = self._walk.inside
        outcomes: list[Outcome | None] = [None] * len(names)
        is_over = False

        def take(index: int, outcome: Outcome) -> None:
            nonlocal is_over
            if is_over:
                return
            outcomes[index] = outcome
            decision = decide(outcomes)
            if decision is None:
                return
            is_over = True
            for name, known in zip(names, outcomes, strict=True):
                if known is not None:
                    self._note_step(name, known)
            match decision:
                case Won(won):
                    self._won_inside(names[won], is_first=won == 0)
                case Failed():
                    self._end(self._decision(Ending.FAILED))
                case Lost(is_nodata):
                    self._is_nodata |= is_nodata
                    self._next_outside()

        if not names:
            self._next_outside()
        for index, name in enumerate(names):
            self._pair(name, lambda outcome, index=index: take(index, outcome))  # type: ignore[misc]

    # -- outside ----------------------------------------------------------------------------------------------------

    def _next_outside(self) -> None:
        """Go on with the steps outside: in a loop while they are answered at once, so no list of them is too long."""
        if self._is_going_on:
            self._goes_on = True
            return
        self._is_going_on = True
        self._goes_on = True
        while self._goes_on:
            self._goes_on = False
            self._one_outside()
        self._is_going_on = False

    def _one_outside(self) -> None:
        if not self._outside:
            self._end(self._decision(Ending.LOST))
            return
        name = self._outside.pop(0)
        local = self._resolver.local
        if self._resolver.routes.of(name) is None and (local is None or not local.has(name)):
            self._note_step(name, Outcome.NXDOMAIN)  # nobody speaks for it
            self._next_outside()
            return

        def over(outcome: Outcome) -> None:
            if not self._is_over(name, outcome):
                self._next_outside()

        self._pair(name, over)

    def _is_over(self, name: Name, outcome: Outcome) -> bool:
        self._note_step(name, outcome)
        match outcome:
            case Outcome.DATA:
                self._end(self._decision(Ending.WON, name))
                return True
            case Outcome.FAILED:
                self._end(self._decision(Ending.FAILED))
                return True
            case Outcome.NODATA:
                self._is_nodata = True
            case Outcome.NXDOMAIN:
                pass
        return False

    # -- one step -----------------------------------------------------------------------------------------------------

    def _pair(self, name: Name, callback: Callable[[Outcome], None]) -> None:
        """Resolve one step: both address types, the second only where the first does not decide."""
        types = list(types_of(self._qtype))
        exists = False

        def take(found: Found) -> None:
            nonlocal exists
            entry = found.last
            if entry.is_failure:
                callback(Outcome.FAILED)
                return
            self._expires_at = min(self._expires_at, found.expires_at)
            self._is_stale |= found.is_stale
            if not entry.is_denial:
                callback(Outcome.DATA)
                return
            self._take_soa(sections(entry, found.links[-1].qname, remaining(entry, self._resolver.now()))[1])
            exists |= entry.rcode != NXDOMAIN
            if exists and types:
                self._resolver.resolve(name, types.pop(0), take, do=self._do, cd=self._cd, since=self._since)
            else:
                callback(Outcome.NODATA if exists else Outcome.NXDOMAIN)

        self._resolver.resolve(name, types.pop(0), take, do=self._do, cd=self._cd, since=self._since)

    def _take_soa(self, authority: Sequence[RRset]) -> None:
        """Keep the first SOA, which is that of the step asked first, under a name that the question lies below."""
        if self._soa is not None:
            return
        walk = self._walk
        for rrset in authority:
            if rrset.rtype == SOA:
                owner = walk.zone
                if walk.is_explicit:
                    try:
                        owner = Name((*split_labels(walk.zone.wire), *MARKER.labels))
                    except BadName:
                        owner = MARKER
                self._soa = RRset(owner, SOA, rrset.ttl, rrset.rdatas)

    def _note_step(self, name: Name, outcome: Outcome) -> None:
        self._steps.append((name.to_text(), outcome.value))

    def _decision(self, ending: Ending, name: Name | None = None, *, is_inside: bool = False) -> Decision:
        now = self._resolver.now()
        if self._is_stale:  # looked at again soon; an answer from it says that it is stale
            self._expires_at = max(self._expires_at, now + 1)
        return Decision(
            ending,
            self._expires_at,
            name,
            is_inside,
            self._is_nodata,
            self._is_stale,
            self._soa,
            tuple(self._steps),
        )
