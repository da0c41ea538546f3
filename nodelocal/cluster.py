"""The servers behind the cluster DNS Service, from its EndpointSlices: asked directly, past the Service's address."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from kdns.upstream.servers import DNS_PORT, Protocol, Server
from nodelocal.pods import NodePods
from zones.objects import EndpointSlice, topology_zone_of
from zones.records import address_to_text

WORD: Final = "kubernetes"
DEFAULT: Final = ("kube-system", "kube-dns")
SLICE_LABEL: Final = "kubernetes.io/service-name"
TCP: Final = b"tcp"
UDP: Final = b"udp"


class ClusterService(msgspec.Struct, frozen=True):
    """The Service of the cluster's DNS, as ``--cluster kubernetes:NAMESPACE/NAME`` names it."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{WORD}:{self.namespace}/{self.name}"


def service_from_text(text: str) -> ClusterService | None:
    """Read ``kubernetes`` or ``kubernetes:NAMESPACE/NAME``; None for anything else. Raises ValueError."""
    word, colon, rest = text.partition(":")
    if word != WORD:
        return None
    namespace, slash, name = rest.partition("/") if colon else (DEFAULT[0], "/", DEFAULT[1])
    if not slash or not namespace or not name or "/" in name:
        raise ValueError("no NAMESPACE/NAME")
    return ClusterService(namespace, name)


def servers_of(slices: Iterable[EndpointSlice], zone: bytes) -> list[tuple[str, int]]:
    """Return address and port of each ready endpoint, those of topology zone *zone* first."""
    found: dict[tuple[str, int], bool] = {}
    for piece in slices:
        udp = {port.number for port in piece.ports if port.protocol == UDP}
        ports = [
            port.number
            for port in piece.ports
            if port.protocol == TCP and (port.number in udp or port.name == b"dns-tcp")
        ]
        for endpoint in piece.endpoints:
            if endpoint.is_ready:
                at = address_to_text(endpoint.address), ports[0] if ports else DNS_PORT
                found[at] = bool(zone) and topology_zone_of(endpoint) == zone
    return sorted(found, key=lambda at: (not found[at], at))


def in_order(told: object, pods: NodePods | None) -> tuple[Server, ...]:
    """Return the servers in the order to ask them: those among this node's *pods* first, else as *told*.

    Raises ValueError, TypeError for what no watcher tells.
    """
    if not isinstance(told, list):
        raise TypeError("no list of servers")
    servers = [Server(str(address), int(port), Protocol.TCP) for address, port in told]
    return tuple(sorted(servers, key=lambda server: pods is None or pods.at(server.address) is None))
