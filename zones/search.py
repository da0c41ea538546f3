"""Search-path expansion: the names that a name expands to, and which of them the whole walk ends at.

A client with ``ndots:5`` tries a name of few dots below each domain of its search path before it tries the name as it
is. Its first question carries all that it takes to walk the path on its behalf:

| form        | the question                                            | what is walked                               |
|-------------|---------------------------------------------------------|----------------------------------------------|
| transparent | ``<prefix>.<namespace>.svc.<zone>``                     | the first step of a pod's ordinary path      |
| explicit    | ``<prefix>.search.<namespace>.<zone>.ap.k8s.io``        | a path of this one entry                     |
|             | (enhancements#967, KEP-2009)                            |                                              |

The steps are those of the client, in its order: ``<namespace>.svc.<zone>``, ``svc.<zone>``, ``<zone>``, the host's own
domains, the name as it is. The walk is decided once for A and AAAA together:

| a step's outcome                             | what follows                                                  |
|----------------------------------------------|---------------------------------------------------------------|
| A or AAAA has records (other types: that one) | it is where the walk ends                                    |
| NODATA                                       | the walk goes on, as glibc's does, and ends in NODATA at worst |
| NXDOMAIN                                     | the walk goes on                                              |
| failure                                      | the walk ends in failure: a later name must not stand in for  |
|                                              | an internal one that might exist                              |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final

import msgspec

from zones.errors import BadName
from zones.names import label_octets, Name, split_labels
from zones.records import A, AAAA

MARKER: Final = Name.from_text("ap.k8s.io.")
"""The suffix of the explicit form."""

SEARCH: Final = b"search"
SVC: Final = b"svc"

NDOTS: Final = 5
"""What a pod's resolv.conf says. A name of as many dots is tried as it is first, so it is not walked for."""


class Outcome(Enum):
    """What a step of the walk came to, A and AAAA taken together."""

    DATA = "data"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"
    FAILED = "failed"


class Won(msgspec.Struct, frozen=True, gc=False):
    """The walk ends at the step of that index."""

    index: int


class Lost(msgspec.Struct, frozen=True, gc=False):
    """No step has anything; with ``is_nodata`` some name exists."""

    is_nodata: bool


class Failed(msgspec.Struct, frozen=True, gc=False):
    """The step of that index failed before any other had anything."""

    index: int


class Walk(msgspec.Struct, frozen=True):
    """One name to expand: the labels that the client typed (*prefix*, as spelled), its namespace, its cluster zone."""

    prefix: tuple[bytes, ...]
    namespace: bytes
    zone: Name
    is_explicit: bool = False

    @property
    def inside(self) -> tuple[Name, ...]:
        """The steps in the cluster zone; those that would be too long for a name are left out, as clients do."""
        return tuple(_joined(self.prefix, ((self.namespace, SVC), (SVC,), ()), self.zone))

    def outside(self, domains: Sequence[Name]) -> tuple[Name, ...]:
        """Return the other steps: below each of the host's *domains*, then the name as it is."""
        return (
            *(name for domain in domains for name in _joined(self.prefix, ((),), domain)),
            Name(self.prefix),
        )

    @property
    def question(self) -> Name | None:
        """The explicit form of this walk, None if it would be too long for a name."""
        try:
            return Name((*self.prefix, SEARCH, self.namespace, *split_labels(self.zone.wire), *MARKER.labels))
        except BadName:
            return None

    @property
    def labels(self) -> tuple[bytes, ...]:
        """What the client typed, in lower case."""
        return tuple(label.lower() for label in self.prefix)

    @property
    def namespace_name(self) -> Name:
        """The name that exists if the namespace does."""
        return self.zone.prefixed(self.namespace, SVC)

    @property
    def tld(self) -> bytes:
        """The last label that the client typed, in lower case."""
        return self.prefix[-1].lower()

    @property
    def is_literal_srv(self) -> bool:
        """Whether the prefix is ``_port._proto.<service>``: a question about a Service's port as it stands."""
        prefix = self.prefix
        return len(prefix) == 3 and prefix[0][:1] == b"_" and prefix[1][:1] == b"_"


def transparent_walk(qname: Name, zones: Sequence[Name], *, one_label: bool = False) -> Walk | None:
    """Return the walk whose first step *qname* may be, None if it can be none.

    A prefix of one label counts only with *one_label*: ``web.default.svc.<zone>`` is what a client asks that means
    just that Service, too.
    """
    for zone in zones:
        depth = len(zone.labels)
        labels = qname.labels
        count = len(labels) - depth
        if count < 3 or labels[count:] != zone.labels or labels[count - 1] != SVC:
            continue
        size = count - 2
        if size > NDOTS or (size == 1 and not one_label):
            return None
        walk = Walk(tuple(split_labels(qname.wire)[:size]), labels[count - 2], zone)
        return None if walk.is_literal_srv else walk
    return None


def explicit_walk(qname: Name, zones: Sequence[Name]) -> Walk | None:
    """Return the walk that *qname* spells out, None if it spells none."""
    if not qname.is_under(MARKER):
        return None
    for zone in zones:
        labels = qname.labels[: len(qname.labels) - len(MARKER.labels)]
        count = len(labels) - len(zone.labels)
        if count >= 3 and labels[count:] == zone.labels and labels[count - 2] == SEARCH:
            return Walk(tuple(split_labels(qname.wire)[: count - 2]), labels[count - 1], zone, is_explicit=True)
    return None


def decide(outcomes: Sequence[Outcome | None]) -> Won | Lost | Failed | None:
    """Return where the walk ends; None while the outcome that decides is not there yet."""
    is_nodata = False
    for index, outcome in enumerate(outcomes):
        match outcome:
            case None:
                return None
            case Outcome.DATA:
                return Won(index)
            case Outcome.FAILED:
                return Failed(index)
            case Outcome.NODATA:
                is_nodata = True
            case Outcome.NXDOMAIN:
                pass
    return Lost(is_nodata)


def types_of(qtype: int) -> tuple[int, ...]:
    """Return the types that decide a step: A and AAAA decide together, the one asked for first."""
    if qtype == A:
        return (A, AAAA)
    if qtype == AAAA:
        return (AAAA, A)
    return (qtype,)


def _joined(prefix: Sequence[bytes], domains: Sequence[Sequence[bytes]], zone: Name) -> Iterator[Name]:
    front = label_octets(prefix)
    for labels in domains:
        wire = front + label_octets(labels) + zone.wire
        if len(wire) <= 255:
            yield Name.trusted(wire)
