"""NXDOMAIN at a glance: what does not exist right below a name all of whose children are known.

A flood of names that nobody asked for before is answered from no table. Most of them lie right below a namespace, below
``svc`` or below a zone, where one look at the names that there are tells that this one is not among them. So the first
of them is denied in the usual way, and what it took is noted for its parent; for the next nothing is parsed but its
first label. Queries without EDNS and of usual types alone go this way; the response is the same, octet for octet.

Whatever changes in a zone, all notes are dropped: they are made again by the next query that needs one.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final, NamedTuple

from kdns.proto.label import Label
from kdns.proto.query import HEADER_OCTETS, Query
from kdns.proto.response import nxdomain_head, soa_fragment
from kdns.proto.table import Sort
from zones.names import MAX_LABEL_OCTETS, MAX_NAME_OCTETS
from zones.zone import Serial, Zone

MAX_NOTES: Final = 16_384
"""Parents and types that something is noted for, at once: as many as a cluster has namespaces, and more."""

_ONE_QUESTION: Final = b"\0\1\0\0\0\0\0\0"
_TYPE_AND_CLASS_OCTETS: Final = 4


class Parent(NamedTuple):
    """A name in *zone*, and the labels in *names* or *others* below it: what has any other does not exist."""

    zone: Zone
    serial: Serial
    names: Container[bytes]
    others: Container[bytes]


class _Denial:
    """What all denials of one zone and type have in common."""

    __slots__ = ("_by_octets", "_label", "_serial", "_shown", "_zone")

    def __init__(self, zone: Zone, serial: Serial, label: Label) -> None:
        self._zone = zone
        self._serial = serial
        self._shown = serial.value
        self._label = label
        self._by_octets: dict[int, tuple[bytes, Sort]] = {}

    def of(self, octets: int) -> tuple[bytes, Sort] | None:
        """Return the SOA record as of now, behind the question of a query of so many octets, and what to count by.

        None where the name that it asks for is too long.
        """
        if self._serial.value != self._shown:
            self._shown = self._serial.value
            self._by_octets.clear()
        return self._by_octets.get(octets) or self._make(octets)

    def _make(self, octets: int) -> tuple[bytes, Sort] | None:
        name_octets = octets - HEADER_OCTETS - _TYPE_AND_CLASS_OCTETS
        if name_octets > MAX_NAME_OCTETS:
            return None
        soa = self._zone.soa
        fragment = soa_fragment(soa, HEADER_OCTETS + name_octets - len(soa.owner.wire))
        sort = Sort(self._label, octets, octets + len(fragment), is_truncated=False)
        found = self._by_octets[octets] = fragment, sort
        return found


_Note = tuple[_Denial, Container[bytes], Container[bytes]]
"""What denies the names below a parent, and the labels there that are not denied by it."""


class Denials:
    """What is noted, by what stands behind a query's first label, in lower case: the parent's name, type and class."""

    def __init__(self) -> None:
        self._notes: dict[bytes, _Note] = {}
        self._denials: dict[tuple[str, int], _Denial] = {}

    def __len__(self) -> int:
        return len(self._notes)

    def of(self, wire: bytes) -> tuple[bytes, Sort] | None:
        """Return the tail of the denial that *wire* gets and what to count it by, or None where that takes a lookup."""
        octets = len(wire)
        if octets <= HEADER_OCTETS + _TYPE_AND_CLASS_OCTETS or wire[2] > 1 or wire[4:HEADER_OCTETS] != _ONE_QUESTION:
            return None  # something else than a query, RD set or not, with one question and nothing behind it
        size = wire[HEADER_OCTETS]
        at = HEADER_OCTETS + 1 + size
        behind = wire[at:]
        note = self._notes.get(behind)
        if note is None:
            note = self._notes.get(behind[:-_TYPE_AND_CLASS_OCTETS].lower() + behind[-_TYPE_AND_CLASS_OCTETS:])
            if note is None:
                return None
        if not 0 < size <= MAX_LABEL_OCTETS:
            return None
        denial, names, others = note
        label = wire[HEADER_OCTETS + 1 : at].lower()
        if label in names or label in others:
            return None
        found = denial.of(octets)
        if found is None:
            return None
        return nxdomain_head(wire[2]) + wire[HEADER_OCTETS:] + found[0], found[1]

    def note(self, query: Query, parent: Parent, label: Label) -> None:
        """Note what *query* was denied by, for those that ask for its siblings; they are counted by *label*, too."""
        if len(self._notes) >= MAX_NOTES:
            self.clear()
        sort = label.zone, label.qtype
        denial = self._denials.get(sort)
        if denial is None:
            denial = self._denials[sort] = _Denial(parent.zone, parent.serial, label)
        key = query.qname.parent().key + query.question[-_TYPE_AND_CLASS_OCTETS:]
        self._notes[key] = denial, parent.names, parent.others

    def clear(self) -> None:
        """Drop all that is noted."""
        self._notes.clear()
        self._denials.clear()
