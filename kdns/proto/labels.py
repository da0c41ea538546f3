"""The labels that answers are counted by, each of which is made once."""

from __future__ import annotations

from typing import Final

from kdns.proto.label import Label
from kdns.proto.query import Query

MAX_LABELS: Final = 4096
"""Labels kept to be shared; unknown types asked at random would make more."""


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
