"""What this program answers by itself: static records (``zones.static``), and names looked up as others."""

from __future__ import annotations

from kdns.proto.query import NOERROR
from nodelocal.entry import Entry, seal
from zones.names import Name
from zones.records import RRset
from zones.rewrite import Rewrites
from zones.static import StaticRecords
from zones.zone import Alias, Found


class Local:
    """Static records as of now, and the rules by which names are rewritten."""

    def __init__(self, rewrites: Rewrites) -> None:
        self.rewrites = rewrites
        self.records = StaticRecords()

    def find(self, qname: Name, qtype: int, now: float) -> Entry | None:
        """Return the entry of a question that static records answer, None for any other."""
        outcome = self.records.lookup(qname, qtype)
        if outcome is None:
            return None
        target = None
        answer: list[RRset] = []
        match outcome:
            case Found(rrset):
                answer = [rrset]
            case Alias(rrset, leads_to):
                answer = [rrset]
                target = leads_to if qtype != rrset.rtype else None
        entry = seal(
            qname, qtype, rcode=NOERROR, answer=answer, authority=(), is_denial=not answer, target=target, is_kept=False
        )
        entry.expires_at = now + max(1, answer[0].ttl if answer else 1)  # one whose time is up would be asked for
        return entry

    def has(self, name: Name) -> bool:
        """Tell whether anything about *name* is decided here."""
        return self.records.at(name.key) is not None or self.rewrites.of(name) is not None
