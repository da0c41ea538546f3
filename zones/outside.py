"""Names of the cluster for the outside world: who claims which, and what each event changes.

| claimed by                       | the name                                | leads to                          |
|----------------------------------|-----------------------------------------|-----------------------------------|
| a Service with addresses outside | ``<service>.<namespace>.<zone>``        | its externalIPs and load balancer |
| an Ingress                       | the hosts of its rules                  | the addresses in its status       |
| a Gateway                        | the hostnames of its listeners          | the addresses in its status       |
| a route, of each Gateway that it | its hostnames, as far as the listeners  | the addresses of that Gateway     |
| is attached to                   | take them; without some, the listeners' |                                   |

Of several that claim one name the oldest has it. The others are in conflict with it, unless they lead to the same
place: routes that share a hostname on one Gateway are the ordinary case. Objects in namespaces that are not shown claim
nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from zones.names import label_octets, Name
from zones.objects import (
    Claimant,
    ExposedService,
    Gateway,
    Ingress,
    Kind,
    Listener,
    NO_TARGETS,
    ObjectKey,
    Port,
    Route,
    Targets,
)

WILDCARD = (b"*",)
_UNKNOWN_AGE = "~"
"""Sorts after any time: an object whose age is not known is taken for the newest."""

Id = tuple[Kind, ObjectKey]


class Claim(msgspec.Struct, frozen=True):
    """A claim on a name; of several the first by ``rank``, which is the oldest, has it. ``ports`` are a Service's."""

    created: str
    kind: str
    namespace: bytes
    name: bytes
    targets: Targets
    ports: tuple[Port, ...] = ()

    @property
    def rank(self) -> tuple[str, str, bytes, bytes]:
        """Its place among others: by age, then by what makes the order the same everywhere."""
        return self.created, self.kind, self.namespace, self.name

    @property
    def told(self) -> str:
        """The same for those who come after it, with its age, as far as it is known."""
        return self.text if self.created == _UNKNOWN_AGE else f"{self.text} (of {self.created})"

    @property
    def text(self) -> str:
        """The object that claims, for a person."""
        return f"{self.kind} {self.namespace.decode()}/{self.name.decode()}"


class Outside:
    """Claims on names at and below *origins*. *is_shown* tells of a namespace whether it is.

    Events return the keys of the owner names that they change.
    """

    def __init__(self, origins: Sequence[Name], is_shown: Callable[[bytes], bool]) -> None:
        self.origins = tuple(origins)
        self._is_shown = is_shown
        self._objects: dict[Id, Claimant | ExposedService] = {}
        self._in_namespace: defaultdict[bytes, set[Id]] = defaultdict(set)
        self._routes_of: defaultdict[ObjectKey, set[Id]] = defaultdict(set)
        self._claimed: dict[Id, dict[bytes, Claim]] = {}
        self._claims: dict[bytes, list[Claim]] = {}
        self._below: dict[bytes, int] = {}
        self._owners: dict[bytes, tuple[ObjectKey, ...]] = {}
        self._conflicts: dict[bytes, tuple[Claim, ...]] = {}
        self._unsettled: set[bytes] = set()

    def copy(self, is_shown: Callable[[bytes], bool]) -> Outside:
        """Return what can be looked up as of now, untouched by later events."""
        other = Outside(self.origins, is_shown)
        other._claims = {key: list(claims) for key, claims in self._claims.items()}
        other._below = dict(self._below)
        other._owners = dict(self._owners)
        return other

    # -- events ---------------------------------------------------------------------------------------------------

    def put(self, kind: Kind, new: Claimant | ExposedService) -> set[bytes]:
        """Add or replace an object."""
        ident = kind, new.key
        old = self._objects.get(ident)
        if old == new:
            return set()
        self._objects[ident] = new
        self._in_namespace[new.namespace].add(ident)
        self._link(ident, old, new)
        return self._claim_with_routes(ident)

    def delete(self, kind: Kind, key: ObjectKey) -> set[bytes]:
        """Remove an object; one that is not there changes nothing."""
        ident = kind, key
        old = self._objects.pop(ident, None)
        if old is None:
            return set()
        some = self._in_namespace[key.namespace]
        some.discard(ident)
        if not some:
            del self._in_namespace[key.namespace]
        self._link(ident, old, None)
        return self._claim_with_routes(ident)

    def namespace_changed(self, namespace: bytes) -> set[bytes]:
        """Take notice that a namespace is shown now, or not any more."""
        changed = {label_octets((namespace,)) + origin.key for origin in self.origins}
        for ident in list(self._in_namespace.get(namespace, ())):
            changed |= self._claim(ident)
        return changed

    def get(self, kind: Kind, key: ObjectKey) -> Claimant | ExposedService | None:
        """Return an object, shown or not."""
        return self._objects.get((kind, key))

    def keys(self, kind: Kind) -> list[ObjectKey]:
        """List the objects of one kind, shown or not."""
        return [key for found, key in self._objects if found is kind]

    def _link(self, ident: Id, old: Claimant | ExposedService | None, new: Claimant | ExposedService | None) -> None:
        for parent in old.parents if isinstance(old, Route) else ():
            routes = self._routes_of[parent.gateway]
            routes.discard(ident)
            if not routes:
                del self._routes_of[parent.gateway]
        for parent in new.parents if isinstance(new, Route) else ():
            self._routes_of[parent.gateway].add(ident)

    def _claim_with_routes(self, ident: Id) -> set[bytes]:
        changed = self._claim(ident)
        if ident[0] is Kind.GATEWAY:
            for route in list(self._routes_of.get(ident[1], ())):
                changed |= self._claim(route)
        return changed

    def _claim(self, ident: Id) -> set[bytes]:
        """Bring what an object claims up to date."""
        old = self._claimed.get(ident, {})
        thing = self._objects.get(ident)
        new = self._claims_of(thing, ident[0]) if thing is not None and self._is_shown(thing.namespace) else {}
        if old == new:
            return set()
        if new:
            self._claimed[ident] = new
        else:
            self._claimed.pop(ident, None)
        if ident[0] is Kind.SERVICE:
            self._own(ident[1], old, new)
        changed: set[bytes] = set()
        for key in old.keys() | new.keys():
            before, after = old.get(key), new.get(key)
            if before != after:
                changed |= self._replace(key, before, after)
        return changed

    def _replace(self, key: bytes, before: Claim | None, after: Claim | None) -> set[bytes]:
        claims = self._claims.setdefault(key, [])
        was = claims[0] if claims else None
        if before is not None:
            del claims[bisect_left(claims, before.rank, key=_rank)]
        if after is not None:
            claims.insert(bisect_left(claims, after.rank, key=_rank), after)
        self._unsettled.add(key)
        now = claims[0] if claims else None
        if not claims:
            del self._claims[key]
        if was == now:
            return set()
        changed = {key}
        for claim in (was, now):
            for port in claim.ports if claim is not None else ():
                if port.name:
                    protocol = label_octets((b"_" + port.protocol,)) + key
                    changed |= {protocol, label_octets((b"_" + port.name,)) + protocol}
        if was is None or now is None:
            changed |= self._count(key, 1 if was is None else -1)
        return changed

    def _count(self, key: bytes, step: int) -> set[bytes]:
        """Note a name that began or ceased to be; return those above it that did so with it."""
        changed = set()
        origin = self.origin_of(Name.trusted(key)).key
        while key != origin:
            count = self._below.get(key, 0) + step
            if count:
                self._below[key] = count
            else:
                del self._below[key]
            if count == 0 or (count == 1 and step == 1):
                changed.add(key)
            key = key[1 + key[0] :]
        return changed

    def _own(self, key: ObjectKey, old: dict[bytes, Claim], new: dict[bytes, Claim]) -> None:
        for claims, is_new in ((old, False), (new, True)):
            for address in next(iter(claims.values())).targets.addresses if claims else ():
                owners = {*self._owners.get(address, ())} - {key}
                if is_new:
                    owners.add(key)
                if owners:
                    self._owners[address] = tuple(sorted(owners, key=lambda key: (key.namespace, key.name)))
                else:
                    del self._owners[address]

    # -- what an object claims ------------------------------------------------------------------------------------

    def _claims_of(self, thing: Claimant | ExposedService, kind: Kind) -> dict[bytes, Claim]:
        hostnames: Iterable[tuple[Name, Targets]]
        ports: tuple[Port, ...] = ()
        match thing:
            case ExposedService():
                labels = (thing.name, thing.namespace)
                names = [origin.prefixed(*labels) for origin in self.origins if origin.has_room_for(*labels)]
                hostnames = [(name, thing.outside) for name in names]
                ports = thing.ports
            case Ingress():
                hostnames = [(name, thing.targets) for name in thing.hostnames]
            case Gateway():
                hostnames = [(listener.hostname, thing.targets) for listener in thing.listeners if listener.hostname]
            case Route():
                hostnames = self._of_route(thing)
        targets: dict[bytes, Targets] = {}
        for name, some in hostnames:
            if some and name not in self.origins and any(map(name.is_under, self.origins)):
                before = targets.get(name.key, NO_TARGETS)
                targets[name.key] = some if not before else _joined(before, some)
        head = (thing.created or _UNKNOWN_AGE, kind.value, thing.namespace, thing.name)
        return {key: Claim(*head, some, ports) for key, some in targets.items()}

    def _of_route(self, route: Route) -> Iterator[tuple[Name, Targets]]:
        for parent in route.parents:
            gateway = self._objects.get((Kind.GATEWAY, parent.gateway))
            if not isinstance(gateway, Gateway):
                continue
            for listener in gateway.listeners:
                if parent.section in (b"", listener.name) and parent.port in (0, listener.port):
                    for name in _shared_hostnames(route, listener):
                        yield name, gateway.targets

    @property
    def conflicts(self) -> dict[bytes, tuple[Claim, ...]]:
        """By the key of a name: who has it, and after it those who claim it and lead elsewhere."""
        for key in self._unsettled:
            claims = self._claims.get(key, [])
            others = [claim for claim in claims[1:] if claim.targets != claims[0].targets]
            if others:
                self._conflicts[key] = (claims[0], *others)
            else:
                self._conflicts.pop(key, None)
        self._unsettled.clear()
        return self._conflicts

    # -- what zones ask -------------------------------------------------------------------------------------------

    def claim(self, key: bytes) -> Claim | None:
        """Return the claim that has the name."""
        claims = self._claims.get(key)
        return claims[0] if claims else None

    def exists(self, key: bytes) -> bool:
        """Tell whether the name, or one below it, is claimed."""
        return key in self._below

    def names(self, origin: Name) -> Iterator[tuple[Name, Claim]]:
        """Yield the names claimed in the zone *origin*, in canonical order, with the claims that have them."""
        for name in sorted(Name.trusted(key) for key in self._claims):
            if name.is_under(origin) and self.origin_of(name) == origin:
                yield name, self._claims[name.key][0]

    def origin_of(self, name: Name) -> Name:
        """Return the deepest zone that *name* lies in, which lies in one."""
        return max((origin for origin in self.origins if name.is_under(origin)), key=lambda origin: len(origin.labels))

    def owners(self, address: bytes) -> tuple[ObjectKey, ...]:
        """Return the shown Services that are reached at *address*, in order."""
        return self._owners.get(address, ())

    def addresses_in(self, namespace: bytes) -> frozenset[bytes]:
        """Return the addresses that have owners in a namespace."""
        some = self._in_namespace.get(namespace, ())
        return frozenset().union(*(self.addresses_of(key) for kind, key in some if kind is Kind.SERVICE))

    def addresses(self) -> Iterable[bytes]:
        """Return the addresses that have owners."""
        return self._owners.keys()

    def addresses_of(self, key: ObjectKey) -> frozenset[bytes]:
        """Return the addresses that a shown Service is reached at."""
        claims = self._claimed.get((Kind.SERVICE, key))
        return frozenset(next(iter(claims.values())).targets.addresses) if claims else frozenset()

    def reverse_name(self, key: ObjectKey) -> Name | None:
        """Return the name of a Service in the first zone, None where it would be too long."""
        labels = (key.name, key.namespace)
        return self.origins[0].prefixed(*labels) if self.origins[0].has_room_for(*labels) else None


def _rank(claim: Claim) -> tuple[str, str, bytes, bytes]:
    return claim.rank


def _joined(one: Targets, other: Targets) -> Targets:
    return Targets(
        tuple(dict.fromkeys((*one.addresses, *other.addresses))), tuple(dict.fromkeys((*one.aliases, *other.aliases)))
    )


def _shared_hostnames(route: Route, listener: Listener) -> list[Name]:
    """Return the hostnames of *route* that *listener* takes (Gateway API, HTTPRoute hostnames)."""
    if listener.hostname is None:
        return list(route.hostnames)
    if not route.hostnames:
        return [listener.hostname]
    pairs = (_intersection(hostname, listener.hostname) for hostname in route.hostnames)
    return [name for name in pairs if name is not None]


def _intersection(one: Name, other: Name) -> Name | None:
    """Return the more specific of two hostnames that match each other; a wildcard takes any number of labels."""
    if one == other:
        return one
    for wide, narrow in ((one, other), (other, one)):
        if wide.labels[:1] == WILDCARD and narrow.parent().is_under(wide.parent()):
            return narrow
    return None
