"""Kubernetes objects, slimmed to the fields that reach a record.

A constructor takes what is already valid; ``zones.decode`` makes these from what the API sends or
a manifest says. Names are lower-case octets, ready to be compared with labels of a question; addresses
are 4 or 16 octets. Every field costs memory times every object of the cluster: a new one is a decision.

They go from one process to another as arrays behind their class's name (``kdns.workers.wire``).
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv6Address

import msgspec

from zones.names import Name
from zones.records import address_to_text


class Kind(Enum):
    """The kinds of objects that the store holds; the value is Kubernetes' own name."""

    NAMESPACE = "Namespace"
    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    POD = "Pod"
    SERVICE_IMPORT = "ServiceImport"
    INGRESS = "Ingress"
    GATEWAY = "Gateway"
    HTTP_ROUTE = "HTTPRoute"
    TLS_ROUTE = "TLSRoute"
    GRPC_ROUTE = "GRPCRoute"

    @property
    def plural(self) -> str:
        """Several of them."""
        return self.value + ("es" if self.value.endswith("s") else "s")


class ObjectKey(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Names one object within its kind; ``namespace`` is empty for Namespaces themselves."""

    namespace: bytes
    name: bytes

    @property
    def text(self) -> str:
        """The namespace, if there is one, and the name, as people write them."""
        return b"/".join(part for part in (self.namespace, self.name) if part).decode(errors="replace")


class Namespace(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A namespace that is exposed; one that a filter hides never becomes an object."""

    name: bytes

    @property
    def key(self) -> ObjectKey:
        """What names it in the store."""
        return ObjectKey(b"", self.name)


class Port(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A port of a Service or of a slice; ``name`` is empty for an unnamed one, ``protocol`` is ``tcp`` and the like."""

    name: bytes
    protocol: bytes
    number: int


class Service(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A Service.

    ``external_name`` is set for ExternalName Services alone, which have nothing else. ``is_headless`` means
    ``clusterIP: None``. ``publish_not_ready`` has not-ready endpoints answer too (API field or the old annotation).
    """

    namespace: bytes
    name: bytes
    cluster_ips: tuple[bytes, ...] = ()
    ports: tuple[Port, ...] = ()
    external_name: Name | None = None
    is_headless: bool = False
    publish_not_ready: bool = False

    @property
    def key(self) -> ObjectKey:
        """What names it in the store."""
        return ObjectKey(self.namespace, self.name)


class Targets(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Where something of the cluster is reached from outside: addresses, and names that have them."""

    addresses: tuple[bytes, ...] = ()
    aliases: tuple[Name, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.addresses or self.aliases)


NO_TARGETS = Targets()


class ExposedService(Service, frozen=True):
    """A Service that is reached from outside: kept apart only where external zones are served.

    ``created`` is the time of its creation as the API writes it (RFC 3339, UTC), empty where it is not known.
    """

    outside: Targets = NO_TARGETS
    created: str = ""


class Endpoint(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="e"):
    """One address of one endpoint; ``hostname`` is empty where its label is made from the address."""

    address: bytes
    hostname: bytes = b""
    is_ready: bool = True

    @property
    def label(self) -> bytes:
        """The endpoint identifier: its hostname, else its dashed address (CONTRACT row 4.6)."""
        return self.hostname or dashed_address(self.address)


class ZonedEndpoint(Endpoint, frozen=True, gc=False, tag="z"):
    """An endpoint whose topology zone is known: kept only where zonal names are served."""

    topology_zone: bytes = b""


def topology_zone_of(endpoint: Endpoint) -> bytes:
    """Return the topology zone of *endpoint* in lower case, empty where it is not known."""
    return endpoint.topology_zone if isinstance(endpoint, ZonedEndpoint) else b""


class EndpointSlice(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One slice of the endpoints of ``service``, a Service of the same namespace."""

    namespace: bytes
    name: bytes
    service: bytes
    endpoints: tuple[Endpoint | ZonedEndpoint, ...] = ()
    ports: tuple[Port, ...] = ()

    @property
    def key(self) -> ObjectKey:
        """What names it in the store."""
        return ObjectKey(self.namespace, self.name)


class ImportedSlice(EndpointSlice, frozen=True):
    """A slice of endpoints in another cluster of the clusterset; ``service`` is the ServiceImport that it belongs to.

    ``cluster`` are the labels of its cluster id, leftmost first: one, or two as in ``name.registry`` (KEP-1645).
    """

    cluster: tuple[bytes, ...] = ()


class ServiceImport(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A ServiceImport; a headless one has no addresses of its own."""

    namespace: bytes
    name: bytes
    ips: tuple[bytes, ...] = ()
    ports: tuple[Port, ...] = ()
    is_headless: bool = False

    @property
    def key(self) -> ObjectKey:
        """What names it in the store."""
        return ObjectKey(self.namespace, self.name)


class Ingress(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An Ingress: the hosts of its rules and the targets in its status. ``created`` as for ``ExposedService``."""

    namespace: bytes
    name: bytes
    created: str = ""
    hostnames: tuple[Name, ...] = ()
    targets: Targets = NO_TARGETS

    @property
    def key(self) -> ObjectKey:
        """What names it in the store."""
        return ObjectKey(self.namespace, self.name)


class Listener(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A listener of a Gateway; without a hostname it takes any."""

    name: bytes
    hostname: Name | None
    port: int


class Gateway(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A Gateway: its listeners and the targets in its status. ``created`` as for ``ExposedService``."""

    namespace: bytes
    name: bytes
    created: str = ""
    listeners: tuple[Listener, ...] = ()
    targets: Targets = NO_TARGETS

    @property
    def key(self) -> ObjectKey:
        """What names it in the store."""
        return ObjectKey(self.namespace, self.name)


class Parent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A Gateway that a route is attached to, or those of its listeners with that name or port alone."""

    gateway: ObjectKey
    section: bytes = b""
    port: int = 0


class Route(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An HTTPRoute, TLSRoute or GRPCRoute; without hostnames it has those of its listeners. ``created`` as for
    ``ExposedService``."""

    kind: Kind
    namespace: bytes
    name: bytes
    created: str = ""
    hostnames: tuple[Name, ...] = ()
    parents: tuple[Parent, ...] = ()

    @property
    def key(self) -> ObjectKey:
        """What names it in the store."""
        return ObjectKey(self.namespace, self.name)


class SearchPath(Enum):
    """Which search path a pod's resolv.conf has."""

    USUAL = "usual"
    """That of ``dnsPolicy: ClusterFirst``."""
    OWN = "own"
    """Another one: another policy, or search domains or ndots in its ``dnsConfig``."""
    UNKNOWN = "unknown"
    """The pod is on its host's network, so that its address tells nothing."""


class Pod(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A pod that has not ended; ``addresses`` holds those of all its families."""

    namespace: bytes
    name: bytes
    addresses: tuple[bytes, ...] = ()
    search_path: SearchPath = SearchPath.UNKNOWN

    @property
    def key(self) -> ObjectKey:
        """What names it in the store."""
        return ObjectKey(self.namespace, self.name)


Claimant = Ingress | Gateway | Route
"""What claims hostnames outside the cluster."""

Object = Namespace | Service | EndpointSlice | Pod | ServiceImport | Claimant


def kind_of(new: Object) -> Kind:
    """Return the kind of an object."""
    return new.kind if isinstance(new, Route) else _KINDS[type(new)]


_KINDS = {
    Namespace: Kind.NAMESPACE,
    Service: Kind.SERVICE,
    ExposedService: Kind.SERVICE,
    EndpointSlice: Kind.ENDPOINT_SLICE,
    ImportedSlice: Kind.ENDPOINT_SLICE,
    Pod: Kind.POD,
    ServiceImport: Kind.SERVICE_IMPORT,
    Ingress: Kind.INGRESS,
    Gateway: Kind.GATEWAY,
}


def dashed_address(address: bytes) -> bytes:
    """Return *address* as a label: ``172-0-0-2``, ``5678-abcd--1``; a last dash gets a ``0`` behind it."""
    if len(address) == 4:
        return b"%d-%d-%d-%d" % tuple(address)
    text = address_to_text(address)
    if "." in text:  # an IPv4-mapped address, which newer Pythons write with a dotted quad
        text = "::ffff:{:x}:{:x}".format(*(int.from_bytes(address[at : at + 2], "big") for at in (12, 14)))
    label = text.replace(":", "-")
    return (label + "0" if label.endswith("-") else label).encode()


def address_from_dashed(label: bytes) -> bytes | None:
    """Return the address that a pod's label stands for, None for one that stands for none.

    Three dashes, none of them beside another, make IPv4; anything else is read as IPv6 (CONTRACT row 6.4).
    """
    if label.count(b"-") == 3 and b"--" not in label:
        parts = label.split(b"-")
        if all(part.isdigit() and len(part) <= 3 and (part == b"0" or part[0] != 0x30) for part in parts):
            octets = [int(part) for part in parts]
            return bytes(octets) if max(octets) < 256 else None
        return None
    if len(label) > 39 or not _DASHED_IPV6.issuperset(label):
        return None
    try:
        return IPv6Address(label.replace(b"-", b":").decode("ascii")).packed
    except ValueError:
        return None


_DASHED_IPV6 = frozenset(b"0123456789abcdef-")
