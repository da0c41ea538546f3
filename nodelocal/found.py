"""What a question came to: the entries along its alias chain."""

from __future__ import annotations

import msgspec

from nodelocal.entry import Entry
from zones.names import Name


class Link(msgspec.Struct, frozen=True, gc=False):
    """One entry of an answer, the name that it answers, and whether its time is up."""

    qname: Name
    entry: Entry
    is_stale: bool = False


class Found(msgspec.Struct, frozen=True, gc=False):
    """An answer: the entries along its alias chain, of which the last decides."""

    links: tuple[Link, ...]

    @property
    def last(self) -> Entry:
        """The entry at the chain's end."""
        return self.links[-1].entry

    @property
    def is_stale(self) -> bool:
        """Whether any of it is."""
        links = self.links
        return links[0].is_stale if len(links) == 1 else any(link.is_stale for link in links)

    @property
    def expires_at(self) -> float:
        """When the first of it ends."""
        links = self.links
        return links[0].entry.expires_at if len(links) == 1 else min(link.entry.expires_at for link in links)
