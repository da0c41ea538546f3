"""Reverse zones: PTR records of Services and endpoints (Kubernetes DNS spec 2.3.3, 2.4.3; CONTRACT section 7).

| address                                    | PTR                                            |
|--------------------------------------------|------------------------------------------------|
| a cluster IP of a Service                  | the Service's name, and no other               |
| of ready endpoints                         | one for each endpoint name, of every Service   |
| where Services are reached from outside    | ``<service>.<namespace>`` in the first external zone |
| anything else                              | the name does not exist                        |

A name short of a whole address exists if one below it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_network, IPv4Network, IPv6Network

from zones.apex import Apex
from zones.names import Name
from zones.records import ANY, NS, PTR, RRset, SOA
from zones.store import Store
from zones.zone import Found, NODATA, NoData, NXDOMAIN, NxDomain, Outcome

IN_ADDR_ARPA = Name.from_text("in-addr.arpa.")
IP6_ARPA = Name.from_text("ip6.arpa.")

_OCTETS = {b"%d" % octet: octet for octet in range(256)}
_NIBBLES = {b"%x" % nibble: nibble for nibble in range(16)}


class ReverseZone:
    """A zone at or below in-addr.arpa or ip6.arpa; targets are in the cluster zone of *apex*."""

    def __init__(self, origin: Name, store: Store, *, apex: Apex, ttl: int) -> None:
        if not (origin.is_under(IN_ADDR_ARPA) or origin.is_under(IP6_ARPA)):
            raise ValueError(f"{origin} is no reverse zone")
        self.origin = origin
        self._store = store
        self._apex = apex
        self._ttl = ttl

    @property
    def soa(self) -> RRset:
        """The SOA as of now; names and serial are those of the cluster zone."""
        return self._apex.soa_of(self.origin)

    def lookup(self, qname: Name, qtype: int) -> Outcome:
        """Say what the zone has for the question; *qname* is at or below the origin."""
        if qname == self.origin and qtype in (SOA, NS, ANY):
            return self._at_apex(qname, qtype)
        outcome = self._at_address(qname, qtype)
        # An apex always exists, also one that is a whole address, as a network such as 10.96.0.0/28 makes them.
        return NODATA if qname == self.origin and isinstance(outcome, NxDomain) else outcome

    def _at_address(self, qname: Name, qtype: int) -> Outcome:
        digits = digits_of(qname)
        if digits is None:
            return NXDOMAIN
        is_ipv4 = qname.is_under(IN_ADDR_ARPA)
        if len(digits) < (4 if is_ipv4 else 32):
            # What would change this is every address below: not stored.
            return NoData(reads=None) if self._exists_below(digits, is_ipv4=is_ipv4) else NxDomain(reads=None)
        targets = self.targets(bytes(digits) if is_ipv4 else bytes.fromhex("".join(f"{digit:x}" for digit in digits)))
        if not targets:
            return NXDOMAIN
        if qtype not in (PTR, ANY):
            return NODATA
        return Found(RRset(qname, PTR, self._ttl, tuple(target.wire for target in targets)))

    def targets(self, address: bytes) -> Sequence[Name]:
        """Return the names that *address* points to."""
        origin = self._apex.origin
        if (service := self._store.cluster_ip_owner(address)) is not None:
            owners: list[tuple[bytes, ...]] = [(service.name, service.namespace, b"svc")]
        else:
            owners = [
                (label, service.name, service.namespace, b"svc")
                for service, label in self._store.endpoint_owners(address)
            ]
        targets = [origin.prefixed(*labels) for labels in owners if origin.has_room_for(*labels)]
        outside = self._store.outside
        if targets or outside is None:
            return targets
        return [name for key in outside.owners(address) if (name := outside.reverse_name(key)) is not None]

    def walk(self) -> Iterator[RRset]:
        """Yield every RRset once, the SOA first."""
        yield self.soa
        yield self._apex.ns(self.origin)
        for address in self._store.addresses():
            owner = reverse_name(address)
            if owner.is_under(self.origin) and (targets := self.targets(address)):
                yield RRset(owner, PTR, self._ttl, tuple(target.wire for target in targets))

    def _at_apex(self, qname: Name, qtype: int) -> Outcome:
        if qtype == SOA:
            return Found(self._apex.soa_of(qname))
        return Found(self._apex.ns(qname), reads=None)

    def _exists_below(self, digits: Sequence[int], *, is_ipv4: bool) -> bool:
        if is_ipv4:
            low = bytes(digits).ljust(4, b"\0")
        else:
            low = bytes.fromhex("".join(f"{digit:x}" for digit in digits).ljust(32, "0"))
        shift = 8 * len(low) - len(digits) * (8 if is_ipv4 else 4)
        wanted = int.from_bytes(low, "big") >> shift
        for address in self._store.addresses_from(low):
            if int.from_bytes(address, "big") >> shift != wanted:
                return False
            if self.targets(address):
                return True
        return False


def digits_of(name: Name) -> Sequence[int] | None:
    """Return the octets (in-addr.arpa) or nibbles (ip6.arpa) that *name* spells, most significant first.

    None for what spells none: too many labels, an octet over 255, a leading zero (CONTRACT row 7.5).
    """
    labels = name.labels[-3::-1]
    table, most = (_OCTETS, 4) if name.labels[-2:] == IN_ADDR_ARPA.labels else (_NIBBLES, 32)
    if len(labels) > most:
        return None
    digits = [table.get(label, -1) for label in labels]
    return None if -1 in digits else digits


def reverse_name(address: bytes) -> Name:
    """Return the owner name of an address's PTR record (RFC 1035 section 3.5, RFC 3596 section 2.5)."""
    if len(address) == 4:
        return IN_ADDR_ARPA.prefixed(*(b"%d" % octet for octet in reversed(address)))
    return IP6_ARPA.prefixed(*(nibble.encode() for nibble in reversed(address.hex())))


def reverse_key(address: bytes) -> bytes:
    """Return ``reverse_name(address).key``, quicker."""
    if len(address) == 4:
        labels = [b"%d" % octet for octet in address[::-1]]
        return b"".join([bytes((len(label),)) + label for label in labels]) + IN_ADDR_ARPA.key
    return b"".join([b"\x01" + nibble.encode() for nibble in address.hex()[::-1]]) + IP6_ARPA.key


def reverse_zones_of(network: IPv4Network | IPv6Network) -> list[Name]:
    """Return the reverse zones that cover *network*, whose prefix is widened to octets or nibbles one by one.

    10.96.0.0/12 gives the sixteen zones 96.10.in-addr.arpa to 111.10.in-addr.arpa.
    """
    step = 8 if network.version == 4 else 4
    border = -(-network.prefixlen // step) * step
    zones = []
    for piece in network.subnets(new_prefix=border):
        whole = reverse_name(piece.network_address.packed)
        zones.append(Name(whole.labels[(network.max_prefixlen - border) // step :]))
    return zones


def reverse_zones_from_text(text: str) -> list[Name]:
    """Read ``10.96.0.0/12`` or ``10.in-addr.arpa``. Raises ValueError."""
    if "/" in text:
        return reverse_zones_of(ip_network(text))
    name = Name.from_text(text)
    if not (name.is_under(IN_ADDR_ARPA) or name.is_under(IP6_ARPA)) or digits_of(name) is None:
        raise ValueError(f"{text!r} is neither a network such as 10.96.0.0/12 nor a zone such as 96.10.in-addr.arpa")
    return [name]
