"""Where objects go: into the store, whether it is complete, and what is wrong with where they come from.

Everything here runs in the trio thread, one call between two checkpoints, so a query never sees half a change.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from zones.change import Change, NO_CHANGE
from zones.objects import Kind, Object, ObjectKey, Service
from zones.store import Store

log = logging.getLogger(__name__)


class Sink(ABC):
    """Takes objects; *kinds* must all be complete before it is synced. *on_synced* is told once that it is."""

    def __init__(self, kinds: Iterable[Kind], *, on_synced: Callable[[], None]) -> None:
        self.kinds = frozenset(kinds)
        self.troubles: dict[str, str] = {}
        """What is wrong now, by where: shown by /ready."""
        self._sorts: dict[str, str] = {}
        self._final: set[str] = set()
        self.events = 0
        self.bad_objects = 0
        self._complete: set[Kind] = set()
        self._is_restored = False
        self._on_synced = on_synced

    @abstractmethod
    def apply(
        self, puts: Iterable[Object], deletes: Iterable[tuple[Kind, ObjectKey]] = (), *, is_first: bool = False
    ) -> None:
        """Put and delete in one step; *is_first* says that all of it is of a first list."""

    @abstractmethod
    def keys(self, kind: Kind) -> list[ObjectKey]:
        """List the objects of one kind."""

    @abstractmethod
    def count(self, kind: Kind) -> int:
        """Count the objects of one kind."""

    @abstractmethod
    def get(self, kind: Kind, key: ObjectKey) -> Object | None:
        """Return an object, shown or not."""

    @abstractmethod
    def service(self, namespace: bytes, name: bytes) -> Service | None:
        """Return a Service."""

    @abstractmethod
    def completed(self, kind: Kind) -> None:
        """Take notice that everything of *kind* is here for the first time."""

    @abstractmethod
    def restored(self) -> None:
        """Take notice that everything of an earlier life is here."""

    def restore(self, objects: Iterable[Object]) -> None:
        """Put what there was in an earlier life of the program: to be answered from, as stale, until it is synced."""
        try:
            self.apply(objects, is_first=True)
        except Exception:  # what was read so far cannot be believed either
            for kind in self.kinds:
                self.apply((), [(kind, key) for key in self.keys(kind)])
            raise
        self._is_restored = True
        self.restored()

    @property
    def is_stale(self) -> bool:
        """Whether something of an earlier life may still be here that is not so any more."""
        return self._is_restored and not self.is_synced

    def is_loading(self, kind: Kind) -> bool:
        """Tell whether nothing of *kind* has been answered from yet."""
        return not self._is_restored and kind not in self._complete

    @property
    def is_synced(self) -> bool:
        """Whether every kind was complete once; what comes later are changes."""
        return self._complete >= self.kinds

    def missing(self) -> frozenset[Kind]:
        """Return the kinds that are not complete yet."""
        return self.kinds - self._complete

    def keep_only(self, kind: Kind, keys: set[ObjectKey]) -> None:
        """Delete the objects of *kind* that a complete list did not have."""
        self.apply((), [(kind, key) for key in self.keys(kind) if key not in keys])

    def is_complete(self, kind: Kind) -> bool:
        """Tell whether everything of *kind* was here once."""
        return kind in self._complete

    def complete(self, kind: Kind) -> None:
        """Note that everything of *kind* has been applied."""
        if kind in self._complete:
            return
        self._complete.add(kind)
        self.completed(kind)
        if self.is_synced:
            self._on_synced()

    def trouble(self, where: str, message: str | None, *, sort: str = "", is_final: bool = False) -> None:
        """Note what is wrong with *where*, or with None that it is well again.

        Logs the first of a row of troubles of one *sort*, not each. One that *is_final* does not go by waiting alone.
        """
        self._final.discard(where)
        if is_final:
            self._final.add(where)
        before = self._sorts.pop(where, None)
        if message is None:
            if before is not None:
                del self.troubles[where]
                log.info("%s: well again", where)
            return
        self.troubles[where] = message
        self._sorts[where] = sort
        if before != sort:
            log.warning("%s: %s", where, message)

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing has come at all, and no kind is worth waiting for."""
        return not self.events and not self._complete and len(self._final) >= len(self.kinds)

    def bad_object(self, where: str, message: str) -> None:
        """Note an object that cannot be served; the last good one of its name stays."""
        self.bad_objects += 1
        log.warning("%s: %s; skipped", where, message)


class StoreSink(Sink):
    """Takes objects for *store*. *on_change* is told of what became visible, *on_complete* once of each kind,
    *on_restored* once that it has what there was in an earlier life."""

    def __init__(
        self,
        store: Store,
        kinds: Iterable[Kind],
        *,
        on_change: Callable[[Change], None],
        on_complete: Callable[[Kind], None] = lambda kind: None,
        on_restored: Callable[[], None] = lambda: None,
        on_synced: Callable[[], None],
    ) -> None:
        super().__init__(kinds, on_synced=on_synced)
        self.store = store
        self._on_change = on_change
        self._on_complete = on_complete
        self._on_restored = on_restored

    def apply(
        self, puts: Iterable[Object], deletes: Iterable[tuple[Kind, ObjectKey]] = (), *, is_first: bool = False
    ) -> None:
        """Put and delete in one step."""
        change = NO_CHANGE
        self.store.is_loading = is_first
        for kind, key in deletes:
            self.events += 1
            change = _joined(change, self.store.delete(kind, key))
        for new in puts:
            self.events += 1
            change = _joined(change, self.store.put(new))
        if change:
            self._on_change(change)

    def keys(self, kind: Kind) -> list[ObjectKey]:
        """List the objects of one kind, shown or not."""
        return self.store.keys(kind)

    def count(self, kind: Kind) -> int:
        """Count the objects of one kind, shown or not."""
        return self.store.count(kind)

    def get(self, kind: Kind, key: ObjectKey) -> Object | None:
        """Return an object, shown or not."""
        return self.store.get(kind, key)

    def service(self, namespace: bytes, name: bytes) -> Service | None:
        """Return a Service that is shown."""
        return self.store.service(namespace, name)

    def completed(self, kind: Kind) -> None:
        """Tell of it."""
        self._on_complete(kind)

    def restored(self) -> None:
        """Tell of it."""
        self._on_restored()


def _joined(one: Change, other: Change) -> Change:
    return other if not one else one if not other else one | other
