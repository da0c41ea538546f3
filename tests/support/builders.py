"""Objects in one line each."""

from __future__ import annotations

from collections.abc import Iterable

from zones.names import Name
from zones.objects import (
    Endpoint,
    EndpointSlice,
    ExposedService,
    Gateway,
    ImportedSlice,
    Ingress,
    Kind,
    Namespace,
    Object,
    Pod,
    Port,
    Route,
    Service,
    ServiceImport,
    ZonedEndpoint,
)
from zones.records import address_from_text

KIND_OF: dict[type, Kind] = {
    Namespace: Kind.NAMESPACE,
    Service: Kind.SERVICE,
    EndpointSlice: Kind.ENDPOINT_SLICE,
    Pod: Kind.POD,
    ImportedSlice: Kind.ENDPOINT_SLICE,
    ServiceImport: Kind.SERVICE_IMPORT,
    ExposedService: Kind.SERVICE,
    Ingress: Kind.INGRESS,
    Gateway: Kind.GATEWAY,
}


def kind_of(thing: Object) -> Kind:
    return thing.kind if isinstance(thing, Route) else KIND_OF[type(thing)]


def namespace(name: str = "default") -> Namespace:
    return Namespace(name.encode())


def ports(*texts: str) -> tuple[Port, ...]:
    """``http:80``, ``dns/udp:53`` or ``:8080`` for an unnamed one."""
    some = []
    for text in texts:
        name, _, number = text.rpartition(":")
        name, _, protocol = name.partition("/")
        some.append(Port(name.encode(), (protocol or "tcp").encode(), int(number)))
    return tuple(some)


def addresses(*texts: str) -> tuple[bytes, ...]:
    return tuple(map(address_from_text, texts))


def service(
    name: str,
    *cluster_ips: str,
    port: Iterable[str] = (),
    namespace: str = "default",
    headless: bool = False,
    publish_not_ready: bool = False,
) -> Service:
    return Service(
        namespace.encode(),
        name.encode(),
        cluster_ips=addresses(*cluster_ips),
        ports=ports(*port),
        is_headless=headless,
        publish_not_ready=publish_not_ready,
    )


def external(name: str, target: str, *, namespace: str = "default") -> Service:
    return Service(namespace.encode(), name.encode(), external_name=Name.from_text(target))


def ready(address: str, hostname: str = "") -> Endpoint:
    return Endpoint(address_from_text(address), hostname.encode(), True)


def unready(address: str, hostname: str = "") -> Endpoint:
    return Endpoint(address_from_text(address), hostname.encode(), False)


def endpoints(
    service: str, *some: Endpoint, port: Iterable[str] = (), namespace: str = "default", name: str = ""
) -> EndpointSlice:
    return EndpointSlice(
        namespace.encode(), (name or f"{service}-1").encode(), service.encode(), tuple(some), ports(*port)
    )


def zoned(address: str, topology_zone: str, hostname: str = "", *, is_ready: bool = True) -> Endpoint:
    return ZonedEndpoint(address_from_text(address), hostname.encode(), is_ready, topology_zone.encode())


def service_import(
    name: str, *ips: str, port: Iterable[str] = (), namespace: str = "default", headless: bool = False
) -> ServiceImport:
    return ServiceImport(namespace.encode(), name.encode(), addresses(*ips), ports(*port), headless)


def imported(
    service: str, cluster: str, *some: Endpoint, port: Iterable[str] = (), namespace: str = "default", name: str = ""
) -> ImportedSlice:
    return ImportedSlice(
        namespace.encode(),
        (name or f"{service}-{cluster}").encode(),
        service.encode(),
        tuple(some),
        ports(*port),
        tuple(label.encode() for label in cluster.split(".")),
    )


def pod(name: str, *ips: str, namespace: str = "default") -> Pod:
    return Pod(namespace.encode(), name.encode(), addresses(*ips))


def objects(*some: Object) -> list[Object]:
    """The objects with the namespace that they are in."""
    return [namespace(), *some]
