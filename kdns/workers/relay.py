"""The objects as workers are told of them: kept in the form that they are sent in, so a new worker has them at once.

What is the same as before is not sent again, so a whole list that the API server has to repeat costs the workers
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import cast

from kdns.control.framing import encode, LENGTH_OCTETS
from kdns.control.sink import Sink
from kdns.workers.wire import Completed, Deleted, read_order, Restored
from zones.objects import Kind, kind_of, Object, ObjectKey, Service


class Relay(Sink):
    """Takes objects, and gives what is new of them to *tell*, in wire form."""

    def __init__(self, kinds: Iterable[Kind], *, tell: Callable[[bytes], None], on_synced: Callable[[], None]) -> None:
        super().__init__(kinds, on_synced=on_synced)
        self._tell = tell
        self._objects: dict[Kind, dict[bytes, bytes]] = {kind: {} for kind in Kind}

    def apply(
        self, puts: Iterable[Object], deletes: Iterable[tuple[Kind, ObjectKey]] = (), *, is_first: bool = False
    ) -> None:
        """Keep and tell."""
        news: list[bytes] = []
        for kind, key in deletes:
            self.events += 1
            if self._objects[kind].pop(_text(key), None) is not None:
                news.append(encode(Deleted(kind, key)))
        for new in puts:
            self.events += 1
            octets, some, text = encode(new), self._objects[kind_of(new)], _text(new.key)
            if some.get(text) != octets:
                some[text] = octets
                news.append(octets)
        if news:
            self._tell(b"".join(news))

    def keys(self, kind: Kind) -> list[ObjectKey]:
        """List the objects of one kind."""
        return [_key(text) for text in self._objects[kind]]

    def count(self, kind: Kind) -> int:
        """Count the objects of one kind."""
        return len(self._objects[kind])

    def get(self, kind: Kind, key: ObjectKey) -> Object | None:
        """Return an object."""
        octets = self._objects[kind].get(_text(key))
        found = read_order(octets[LENGTH_OCTETS:]) if octets is not None else None
        return cast("Object | None", found)

    def service(self, namespace: bytes, name: bytes) -> Service | None:
        """Return a Service."""
        found = self.get(Kind.SERVICE, ObjectKey(namespace, name))
        return found if isinstance(found, Service) else None

    def completed(self, kind: Kind) -> None:
        """Tell of it."""
        self._tell(encode(Completed(kind)))

    def restored(self) -> None:
        """Tell of it."""
        self._tell(encode(Restored()))

    def everything(self) -> Iterator[bytes]:
        """Yield what a new worker must be told, kind by kind."""
        for kind, some in self._objects.items():
            yield from some.values()
            if self.is_complete(kind):
                yield encode(Completed(kind))
        if self.is_stale:
            yield encode(Restored())


def _text(key: ObjectKey) -> bytes:
    return key.namespace + b"/" + key.name


def _key(text: bytes) -> ObjectKey:
    namespace, _, name = text.partition(b"/")
    return ObjectKey(namespace, name)
