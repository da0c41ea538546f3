"""The cluster's objects, the indexes that questions need, and which owner names an event changes.

Nothing is derived from objects but indexes: answers are made when they are asked for. The property to
hold is that any order of events that ends in the same objects gives the same answers.
An object in a namespace that the store does not know is kept and not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence

from zones.addresses import Addresses
from zones.change import Change, EVERYTHING, NO_CHANGE
from zones.imports import Imports
from zones.names import label_octets, Name
from zones.objects import (
    address_from_dashed,
    Claimant,
    dashed_address,
    Endpoint,
    EndpointSlice,
    ExposedService,
    Gateway,
    ImportedSlice,
    Ingress,
    Kind,
    kind_of,
    Namespace,
    Object,
    ObjectKey,
    Pod,
    Route,
    Service,
    ServiceImport,
    topology_zone_of,
)
from zones.outside import Outside
from zones.owners import endpoint_names, pod_name, service_names
from zones.slices import difference, Slices

MAX_SCANNED_ENDPOINTS = 16
"""A slice of more endpoints than this gets a table of their labels when one is first asked for: a name in a Service
of 5,000 pods costs one look-up a slice (50), not one comparison an endpoint."""


_Labels = tuple[dict[bytes, list[Endpoint]], dict[bytes, list[Endpoint]]]
"""The endpoints of a slice by hostname, and those without one by address."""


class Store:
    """All objects, by kind. *ignore_empty_service* is CoreDNS's option (CONTRACT section 10); *imports* are those of
    other clusters, where they are served, and *external_zones* the zones for the outside world."""

    def __init__(
        self,
        *,
        ignore_empty_service: bool = False,
        imports: Imports | None = None,
        external_zones: Sequence[Name] = (),
    ) -> None:
        self._ignore_empty_service = ignore_empty_service
        self.imports = imports
        self.outside = Outside(external_zones, self.has_namespace) if external_zones else None
        self._namespaces: dict[bytes, Namespace] = {}
        self._services: dict[bytes, dict[bytes, Service]] = {}
        self._slices: Slices[EndpointSlice] = Slices()
        self._labels: dict[ObjectKey, _Labels] = {}
        self._ready: dict[ObjectKey, tuple[bool, tuple[bytes, ...]]] = {}
        self._pods: dict[ObjectKey, Pod] = {}
        self._pod_addresses: dict[bytes, dict[bytes, int]] = {}
        self._addresses = Addresses(self._slices.get, *self._outside_addresses())
        self.is_loading = False
        """While set, events of the core kinds say that everything may have changed, not what: to know what costs more
        than to keep an object, and during a first list nobody has use for it."""

    def copy(self) -> Store:
        """Return what zones ask, as of now: untouched by later events, and taking none."""
        other = Store(ignore_empty_service=self._ignore_empty_service)
        other._namespaces = dict(self._namespaces)
        other._services = {namespace: dict(some) for namespace, some in self._services.items()}
        other._slices = self._slices.copy()
        other._pod_addresses = {namespace: dict(some) for namespace, some in self._pod_addresses.items()}
        other.imports = self.imports.copy() if self.imports is not None else None
        other.outside = self.outside.copy(other.has_namespace) if self.outside is not None else None
        other._addresses = self._addresses.copy(other._slices.get, *other._outside_addresses())
        return other

    # -- events ---------------------------------------------------------------------------------------------------

    def put(self, new: Object) -> Change:
        """Add or replace an object; an equal one changes nothing."""
        match new:
            case ImportedSlice():
                change = self._delete_slice(new.key)  # one that was a local Service's until now
                return change if self.imports is None else change | self._imported(self.imports.put_slice(new), new)
            case EndpointSlice():
                change = self._delete_imported_slice(new.key)
                return change | self._put_slice(new) if change else self._put_slice(new)
            case Service():
                change = self._put_service(new)
                return change if self.outside is None else change | self._expose(new.key, new)
            case Pod():
                return self._put_pod(new)
            case Ingress() | Gateway() | Route():
                return self._put_claimant(new)
            case ServiceImport():
                return NO_CHANGE if self.imports is None else self._imported(self.imports.put_import(new), new)
            case Namespace():
                if new.name in self._namespaces:
                    return NO_CHANGE
                self._namespaces[new.name] = new
                change = self._namespace_change(new.name)
                return change if self.outside is None else change | self._namespace_outside(new.name)

    def delete(self, kind: Kind, key: ObjectKey) -> Change:
        """Remove an object; one that is not there changes nothing."""
        match kind:
            case Kind.ENDPOINT_SLICE:
                return self._delete_slice(key) | self._delete_imported_slice(key)
            case Kind.SERVICE_IMPORT:
                return NO_CHANGE if self.imports is None else self._imported(self.imports.delete_import(key), key)
            case Kind.SERVICE:
                old = self._services.get(key.namespace, {}).pop(key.name, None)
                change = self._service_change(old, None) if old else NO_CHANGE
                return change if self.outside is None else change | self._expose(key, None)
            case Kind.POD:
                return self._delete_pod(key)
            case Kind.NAMESPACE:
                if key.name not in self._namespaces:
                    return NO_CHANGE
                change = self._namespace_change(key.name)
                del self._namespaces[key.name]
                return change if self.outside is None else change | self._namespace_outside(key.name)
            case _:
                return NO_CHANGE if self.outside is None else self._outside_change(self.outside.delete(kind, key))

    def keys(self, kind: Kind) -> list[ObjectKey]:
        """List the objects of one kind, shown or not."""
        match kind:
            case Kind.NAMESPACE:
                return [ObjectKey(b"", name) for name in self._namespaces]
            case Kind.SERVICE:
                return [ObjectKey(namespace, name) for namespace, some in self._services.items() for name in some]
            case Kind.ENDPOINT_SLICE:
                return [*self._slices.keys(), *(self.imports.slice_keys() if self.imports is not None else ())]
            case Kind.POD:
                return list(self._pods)
            case Kind.SERVICE_IMPORT:
                return self.imports.import_keys() if self.imports is not None else []
            case _:
                return self.outside.keys(kind) if self.outside is not None else []

    def get(self, kind: Kind, key: ObjectKey) -> Object | None:
        """Return an object, shown or not."""
        match kind:
            case Kind.NAMESPACE:
                return self._namespaces.get(key.name)
            case Kind.SERVICE:
                return self._services.get(key.namespace, {}).get(key.name)
            case Kind.ENDPOINT_SLICE:
                found: Object | None = self._slices.get(key)
                return found if found is not None or self.imports is None else self.imports.get_slice(key)
            case Kind.POD:
                return self._pods.get(key)
            case Kind.SERVICE_IMPORT:
                return self.imports.get_import(key) if self.imports is not None else None
            case _:
                return self.outside.get(kind, key) if self.outside is not None else None

    def count(self, kind: Kind) -> int:
        """Count the objects of one kind, shown or not."""
        match kind:
            case Kind.NAMESPACE:
                return len(self._namespaces)
            case Kind.SERVICE:
                return sum(map(len, self._services.values()))
            case Kind.ENDPOINT_SLICE:
                return len(self._slices) + (self.imports.slice_count() if self.imports is not None else 0)
            case Kind.POD:
                return len(self._pods)
        return len(self.keys(kind))

    # -- what zones ask -------------------------------------------------------------------------------------------

    def has_namespace(self, name: bytes) -> bool:
        """Tell whether the namespace exists and is exposed."""
        return name in self._namespaces

    @property
    def namespace_names(self) -> Container[bytes]:
        """The exposed namespaces."""
        return self._namespaces.keys()

    def service_names(self, namespace: bytes) -> Container[bytes] | None:
        """Return the names of the Services of an exposed namespace, shown or not."""
        return self._services.get(namespace, {}).keys() if namespace in self._namespaces else None

    def namespaces(self) -> list[bytes]:
        """List the exposed namespaces in order."""
        return sorted(self._namespaces)

    def service(self, namespace: bytes, name: bytes) -> Service | None:
        """Return the Service if it is shown.

        With *ignore_empty_service* one with cluster IPs and no ready endpoint is not.
        """
        if namespace not in self._namespaces or (some := self._services.get(namespace)) is None:
            return None
        service = some.get(name)
        if (
            service is not None
            and self._ignore_empty_service
            and not service.is_headless
            and service.external_name is None
            and not self.has_ready_endpoint(service)
        ):
            return None
        return service

    def services(self) -> Iterator[Service]:
        """Yield the shown Services in order."""
        for namespace in self.namespaces():
            for name in sorted(self._services.get(namespace, {})):
                if (service := self.service(namespace, name)) is not None:
                    yield service

    def slices_of(self, service: Service) -> Collection[EndpointSlice]:
        """Return the slices of a Service; an ExternalName one has none that count."""
        if service.external_name is not None:
            return ()
        return self._slices.of(service.namespace, service.name)

    def has_ready_endpoint(self, service: Service) -> bool:
        """Tell whether at least one endpoint answers."""
        return any(
            endpoint.is_ready or service.publish_not_ready
            for piece in self.slices_of(service)
            for endpoint in piece.endpoints
        )

    def addresses_in(self, piece: EndpointSlice, *, every: bool) -> Sequence[bytes]:
        """Return the addresses of the ready endpoints of a slice, or of *every* one, in order.

        Of a Service of 5,000 pods that is rolled, one slice is looked through for an event, not all fifty.
        """
        if len(piece.endpoints) <= MAX_SCANNED_ENDPOINTS:
            return [endpoint.address for endpoint in piece.endpoints if every or endpoint.is_ready]
        known = self._ready.get(piece.key)
        if known is None or known[0] is not every:
            some = sorted(endpoint.address for endpoint in piece.endpoints if every or endpoint.is_ready)
            known = self._ready[piece.key] = every, tuple(some)
        return known[1]

    def endpoints_labelled(self, service: Service, label: bytes) -> list[Endpoint]:
        """Return the ready endpoints whose identifier is *label*, over all slices."""
        address = address_from_dashed(label)
        if address is not None and dashed_address(address) != label:
            address = None
        found = []
        for piece in self.slices_of(service):
            if len(piece.endpoints) > MAX_SCANNED_ENDPOINTS:
                by_hostname, by_address = self._label_table(piece)
                some = [*by_hostname.get(label, ()), *(by_address.get(address, ()) if address is not None else ())]
            else:
                some = [
                    endpoint
                    for endpoint in piece.endpoints
                    if (endpoint.hostname == label if endpoint.hostname else endpoint.address == address)
                ]
            found += [endpoint for endpoint in some if endpoint.is_ready or service.publish_not_ready]
        return found

    def cluster_ip_owner(self, address: bytes) -> Service | None:
        """Return the shown Service with that cluster IP; of several, as manifests may have, the first."""
        for key in self._addresses.services(address):
            if (service := self.service(key.namespace, key.name)) is not None:
                return service
        return None

    def endpoint_owners(self, address: bytes) -> list[tuple[Service, bytes]]:
        """Return each shown Service with a ready endpoint at *address*, and that endpoint's label; no duplicates."""
        owners: dict[tuple[bytes, bytes, bytes], tuple[Service, bytes]] = {}
        for piece in self._addresses.slices(address):
            service = self.service(piece.namespace, piece.service)
            if service is None or service.external_name is not None:
                continue
            for endpoint in piece.endpoints:
                if endpoint.address == address and (endpoint.is_ready or service.publish_not_ready):
                    owners[service.namespace, service.name, endpoint.label] = (service, endpoint.label)
        return [owner for _, owner in sorted(owners.items(), key=lambda item: item[0])]

    def addresses(self) -> Iterator[bytes]:
        """Yield every address that may have a reverse name, IPv4 first, in order."""
        return self._addresses.all()

    def addresses_from(self, low: bytes) -> Iterator[bytes]:
        """Yield the addresses of *low*'s family that are not below it, in order."""
        return self._addresses.at_least(low)

    def pod_has_address(self, namespace: bytes, address: bytes) -> bool:
        """Tell whether a pod of that exposed namespace has the address."""
        return namespace in self._namespaces and address in self._pod_addresses.get(namespace, ())

    def pod_addresses(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (namespace, address) of every pod that is shown, in order, once."""
        for namespace in self.namespaces():
            for address in sorted(self._pod_addresses.get(namespace, ())):
                yield namespace, address

    # -- Services -------------------------------------------------------------------------------------------------

    def _put_service(self, new: Service) -> Change:
        some = self._services.setdefault(new.namespace, {})
        old = some.get(new.name)
        if old == new:
            return NO_CHANGE
        some[new.name] = new
        return NO_CHANGE if old is not None and _inside(old) == _inside(new) else self._service_change(old, new)

    def _service_change(self, old: Service | None, new: Service | None) -> Change:
        service = new or old
        assert service is not None  # one of them always is; callers are above
        old_ips = set(old.cluster_ips if old else ())
        new_ips = set(new.cluster_ips if new else ())
        for address in old_ips - new_ips:
            self._addresses.remove_service(address, service.key)
        for address in new_ips - old_ips:
            self._addresses.add_service(address, service.key)
        if service.namespace not in self._namespaces:
            return NO_CHANGE
        if self.is_loading:
            return EVERYTHING
        forward = service_names(service, [*(old.ports if old else ()), *(new.ports if new else ())])
        # A Service that comes to show, or ceases to, does so with all its addresses.
        addresses = old_ips | new_ips if self._ignore_empty_service else old_ips ^ new_ips
        if old is None or new is None or _endpoint_view(old) != _endpoint_view(new):
            for piece in self._slices.of(service.namespace, service.name):
                forward |= service_names(service, piece.ports)
                forward.update(endpoint_names(service, (endpoint.label for endpoint in piece.endpoints)))
                addresses.update(endpoint.address for endpoint in piece.endpoints)
        return Change(frozenset(forward), frozenset(addresses))

    # -- slices ---------------------------------------------------------------------------------------------------

    def _put_slice(self, new: EndpointSlice) -> Change:
        key = new.key
        old = self._slices.get(key)
        if old == new:
            return NO_CHANGE
        if old is not None and old.service != new.service:
            return self._delete_slice(key) | self._put_slice(new)
        before = self._is_empty(new.namespace, new.service)
        self._slices.put(new)
        return self._slice_change(key, old, new, was_empty=before)

    def _delete_slice(self, key: ObjectKey) -> Change:
        old = self._slices.get(key)
        if old is None:
            return NO_CHANGE
        before = self._is_empty(old.namespace, old.service)
        self._slices.remove(old)
        return self._slice_change(key, old, None, was_empty=before)

    def _slice_change(
        self, key: ObjectKey, old: EndpointSlice | None, new: EndpointSlice | None, *, was_empty: bool
    ) -> Change:
        self._labels.pop(key, None)
        self._ready.pop(key, None)
        before, after = difference(old, new)
        self._addresses.replace_slice(old, new, before, after)
        piece = new or old
        assert piece is not None  # one of them always is; callers are above
        service = self._services.get(piece.namespace, {}).get(piece.service)
        if service is None or service.external_name is not None or piece.namespace not in self._namespaces:
            return NO_CHANGE
        if self.is_loading:
            return EVERYTHING
        forward: set[bytes] = set()
        changed = _visible(before, service) ^ _visible(after, service)
        old_ports, ports = old.ports if old else (), new.ports if new else ()
        ports_changed = old_ports != ports
        if service.is_headless and (changed or ports_changed):
            forward |= service_names(service, (*old_ports, *ports) if ports_changed else ports)
        forward.update(endpoint_names(service, [Endpoint(address, hostname).label for hostname, address, _ in changed]))
        addresses = frozenset(address for _, address, _ in changed)
        if self._ignore_empty_service and was_empty != self._is_empty(piece.namespace, piece.service):
            forward |= service_names(service, service.ports)
            addresses |= frozenset(service.cluster_ips)
        return Change(frozenset(forward), addresses)

    def _is_empty(self, namespace: bytes, name: bytes) -> bool:
        if not self._ignore_empty_service:
            return False
        service = self._services.get(namespace, {}).get(name)
        return service is None or not self.has_ready_endpoint(service)

    def _label_table(self, piece: EndpointSlice) -> _Labels:
        key = piece.key
        if (table := self._labels.get(key)) is None:
            table = ({}, {})
            for endpoint in piece.endpoints:
                by, label = (0, endpoint.hostname) if endpoint.hostname else (1, endpoint.address)
                table[by].setdefault(label, []).append(endpoint)
            self._labels[key] = table
        return table

    # -- imports --------------------------------------------------------------------------------------------------

    def _imported(self, names: frozenset[bytes], at: ServiceImport | ImportedSlice | ObjectKey) -> Change:
        return Change(imported=names) if names and at.namespace in self._namespaces else NO_CHANGE

    def _delete_imported_slice(self, key: ObjectKey) -> Change:
        return NO_CHANGE if self.imports is None else self._imported(self.imports.delete_slice(key), key)

    # -- names for the outside world ------------------------------------------------------------------------------

    def _outside_change(self, keys: set[bytes]) -> Change:
        return Change(outside=frozenset(keys)) if keys else NO_CHANGE

    def _put_claimant(self, new: Claimant) -> Change:
        return NO_CHANGE if self.outside is None else self._outside_change(self.outside.put(kind_of(new), new))

    def _expose(self, key: ObjectKey, new: Service | None) -> Change:
        """Follow a Service that is, was, or becomes reached from outside."""
        outside = self.outside
        assert outside is not None  # callers have looked
        if isinstance(new, ExposedService):
            return self._reverse_change(key, lambda: outside.put(Kind.SERVICE, new))
        return self._reverse_change(key, lambda: outside.delete(Kind.SERVICE, key))

    def _reverse_change(self, key: ObjectKey, event: Callable[[], set[bytes]]) -> Change:
        outside = self.outside
        assert outside is not None  # callers have looked
        before = outside.addresses_of(key)
        keys = event()
        after = outside.addresses_of(key)
        # An address may come or go while an older claim has the name, so that no name changes.
        return self._outside_and_reverse(before, after, keys) if keys or before != after else NO_CHANGE

    def _namespace_outside(self, name: bytes) -> Change:
        outside = self.outside
        assert outside is not None  # callers have looked
        before = outside.addresses_in(name)
        keys = outside.namespace_changed(name)
        return self._outside_and_reverse(before, outside.addresses_in(name), keys)

    def _outside_and_reverse(self, before: frozenset[bytes], after: frozenset[bytes], keys: set[bytes]) -> Change:
        for address in after - before:
            self._addresses.note(address)
        for address in before - after:
            self._addresses.drop(address)
        return Change(addresses=before ^ after, outside=frozenset(keys))

    def _outside_addresses(self) -> tuple[Callable[[], Iterable[bytes]], Callable[[bytes], bool]]:
        outside = self.outside
        if outside is None:
            return tuple, lambda address: False
        return outside.addresses, lambda address: bool(outside.owners(address))

    # -- pods and namespaces --------------------------------------------------------------------------------------

    def _put_pod(self, new: Pod) -> Change:
        old = self._pods.get(new.key)
        if old == new:
            return NO_CHANGE
        self._pods[new.key] = new
        return self._pod_change(new.namespace, old, new)

    def _delete_pod(self, key: ObjectKey) -> Change:
        old = self._pods.pop(key, None)
        return self._pod_change(key.namespace, old, None) if old else NO_CHANGE

    def _pod_change(self, namespace: bytes, old: Pod | None, new: Pod | None) -> Change:
        counts = self._pod_addresses.setdefault(namespace, {})
        changed = set()
        for address in new.addresses if new else ():
            counts[address] = counts.get(address, 0) + 1
            if counts[address] == 1:
                changed.add(address)
        for address in old.addresses if old else ():
            counts[address] -= 1
            if not counts[address]:
                del counts[address]
                changed ^= {address}
        if not counts:
            del self._pod_addresses[namespace]
        if namespace not in self._namespaces:
            return NO_CHANGE
        return Change(frozenset(pod_name(namespace, address) for address in changed))

    def _namespace_change(self, name: bytes) -> Change:
        """Return everything that stands or falls with the namespace, which is in the store while this runs."""
        if self.is_loading:
            return EVERYTHING
        forward = {label_octets((name, b"svc")), label_octets((name, b"pod"))}
        forward.update(pod_name(name, address) for address in self._pod_addresses.get(name, ()))
        addresses: set[bytes] = set()
        for service in self._services.get(name, {}).values():
            forward |= service_names(service, service.ports)
            addresses.update(service.cluster_ips)
            for piece in self.slices_of(service):
                forward |= service_names(service, piece.ports)
                forward.update(endpoint_names(service, (endpoint.label for endpoint in piece.endpoints)))
                addresses.update(endpoint.address for endpoint in piece.endpoints)
        imported: frozenset[bytes] = frozenset()
        if self.imports is not None:
            imported = self.imports.names_in(name) | {label_octets((name, b"svc"))}
        return Change(frozenset(forward), frozenset(addresses), imported)


def _inside(service: Service) -> tuple[object, ...]:
    """Return what of a Service shows inside the cluster: all but where it is reached from outside."""
    return tuple(getattr(service, field) for field in Service.__struct_fields__)


def _endpoint_view(service: Service) -> tuple[bool, bool, bool]:
    """Return what of a Service decides how its endpoints show."""
    return service.is_headless, service.publish_not_ready, service.external_name is None


def _visible(endpoints: Iterable[Endpoint], service: Service) -> set[tuple[bytes, bytes, bytes]]:
    every = service.publish_not_ready
    return {
        (endpoint.hostname, endpoint.address, topology_zone_of(endpoint))
        for endpoint in endpoints
        if every or endpoint.is_ready
    }
