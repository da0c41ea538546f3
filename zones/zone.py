"""What a zone is: a lookup with five outcomes, a SOA, and a walk over everything (RFC 1034 section 4.3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from zones.names import Name
from zones.records import ANY, RRset, SOA, soa_rdata

Reads = tuple[bytes, ...] | None
"""Which owner names beside its own an outcome depends on (their ``key``); None: do not store the answer at all,
because what would change it is not a list of names."""


class Found(msgspec.Struct, frozen=True, gc=False):
    """The name has records of the type; with ``rotates`` their order steps from answer to answer."""

    rrset: RRset
    rotates: bool = False
    reads: Reads = ()


class Alias(msgspec.Struct, frozen=True, gc=False):
    """The name has a CNAME record, and nothing else (RFC 1034 section 3.6.2).

    Of a name that stands for a search path: ``passed_over``, that steps before the target were denied; and
    ``is_literal``, that the first of them may have been meant as it stands.
    """

    rrset: RRset
    target: Name
    reads: Reads = ()
    passed_over: bool = False
    is_literal: bool = False


class NoData(msgspec.Struct, frozen=True, gc=False):
    """The name exists, if only through names below it, and has no record of the type (RFC 2308 section 2.2).

    ``is_literal``: of a name that stands for a search path, that its first step may have been meant as it stands.
    """

    reads: Reads = ()
    is_literal: bool = False


class NxDomain(msgspec.Struct, frozen=True, gc=False):
    """The name does not exist, nor does any below it (RFC 8020). ``is_literal``: as for ``NoData``."""

    reads: Reads = ()
    is_literal: bool = False


Outcome = Found | Alias | NoData | NxDomain

NODATA = NoData()
NXDOMAIN = NxDomain()


class Zone(Protocol):
    """A zone. Names given to ``lookup`` are at or below ``origin``; *qtype* may be ANY."""

    @property
    def origin(self) -> Name:
        """The apex."""

    @property
    def soa(self) -> RRset:
        """The SOA as of now; its serial moves when something visible changes."""

    def lookup(self, qname: Name, qtype: int) -> Outcome:
        """Say what the zone has for the question."""

    def walk(self) -> Iterator[RRset]:
        """Yield every RRset once, the SOA first, as a transfer or a master file has them."""


class Timers(msgspec.Struct, frozen=True):
    """TTLs and SOA figures in seconds; the SOA's own are CoreDNS's (CONTRACT row 1.3)."""

    ttl: int = 5
    refresh: int = 7200
    retry: int = 1800
    expire: int = 86_400

    @property
    def soa_ttl(self) -> int:
        """A negative answer lives for this long (RFC 2308 section 5)."""
        return min(self.ttl, 300)


def make_soa(origin: Name, mname: Name, rname: Name, *, serial: int, timers: Timers) -> RRset:
    """Return the SOA RRset of *origin*."""
    rdata = soa_rdata(
        mname,
        rname,
        serial=serial,
        refresh=timers.refresh,
        retry=timers.retry,
        expire=timers.expire,
        minimum=timers.ttl,
    )
    return RRset(origin, SOA, timers.soa_ttl, (rdata,))


def smallest(rrsets: Iterator[RRset]) -> RRset | None:
    """Return the RRset that an ANY question gets: the one of the fewest octets (RFC 8482 section 4.1)."""
    return min(rrsets, key=lambda rrset: sum(map(len, rrset.rdatas)) + 12 * len(rrset.rdatas), default=None)


def pick(rrsets: Iterator[RRset], qtype: int, *, reads: Reads = ()) -> Outcome:
    """Return the outcome at a name that exists, has *rrsets*, and no alias."""
    if qtype == ANY:
        chosen = smallest(rrsets)
    else:
        chosen = next((rrset for rrset in rrsets if rrset.rtype == qtype), None)
    return NoData(reads) if chosen is None else Found(chosen, len(chosen.rdatas) > 1, reads)


def reads_of(qname: Name, labels: tuple[bytes, ...], *, own: int) -> tuple[bytes, ...]:
    """Return what an outcome below a Service depends on beside its own name; *labels* are those left of the zone, of
    which the last *own* are the Service's.

    CoreDNS takes ports without their underscores too. Such a spelling is no owner name that a change would list, and
    neither is a zonal name; the Service's own name is listed by every change that can matter to them.
    """
    left = labels[:-own]
    if not left or (all(label[:1] == b"_" for label in left) and left[-1] != b"_zone"):
        return ()
    return (qname.key[sum(map(len, left)) + len(left) :],)


class Serial:
    """A zone's serial: Unix time of the last visible change, moved at most once a second (CONTRACT row 1.3).

    A change within the second that the serial already names shows in the next one, so that no
    secondary that has the serial lacks the change.
    """

    __slots__ = ("_pending", "value")

    def __init__(self, now: float, *, last: int | None = None) -> None:
        """Begin at *now*, Unix time, or after *last*, the one that an earlier process ended with."""
        self.value = int(now) if last is None else max(int(now), last + 1)
        self._pending = False

    def changed(self) -> None:
        """Note a visible change; ``advance`` makes it show."""
        self._pending = True

    def take(self) -> bool:
        """Tell whether a change waits to be shown, and leave it to whoever asks: another process moves the serial."""
        waits, self._pending = self._pending, False
        return waits

    def advance(self, now: float) -> bool:
        """Move if a change waits, and tell whether it did; *now* is Unix time. Called once a second.

        A clock that was set back does not stop the serial: it then counts by one (RFC 1982 wants it to rise).
        """
        if not self._pending:
            return False
        self.value = max(int(now), self.value + 1)
        self._pending = False
        return True
