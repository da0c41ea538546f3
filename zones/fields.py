"""Fields that several kinds of objects have, from JSON values to ours; one that cannot be raises BadObject."""

from __future__ import annotations

import re
from typing import cast, TypeVar

import msgspec

from zones.errors import BadName, BadObject
from zones.names import Name
from zones.objects import EndpointSlice, Object, Port, Service, ServiceImport, ZonedEndpoint
from zones.records import address_from_text
from zones.shapes import Meta, ServicePortJson

MAX_PORT_NAME = 62
"""A port's name in SRV has an underscore in front; the one longer name that the API takes has no SRV record."""

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PORT_NAME = re.compile(r"[a-z0-9A-Z]([-a-z0-9A-Z]{0,61}[a-z0-9A-Z])?")

_T = TypeVar("_T")


def own_name(meta: Meta | None, pattern: re.Pattern[str], expected: str) -> bytes:
    """Return ``metadata.name``, which must match *pattern*."""
    name = meta.name if meta else None
    if not name or len(name) > 253 or not pattern.fullmatch(name):
        raise BadObject("metadata.name", name, expected)
    return name.encode()


def namespace_of(meta: Meta) -> bytes:
    """Return ``metadata.namespace``."""
    namespace = meta.namespace or "default"
    if not LABEL.fullmatch(namespace):
        raise BadObject("metadata.namespace", namespace, "a DNS label")
    return namespace.encode()


def address_of(text: str, field: str) -> bytes:
    """Return the octets of an IP address."""
    try:
        return address_from_text(text)
    except ValueError as exc:
        raise BadObject(field, text, "an IP address") from exc


def ports_of(ports: list[ServicePortJson] | None, field: str, *, may_lack_number: bool = False) -> tuple[Port, ...]:
    """Return the ports that SRV records can name."""
    result = []
    for at, port in enumerate(ports or ()):
        if port.port is None and may_lack_number:
            continue  # EndpointSlice API: null means "all ports", which no SRV record can say
        if port.port is None or not 0 < port.port < 65_536:
            raise BadObject(f"{field}[{at}].port", port.port, "a port number from 1 to 65535")
        name = port.name or ""
        if name and not _PORT_NAME.fullmatch(name):
            raise BadObject(f"{field}[{at}].name", name, "a DNS label")
        protocol = (port.protocol or "TCP").lower()
        if not LABEL.fullmatch(protocol) or len(protocol) > MAX_PORT_NAME:
            raise BadObject(f"{field}[{at}].protocol", port.protocol, "TCP, UDP or SCTP")
        if len(name) > MAX_PORT_NAME:
            name = ""
        result.append(Port(shared(name.lower().encode()), shared(protocol.encode()), port.port))
    return shared(tuple(result))


_SHARED: dict[object, object] = {}
_MAX_SHARED = 10_000


def shared(value: _T) -> _T:
    """Return one instance for equal values, so that ten thousand slices hold one tuple of ports; bounded."""
    if len(_SHARED) >= _MAX_SHARED:
        _SHARED.clear()
    return cast(_T, _SHARED.setdefault(value, value))


def share(new: Object) -> Object:
    """Have an object that came from another process share what is equal in many, and return it."""
    if isinstance(new, Service | EndpointSlice | ServiceImport):
        msgspec.structs.force_setattr(new, "ports", shared(new.ports))
    if isinstance(new, EndpointSlice):
        for endpoint in new.endpoints:
            if isinstance(endpoint, ZonedEndpoint):
                msgspec.structs.force_setattr(endpoint, "topology_zone", shared(endpoint.topology_zone))
    return new


def hostname_of(text: str, field: str) -> Name:
    """Return a domain name in lower case, whose first label may be ``*`` (Ingress and Gateway API)."""
    lower = text.lower().removesuffix(".")
    try:
        name = Name.from_text(lower)
    except BadName as exc:
        raise BadObject(field, text, f"a hostname ({exc})") from exc
    if not SUBDOMAIN.fullmatch(lower.removeprefix("*.")):
        raise BadObject(field, text, "a hostname such as www.example.com or *.example.com")
    return name
