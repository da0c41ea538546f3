"""Which Services and slices hold an address: what reverse names are made from, and the addresses in order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator

from zones.objects import Endpoint, EndpointSlice, ObjectKey


class Addresses:
    """Cluster IPs and the addresses of endpoints, whose slices *slice_of* gives.

    *others* gives further addresses that have reverse names, and *is_other* tells whether one is among them.
    """

    def __init__(
        self,
        slice_of: Callable[[ObjectKey], EndpointSlice | None],
        others: Callable[[], Iterable[bytes]] = tuple,
        is_other: Callable[[bytes], bool] = lambda address: False,
    ) -> None:
        self._slice_of = slice_of
        self._services: dict[bytes, tuple[ObjectKey, ...]] = {}
        # Keys, not slices: of a slice that changes only what changes in it is touched here.
        self._slices: dict[bytes, tuple[ObjectKey, ...]] = {}
        self._others = others
        self._is_other = is_other
        self._sorted: dict[int, list[bytes]] | None = None  # kept only once someone asks for the order

    def copy(
        self,
        slice_of: Callable[[ObjectKey], EndpointSlice | None],
        others: Callable[[], Iterable[bytes]],
        is_other: Callable[[bytes], bool],
    ) -> Addresses:
        """Return the same as of now, untouched by later events."""
        other = Addresses(slice_of, others, is_other)
        other._services = dict(self._services)
        other._slices = dict(self._slices)
        return other

    def services(self, address: bytes) -> tuple[ObjectKey, ...]:
        """Return the Services with that cluster IP, in order: one, but for manifests."""
        return self._services.get(address, ())

    def slices(self, address: bytes) -> list[EndpointSlice]:
        """Return the slices with an endpoint at that address."""
        some = map(self._slice_of, self._slices.get(address, ()))
        return [piece for piece in some if piece is not None]

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

    def replace_slice(
        self,
        old: EndpointSlice | None,
        new: EndpointSlice | None,
        before: Iterable[Endpoint],
        after: Iterable[Endpoint],
    ) -> None:
        """Note the endpoints of *new* in place of those of *old*, which are of one slice; their difference is *before*
        and *after*."""
        index = self._slices
        gone, come = {endpoint.address for endpoint in before}, {endpoint.address for endpoint in after}
        if new is not None and gone:
            gone.difference_update([endpoint.address for endpoint in new.endpoints])
        piece = new or old
        assert piece is not None  # one of them always is
        key = piece.key
        for address in gone:
            left = tuple(other for other in index.get(address, ()) if other != key)
            if left:
                index[address] = left
            elif index.pop(address, None) is not None:
                self.drop(address)
        alone = self._alone(new, key)  # one tuple, shared by all addresses of the slice
        for address in come:
            holders = index.get(address)
            if holders is None:
                index[address] = alone
                self.note(address)
            elif key not in holders:
                index[address] = (*holders, key)

    def _alone(self, new: EndpointSlice | None, key: ObjectKey) -> tuple[ObjectKey, ...]:
        for endpoint in new.endpoints[:8] if new is not None else ():
            holders = self._slices.get(endpoint.address)
            if holders is not None and len(holders) == 1 and holders[0] == key:
                return holders
        return (key,)

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
