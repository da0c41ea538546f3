"""Services imported from other clusters and the slices of their endpoints (KEP-1645), with what each event changes.

An import or a slice in a namespace that does not exist here is kept and not shown; which namespaces exist the store
knows. A slice whose import does not exist shows nothing until it does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from zones.objects import Endpoint, ImportedSlice, ObjectKey, ServiceImport
from zones.owners import imported_endpoint_names, service_names
from zones.slices import Slices

NOTHING: frozenset[bytes] = frozenset()
"""No owner name."""


class Imports:
    """ServiceImports and imported slices. Events return the owner names, relative to a clusterset domain, that they
    change where the namespace is shown. With *ignore_empty* a ClusterSetIP import without ready endpoints does not
    exist (CONTRACT section 10)."""

    def __init__(self, *, ignore_empty: bool = False) -> None:
        self._ignore_empty = ignore_empty
        self._imports: dict[bytes, dict[bytes, ServiceImport]] = {}
        self._slices: Slices[ImportedSlice] = Slices()

    def copy(self) -> Imports:
        """Return the same as of now, untouched by later events."""
        other = Imports(ignore_empty=self._ignore_empty)
        other._imports = {namespace: dict(some) for namespace, some in self._imports.items()}
        other._slices = self._slices.copy()
        return other

    # -- events ---------------------------------------------------------------------------------------------------

    def put_import(self, new: ServiceImport) -> frozenset[bytes]:
        """Add or replace an import."""
        some = self._imports.setdefault(new.namespace, {})
        old = some.get(new.name)
        if old == new:
            return NOTHING
        some[new.name] = new
        return self._import_change(old, new)

    def delete_import(self, key: ObjectKey) -> frozenset[bytes]:
        """Remove an import."""
        some = self._imports.get(key.namespace, {})
        old = some.pop(key.name, None)
        if old is None:
            return NOTHING
        if not some:
            del self._imports[key.namespace]
        return self._import_change(old, None)

    def put_slice(self, new: ImportedSlice) -> frozenset[bytes]:
        """Add or replace a slice."""
        old = self._slices.get(new.key)
        if old == new:
            return NOTHING
        if old is not None and old.service != new.service:
            return self.delete_slice(new.key) | self.put_slice(new)
        was_empty = self._is_empty(new)
        self._slices.put(new)
        return self._slice_change(old, new, was_empty=was_empty)

    def delete_slice(self, key: ObjectKey) -> frozenset[bytes]:
        """Remove a slice."""
        old = self._slices.get(key)
        if old is None:
            return NOTHING
        was_empty = self._is_empty(old)
        self._slices.remove(old)
        return self._slice_change(old, None, was_empty=was_empty)

    def names_in(self, namespace: bytes) -> frozenset[bytes]:
        """Return every owner name in a namespace: what stands or falls with it."""
        names: set[bytes] = set()
        for service in self._imports.get(namespace, {}).values():
            names |= service_names(service, service.ports) | self._endpoint_names(service)
        return frozenset(names)

    def _import_change(self, old: ServiceImport | None, new: ServiceImport | None) -> frozenset[bytes]:
        service = new or old
        assert service is not None  # one of them always is; callers are above
        names = service_names(service, [*(old.ports if old else ()), *(new.ports if new else ())])
        if old is None or new is None or old.is_headless != new.is_headless:
            names |= self._endpoint_names(service)
        return frozenset(names)

    def _endpoint_names(self, service: ServiceImport) -> set[bytes]:
        names: set[bytes] = set()
        for piece in self.slices_of(service):
            names |= service_names(service, piece.ports)
            for endpoint in piece.endpoints:
                names.update(imported_endpoint_names(service, piece.cluster, endpoint.label))
        return names

    def _slice_change(
        self, old: ImportedSlice | None, new: ImportedSlice | None, *, was_empty: bool
    ) -> frozenset[bytes]:
        piece = new or old
        assert piece is not None  # one of them always is; callers are above
        service = self._imports.get(piece.namespace, {}).get(piece.service)
        if service is None:
            return NOTHING
        if not service.is_headless:
            is_same = was_empty == self._is_empty(piece)
            return NOTHING if is_same else frozenset(service_names(service, service.ports))
        names: set[bytes] = set()
        changed = _visible(old) ^ _visible(new)
        if changed or (old.ports if old else ()) != (new.ports if new else ()):
            names |= service_names(service, [*(old.ports if old else ()), *(new.ports if new else ())])
        for cluster, hostname, address in changed:
            names.update(imported_endpoint_names(service, cluster, Endpoint(address, hostname).label))
        return frozenset(names)

    def _is_empty(self, piece: ImportedSlice) -> bool:
        if not self._ignore_empty:
            return False
        service = self._imports.get(piece.namespace, {}).get(piece.service)
        return service is None or not self.has_ready_endpoint(service)

    # -- what the zone asks ---------------------------------------------------------------------------------------

    def get(self, namespace: bytes, name: bytes) -> ServiceImport | None:
        """Return an import that exists, whether or not its namespace is shown."""
        service = self._imports.get(namespace, {}).get(name)
        if service is None or service.is_headless or not self._ignore_empty or self.has_ready_endpoint(service):
            return service
        return None

    def of_namespace(self, namespace: bytes) -> Iterator[ServiceImport]:
        """Yield the imports of a namespace in order."""
        for name in sorted(self._imports.get(namespace, {})):
            if (service := self.get(namespace, name)) is not None:
                yield service

    def slices_of(self, service: ServiceImport) -> Collection[ImportedSlice]:
        """Return the slices of an import."""
        return self._slices.of(service.namespace, service.name)

    def has_ready_endpoint(self, service: ServiceImport) -> bool:
        """Tell whether at least one endpoint in any cluster answers."""
        return any(endpoint.is_ready for piece in self.slices_of(service) for endpoint in piece.endpoints)

    def get_import(self, key: ObjectKey) -> ServiceImport | None:
        """Return an import, shown or not."""
        return self._imports.get(key.namespace, {}).get(key.name)

    def get_slice(self, key: ObjectKey) -> ImportedSlice | None:
        """Return a slice, shown or not."""
        return self._slices.get(key)

    def import_keys(self) -> list[ObjectKey]:
        """List the imports, shown or not."""
        return [ObjectKey(namespace, name) for namespace, some in self._imports.items() for name in some]

    def slice_keys(self) -> list[ObjectKey]:
        """List the slices, shown or not."""
        return self._slices.keys()

    def slice_count(self) -> int:
        """Count the slices, shown or not."""
        return len(self._slices)


def _visible(piece: ImportedSlice | None) -> set[tuple[tuple[bytes, ...], bytes, bytes]]:
    if piece is None:
        return set()
    return {(piece.cluster, endpoint.hostname, endpoint.address) for endpoint in piece.endpoints if endpoint.is_ready}
