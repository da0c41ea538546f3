"""Pod names ``<dashed address>.<namespace>.pod.<zone>`` (CoreDNS ``pods`` modes; CONTRACT section 6).

| mode       | a name below ``pod`` answers with its own address if …                  |
|------------|-------------------------------------------------------------------------|
| disabled   | never: it does not exist                                                |
| insecure   | the namespace exists and the label reads as an address                  |
| verified   | besides, a pod of that namespace has the address                        |
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from zones.names import Name
from zones.objects import address_from_dashed, dashed_address
from zones.records import address_rrtype, ANY, RRset
from zones.store import Store
from zones.zone import Found, NODATA, NoData, NXDOMAIN, NxDomain, Outcome, Reads


class PodMode(Enum):
    """The three modes; the value is what a user writes."""

    DISABLED = "disabled"
    INSECURE = "insecure"
    VERIFIED = "verified"


class Pods:
    """What lies at and below ``pod`` in a cluster zone."""

    def __init__(self, store: Store, mode: PodMode, *, ttl: int) -> None:
        self._store = store
        self._mode = mode
        self._ttl = ttl

    def lookup(self, qname: Name, labels: tuple[bytes, ...], qtype: int) -> Outcome:
        """Answer for *qname*; *labels* are those left of ``pod``."""
        if not labels:
            return NODATA
        if self._mode is PodMode.DISABLED:
            return NXDOMAIN
        if len(labels) > 2:
            return NXDOMAIN
        if not self._store.has_namespace(labels[-1]):
            # Read only where the name is not the namespace's own: that one's change names it.
            return NXDOMAIN if len(labels) == 1 else NxDomain(reads=(_parent_key(qname),))
        if len(labels) == 1:
            return NODATA
        reads: Reads = (_parent_key(qname),)  # a namespace's names here are not a list: they go when the namespace does
        address = address_from_dashed(labels[0])
        if address is None:
            return NxDomain(reads)
        is_canonical = dashed_address(address) == labels[0]
        if self._mode is PodMode.VERIFIED:
            if not is_canonical:
                reads = None  # another spelling of an address: a pod's change would not name it
            if not self._store.pod_has_address(labels[1], address):
                return NxDomain(reads)
        rtype = address_rrtype(address)
        if qtype in (rtype, ANY):
            return Found(RRset(qname, rtype, self._ttl, (address,)), reads=reads)
        return NoData(reads)

    def walk(self, origin: Name) -> Iterator[RRset]:
        """Yield the names that can be listed: those of verified pods, under *origin* (the zone's)."""
        if self._mode is not PodMode.VERIFIED:
            return
        for namespace, address in self._store.pod_addresses():
            labels = (dashed_address(address), namespace, b"pod")
            if origin.has_room_for(*labels):
                yield RRset(origin.prefixed(*labels), address_rrtype(address), self._ttl, (address,))


def _parent_key(name: Name) -> bytes:
    return name.key[1 + name.key[0] :]
