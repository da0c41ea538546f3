"""NXDOMAIN at a glance: what does not exist right below a name all of whose children are known.

A flood of names that nobody asked for before is answered from no table. Most of them lie right below a namespace, below
``svc`` or below a zone, where one look at the names that there are tells that this one is not among them. So the first
of them is denied in the usual way, and what it took is noted for its parent; for the next nothing is parsed but its
first label. Queries without EDNS and of usual types alone go this way; the response is the same, octet for octet.

Whatever changes in a zone, all notes are dropped: they are made again by the next query that needs one.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from kdns.proto.label import Label
from kdns.proto.query import HEADER_OCTETS, Query
from kdns.proto.response import nxdomain_head, soa_fragment
from zones.names import MAX_LABEL_OCTETS, MAX_NAME_OCTETS
from zones.zone import Zone

MAX_PARENTS: Final = 4096
"""Names that something is noted for, at once: as many as a cluster has namespaces, and more."""

_ONE_QUESTION: Final = b"\0\1\0\0\0\0\0\0"
_TYPE_AND_CLASS_OCTETS: Final = 4


class Parent:
    """A name in *zone*, and the labels in *names* or *others* below it: what has any other does not exist."""

    __slots__ = ("_fragments", "_soa", "labels", "names", "others", "zone")

    def __init__(self, zone: Zone, names: Container[bytes], others: Container[bytes]) -> None:
        self.zone = zone
        self.names = names
        self.others = others
        self.labels: dict[bytes, Label] = {}
        """What denials are counted by, by the octets of type and class."""
        self._soa = zone.soa
        self._fragments: dict[int, bytes] = {}

    def soa(self, name_octets: int) -> bytes:
        """Return the SOA record as of now, behind a question for a name of that many octets."""
        soa = self.zone.soa
        if soa is not self._soa:
            self._soa = soa
            self._fragments.clear()
        found = self._fragments.get(name_octets)
        if found is None:
            found = soa_fragment(soa, HEADER_OCTETS + name_octets - len(soa.owner.wire))
            self._fragments[name_octets] = found
        return found


class Denials:
    """What is noted, by the parent's name in wire form and lower case."""

    def __init__(self) -> None:
        self._parents: dict[bytes, Parent] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def of(self, wire: bytes) -> tuple[bytes, Label] | None:
        """Return the tail of the denial that *wire* gets and what to count it by, or None where that takes a lookup."""
        octets = len(wire)
        if octets <= HEADER_OCTETS + _TYPE_AND_CLASS_OCTETS or wire[2] > 1 or wire[4:HEADER_OCTETS] != _ONE_QUESTION:
            return None  # something else than a query, RD set or not, with one question and nothing behind it
        size = wire[HEADER_OCTETS]
        at = HEADER_OCTETS + 1 + size
        parent = self._parents.get(wire[at:-_TYPE_AND_CLASS_OCTETS].lower())
        if parent is None or not 0 < size <= MAX_LABEL_OCTETS:
            return None
        counted_by = parent.labels.get(wire[-_TYPE_AND_CLASS_OCTETS:])
        name_octets = octets - HEADER_OCTETS - _TYPE_AND_CLASS_OCTETS
        if counted_by is None or name_octets > MAX_NAME_OCTETS:
            return None
        label = wire[HEADER_OCTETS + 1 : at].lower()
        if label in parent.names or label in parent.others:
            return None
        return nxdomain_head(wire[2]) + wire[HEADER_OCTETS:] + parent.soa(name_octets), counted_by

    def note(self, query: Query, parent: Parent, counted_by: Label) -> None:
        """Note what *query* was denied by, for those that ask for its siblings."""
        if len(self._parents) >= MAX_PARENTS:
            self._parents.clear()
        key = query.qname.parent().key
        known = self._parents.get(key)
        if known is None:
            known = self._parents[key] = parent
        known.labels[query.question[-_TYPE_AND_CLASS_OCTETS:]] = counted_by

    def clear(self) -> None:
        """Drop all that is noted."""
        self._parents.clear()
