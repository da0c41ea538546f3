"""Static records: those of the configuration and of hosts files, laid over the zones.

| what is asked                                            | who answers                                         |
|----------------------------------------------------------|-----------------------------------------------------|
| a type that the name has here                            | the static records                                  |
| any type, of a name with a static CNAME                  | the static records                                  |
| A or AAAA, of a name that has the other one here         | the static records: NODATA                          |
| another type                                             | the zone that the name lies in (no CNAME of it,     |
|                                                          | though); outside of all zones: the upstreams        |
| a name at or above a static one, that its zone lacks     | NODATA                                              |

Precedence, RRset by RRset: the records of the configuration, then the hosts files in their order, then the zones. A
name of a hosts line has the line's address; the address has a PTR to the first name of its first line, as in hosts(5).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from zones.errors import BadName, BadRecord
from zones.names import Name, ROOT
from zones.records import (
    A,
    AAAA,
    address_from_text,
    address_rrtype,
    ANY,
    CNAME,
    MAX_TTL,
    PTR,
    RRset,
    rrtype_from_text,
    rrtype_to_text,
    SRV,
    srv_rdata,
    TXT,
    txt_rdata,
)
from zones.reverse import reverse_name
from zones.zone import Alias, Found, NODATA, NoData, NxDomain, Outcome, smallest, Zone

TYPES: Final = (A, AAAA, CNAME, TXT, SRV, PTR)
"""What a static record may be."""

_ADDRESSES: Final = (A, AAAA)


class BadLine(msgspec.Struct, frozen=True):
    """A line that cannot be used: its number from 1, its text, and why."""

    number: int
    text: str
    reason: str


class Conflict(msgspec.Struct, frozen=True):
    """Two sources that disagree about an RRset: which counts, and which is passed over."""

    owner: Name
    rtype: int
    winner: str
    loser: str

    def __str__(self) -> str:
        what = f"{self.owner.to_text().removesuffix('.')} {rrtype_to_text(self.rtype)}"
        return f"{what}: {self.winner} counts, {self.loser} is passed over"


class StaticRecords:
    """The RRsets of several sources, merged. *layers* are (where they are from, their RRsets), the strongest first."""

    def __init__(self, layers: Iterable[tuple[str, Sequence[RRset]]] = ()) -> None:
        self._by_owner: dict[bytes, dict[int, RRset]] = {}
        self._above: set[bytes] = set()
        self.conflicts: list[Conflict] = []
        self.from_where: dict[bytes, str] = {}
        for where, rrsets in layers:
            self._add(where, rrsets)

    def _add(self, where: str, rrsets: Sequence[RRset]) -> None:
        before = {rrset.owner.key: self._by_owner.get(rrset.owner.key) for rrset in rrsets}
        for rrset in rrsets:
            key = rrset.owner.key
            stronger = before[key]
            if stronger is not None and (CNAME in stronger or rrset.rtype == CNAME or rrset.rtype in stronger):
                same = stronger.get(rrset.rtype)
                if same is None or set(same.rdatas) != set(rrset.rdatas):
                    self.conflicts.append(Conflict(rrset.owner, rrset.rtype, self.from_where[key], where))
                continue
            self._by_owner[key] = {**self._by_owner.get(key, {}), rrset.rtype: rrset}
            self.from_where.setdefault(key, where)
            while key:
                self._above.add(key)
                key = key[1 + key[0] :] if key[0] else b""

    def __len__(self) -> int:
        return len(self._by_owner)

    def at(self, key: bytes) -> Mapping[int, RRset] | None:
        """Return the RRsets of the name with that ``key`` by type."""
        return self._by_owner.get(key)

    def exists(self, key: bytes) -> bool:
        """Tell whether the name, or one below it, has static records."""
        return key in self._above

    def lookup(self, qname: Name, qtype: int) -> Outcome | None:
        """Return what is static about the question, None where it is for others to answer."""
        some = self._by_owner.get(qname.key)
        if some is None:
            return None
        if (alias := some.get(CNAME)) is not None:
            return Alias(msgspec.structs.replace(alias, owner=qname), Name.trusted(alias.rdatas[0]))
        rrset = smallest(iter(some.values())) if qtype == ANY else some.get(qtype)
        if rrset is not None:
            return Found(msgspec.structs.replace(rrset, owner=qname), rotates=len(rrset.rdatas) > 1)
        return NODATA if qtype in _ADDRESSES and (A in some or AAAA in some) else None

    def owners(self) -> Iterator[Name]:
        """Yield every owner name."""
        for some in self._by_owner.values():
            yield next(iter(some.values())).owner

    def rrsets(self) -> Iterator[RRset]:
        """Yield every RRset."""
        for some in self._by_owner.values():
            yield from some.values()


class Overlay:
    """Static records that change as a whole."""

    def __init__(self) -> None:
        self.records = StaticRecords()


class Overlaid:
    """*zone* under the static records of *overlay*."""

    def __init__(self, zone: Zone, overlay: Overlay) -> None:
        self.zone = zone
        self.origin = zone.origin
        self._overlay = overlay

    @property
    def soa(self) -> RRset:
        """The zone's SOA."""
        return self.zone.soa

    def lookup(self, qname: Name, qtype: int) -> Outcome:
        """Say what there is for the question, static or in the zone."""
        records = self._overlay.records
        if (static := records.lookup(qname, qtype)) is not None:
            return static
        outcome = self.zone.lookup(qname, qtype)
        if not records.exists(qname.key):
            return outcome
        has_own = records.at(qname.key) is not None
        if isinstance(outcome, NxDomain) or (has_own and isinstance(outcome, Alias)):
            return NoData(outcome.reads)
        return outcome

    def walk(self) -> Iterator[RRset]:
        """Yield every RRset once, the SOA first; static ones in place of those that they hide."""
        records = self._overlay.records
        for rrset in self.zone.walk():
            some = records.at(rrset.owner.key)
            if some is None or not _hides(some, rrset):
                yield rrset
        yield from sorted(
            (rrset for rrset in records.rrsets() if rrset.owner.is_under(self.origin)),
            key=lambda rrset: (rrset.owner, rrset.rtype),
        )


def _hides(some: Mapping[int, RRset], rrset: RRset) -> bool:
    if rrset.rtype in some or CNAME in some or rrset.rtype == CNAME:
        return True
    return rrset.rtype in _ADDRESSES and (A in some or AAAA in some)


def conflicts_with(records: StaticRecords, zone: Zone, owner: Name, where: str) -> Iterator[Conflict]:
    """Yield what static records at *owner* hide of *zone*; *where* names the zone for a person."""
    for rtype, rrset in (records.at(owner.key) or {}).items():
        outcome = zone.lookup(owner, rtype)
        if isinstance(outcome, Found | Alias) and set(outcome.rrset.rdatas) != set(rrset.rdatas):
            yield Conflict(owner, outcome.rrset.rtype, records.from_where[owner.key], where)


# -- text -------------------------------------------------------------------------------------------------------------


def read_hosts(text: str, ttl: int) -> tuple[list[RRset], list[BadLine]]:
    """Read a hosts file (hosts(5)): lines of an address and names, ``#`` begins a comment. A bad line costs itself."""
    names: dict[tuple[bytes, int], tuple[Name, dict[bytes, None]]] = {}
    bad = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            address = address_from_text(words[0])
            owners = [Name.from_text(word) for word in words[1:]]
            if not owners or ROOT in owners:
                raise ValueError("no name")
            if any(owner.labels[0] == b"*" for owner in owners):
                raise ValueError("a wildcard, which static records have none of")
        except (ValueError, BadName) as exc:
            bad.append(BadLine(number, line.strip()[:200], str(exc)))
            continue
        rtype = address_rrtype(address)
        for owner in owners:
            names.setdefault((owner.key, rtype), (owner, {}))[1][address] = None
        reverse = reverse_name(address)
        names.setdefault((reverse.key, PTR), (reverse, {owners[0].wire: None}))
    return [RRset(owner, rtype, ttl, tuple(some)) for (_, rtype), (owner, some) in names.items()], bad


def record_from_text(text: str, ttl: int) -> RRset:
    """Read ``NAME [TTL] [IN] TYPE DATA``, as a line of a master file. Raises BadRecord or BadName, both ValueErrors."""
    try:
        lexer = shlex.shlex(text, posix=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        lexer.escape = ""
        words = list(lexer)
    except ValueError as exc:
        raise BadRecord(f"quotes that do not close ({exc})") from exc
    if len(words) < 3:
        raise BadRecord("not NAME [TTL] TYPE DATA")
    owner = Name.from_text(words.pop(0))
    if owner.labels[:1] == (b"*",):
        raise BadRecord("a wildcard, which static records have none of")
    if words[0].isascii() and words[0].isdigit():
        ttl = int(words.pop(0))
        if ttl > MAX_TTL:
            raise BadRecord(f"a TTL of {ttl}")
    if words[0].upper() == "IN":
        words.pop(0)
    if not words:
        raise BadRecord("no type")
    rtype = rrtype_from_text(words.pop(0))
    if rtype not in TYPES:
        raise BadRecord(f"type {rrtype_to_text(rtype)}, not one of {', '.join(map(rrtype_to_text, TYPES))}")
    return RRset(owner, rtype, ttl, (_rdata(rtype, words),))


def _rdata(rtype: int, words: Sequence[str]) -> bytes:
    if rtype == TXT:
        if not words:
            raise BadRecord("TXT without text")
        return txt_rdata(*(word.encode() for word in words))
    wanted = 4 if rtype == SRV else 1
    if len(words) != wanted:
        raise BadRecord(f"{rrtype_to_text(rtype)} data of {len(words)} words, not {wanted}")
    if rtype == SRV:
        priority, weight, port = (int(word) if word.isascii() and word.isdigit() else 65_536 for word in words[:3])
        if max(priority, weight, port) > 65_535:
            raise BadRecord("SRV data that is not PRIORITY WEIGHT PORT TARGET")
        return srv_rdata(priority, weight, port, Name.from_text(words[3]))
    if rtype in (CNAME, PTR):
        return Name.from_text(words[0]).wire
    try:
        address = address_from_text(words[0])
    except ValueError as exc:
        raise BadRecord(str(exc)) from exc
    if address_rrtype(address) != rtype:
        raise BadRecord(f"{words[0]!r} in a record of type {rrtype_to_text(rtype)}")
    return address


def merged(rrsets: Iterable[RRset]) -> list[RRset]:
    """Join the RRsets of one owner and type. Raises BadRecord where a CNAME has company (RFC 1034 section 3.6.2)."""
    groups: dict[bytes, dict[int, RRset]] = {}
    for rrset in rrsets:
        some = groups.setdefault(rrset.owner.key, {})
        before = some.get(rrset.rtype)
        if before is not None:
            rdatas = tuple(dict.fromkeys((*before.rdatas, *rrset.rdatas)))
            rrset = RRset(rrset.owner, rrset.rtype, min(before.ttl, rrset.ttl), rdatas)
        some[rrset.rtype] = rrset
        if CNAME in some and (len(some) > 1 or len(some[CNAME].rdatas) > 1):
            raise BadRecord(f"{rrset.owner.to_text()} has a CNAME, and so can have nothing else")
    return [rrset for some in groups.values() for rrset in some.values()]
