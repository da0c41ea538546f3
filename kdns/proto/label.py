"""What answers are counted by: few values, each one object shared by all answers of its sort."""

from __future__ import annotations

from typing import Final

import msgspec

from kdns.proto.query import Query

MAX_LABELS: Final = 4096
"""Labels kept to be shared; unknown types asked at random would make more."""


class Label(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What an answer is counted by: its zone (``.`` for the upstreams', empty for none), its type, its RCODE, DO.

    Told apart by identity: millions are counted, few are made, and hashing what is in them costs more than counting.
    """

    zone: str
    qtype: int
    rcode: int
    do: bool


class Labels:
    """The labels of one program."""

    def __init__(self) -> None:
        self._labels: dict[tuple[str, int, int, bool], Label] = {}

    def of(self, zone: str, query: Query, rcode: int) -> Label:
        """Return the label of an answer with *rcode* to *query*."""
        key = (zone, query.qtype, rcode, query.edns is not None and query.edns.do)
        if (label := self._labels.get(key)) is None:
            if len(self._labels) > MAX_LABELS:
                self._labels.clear()
            label = self._labels[key] = Label(*key)
        return label
