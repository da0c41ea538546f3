"""EndpointSlices by the Service that they belong to, and by their own names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeVar

from zones.objects import Endpoint, EndpointSlice, ObjectKey

S = TypeVar("S", bound=EndpointSlice)


def difference(
    old: EndpointSlice | None, new: EndpointSlice | None
) -> tuple[Collection[Endpoint], Collection[Endpoint]]:
    """Return at least the endpoints of *old*, and those of *new*, that the other has not.

    An event replaces one of a hundred, or has one gone and another at the end: what is equal before and behind that is
    skipped, and most of it is the same object (``zones.endpoints``).
    """
    before = old.endpoints if old is not None else ()
    after = new.endpoints if new is not None else ()
    start = 0
    for one, other in zip(before, after, strict=False):
        if one is not other and one != other:
            break
        start += 1
    end = 0
    for one, other in zip(reversed(before[start:]), reversed(after[start:]), strict=False):
        if one is not other and one != other:
            break
        end += 1
    gone, come = before[start : len(before) - end], after[start : len(after) - end]
    if len(gone) > 1 and len(come) > 1:
        return {*gone}.difference(come), {*come}.difference(gone)
    return gone, come


class Slices(Generic[S]):
    """A table of slices."""

    def __init__(self) -> None:
        self._by_service: dict[bytes, dict[bytes, dict[bytes, S]]] = {}
        self._by_key: dict[ObjectKey, S] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def copy(self) -> Slices[S]:
        """Return the same as of now, untouched by later changes."""
        other: Slices[S] = Slices()
        other._by_service = {
            namespace: {service: dict(slices) for service, slices in some.items()}
            for namespace, some in self._by_service.items()
        }
        other._by_key = dict(self._by_key)
        return other

    def get(self, key: ObjectKey) -> S | None:
        """Return the slice of that name."""
        return self._by_key.get(key)

    def keys(self) -> list[ObjectKey]:
        """List the slices."""
        return list(self._by_key)

    def of(self, namespace: bytes, service: bytes) -> Collection[S]:
        """Return the slices of a Service."""
        some = self._by_service.get(namespace)
        slices = some.get(service) if some is not None else None
        return slices.values() if slices is not None else ()

    def put(self, new: S) -> None:
        """Add a slice, or replace the one of its name, which is of the same Service."""
        self._by_key[new.key] = new
        self._by_service.setdefault(new.namespace, {}).setdefault(new.service, {})[new.name] = new

    def remove(self, old: S) -> None:
        """Take out a slice that is there."""
        del self._by_key[old.key]
        services = self._by_service[old.namespace]
        del services[old.service][old.name]
        if not services[old.service]:
            del services[old.service]
            if not services:
                del self._by_service[old.namespace]
