"""Which Services and slices hold an address: what reverse names are made from, and the addresses in order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator

from zones.objects import EndpointSlice, ObjectKey


class Addresses:
    """Cluster IPs and the addresses of endpoints. *others* gives further addresses that have reverse names, and
    *is_other* tells whether one is among them."""

    def __init__(
        self,
        others: Callable[[], Iterable[bytes]] = tuple,
        is_other: Callable[[bytes], bool] = lambda address: False,
    ) -> None:
        self._services: dict[bytes, tuple[ObjectKey, ...]] = {}
        self._slices: dict[bytes, tuple[EndpointSlice, ...]] = {}
        self._others = others
        self._is_other = is_other
        self._sorted: dict[int, list[bytes]] | None = None  # kept only once someone asks for the order

    def copy(self, others: Callable[[], Iterable[bytes]], is_other: Callable[[bytes], bool]) -> Addresses:
        """Return the same as of now, untouched by later events."""
        other = Addresses(others, is_other)
        other._services = dict(self._services)
        other._slices = dict(self._slices)
        return other

    def services(self, address: bytes) -> tuple[ObjectKey, ...]:
        """Return the Services with that cluster IP, in order: one, but for manifests."""
        return self._services.get(address, ())

    def slices(self, address: bytes) -> tuple[EndpointSlice, ...]:
        """Return the slices with an endpoint at that address."""
        return self._slices.get(address, ())

    def all(self) -> Iterator[bytes]:
        """Yield every address, IPv4 first, in order."""
        known = self._in_order()
        yield from known[4]
        yield from known[16]

    def at_least(self, low: bytes) -> Iterator[bytes]:
        """Yield the addresses of *low*'s family that are not below it, in order."""
        some = self._in_order()[len(low)]
        for at in range(bisect_left(some, low), len(some)):
            yield some[at]

    # -- events ---------------------------------------------------------------------------------------------------

    def add_service(self, address: bytes, key: ObjectKey) -> None:
        """Note a cluster IP of the Service *key*."""
        some = {*self._services.get(address, ()), key}
        self._services[address] = tuple(sorted(some, key=lambda key: (key.namespace, key.name)))
        self.note(address)

    def remove_service(self, address: bytes, key: ObjectKey) -> None:
        """Forget it."""
        left = tuple(other for other in self._services[address] if other != key)
        if left:
            self._services[address] = left
        else:
            del self._services[address]
            self.drop(address)

    def replace_slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        """Note the endpoints of *new* in place of those of *old*."""
        index = self._slices
        alone = (new,) if new is not None else ()  # one tuple, shared by all addresses of the slice
        kept = {endpoint.address for endpoint in new.endpoints} if new is not None else set()
        for endpoint in old.endpoints if old is not None else ():
            address = endpoint.address
            if address in kept or (holders := index.get(address)) is None:
                continue
            left = tuple(other for other in holders if other is not old)
            if left:
                index[address] = left
            else:
                del index[address]
                self.drop(address)
        for address in kept:
            holders = index.get(address)
            if holders is None:
                index[address] = alone
                self.note(address)
            elif len(holders) == 1 and holders[0] is old:
                index[address] = alone
            else:
                index[address] = (*(other for other in holders if other is not old), *alone)

    def note(self, address: bytes) -> None:
        """Take an address into the order."""
        if self._sorted is not None:
            some = self._sorted[len(address)]
            at = bisect_left(some, address)
            if at == len(some) or some[at] != address:
                insort(some, address)

    def drop(self, address: bytes) -> None:
        """Take an address out of the order, unless something else still holds it."""
        if self._sorted is None or address in self._services or address in self._slices or self._is_other(address):
            return
        some = self._sorted[len(address)]
        at = bisect_left(some, address)
        if at < len(some) and some[at] == address:
            del some[at]

    def _in_order(self) -> dict[int, list[bytes]]:
        if self._sorted is None:
            known = sorted({*self._services, *self._slices, *self._others()})
            self._sorted = {size: [address for address in known if len(address) == size] for size in (4, 16)}
        return self._sorted
