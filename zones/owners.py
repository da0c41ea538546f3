"""Owner names of objects, relative to the domain that they are served in: what changes are told by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from zones.names import label_octets, Name
from zones.objects import dashed_address, Port


def port_owners(base: Name, ports: Iterable[Port]) -> Iterator[tuple[Name, list[Port]]]:
    """Yield the owner name of the SRV records of each named port below *base*, with the ports of that name."""
    named: dict[tuple[bytes, bytes], list[Port]] = {}
    for port in ports:
        if port.name:
            named.setdefault((port.name, port.protocol), []).append(port)
    for (name, protocol), some in sorted(named.items()):
        labels = (b"_" + name, b"_" + protocol)
        if base.has_room_for(*labels):
            yield base.prefixed(*labels), some


class Named(Protocol):
    """A Service or a ServiceImport."""

    @property
    def namespace(self) -> bytes:
        """Its namespace."""

    @property
    def name(self) -> bytes:
        """Its name."""


def service_names(service: Named, ports: Iterable[Port]) -> set[bytes]:
    """Return the Service's own relative name and those of its named *ports*, empty non-terminals included."""
    base = label_octets((service.name, service.namespace, b"svc"))
    names = {base}
    for port in ports:
        if port.name:
            protocol = label_octets((b"_" + port.protocol,)) + base
            names.add(protocol)
            names.add(label_octets((b"_" + port.name,)) + protocol)
    return names


def endpoint_names(service: Named, labels: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the relative names of endpoints, by their identifiers."""
    base = label_octets((service.name, service.namespace, b"svc"))
    for label in labels:
        yield label_octets((label,)) + base


def imported_endpoint_names(service: Named, cluster: tuple[bytes, ...], label: bytes) -> Iterator[bytes]:
    """Yield the relative name of an endpoint in another cluster, and the empty non-terminals above it."""
    name = label_octets((service.name, service.namespace, b"svc"))
    for part in (*cluster[::-1], label):
        name = label_octets((part,)) + name
        yield name


def pod_name(namespace: bytes, address: bytes) -> bytes:
    """Return the relative name of a pod's address."""
    return label_octets((dashed_address(address), namespace, b"pod"))
