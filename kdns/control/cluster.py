"""Which kinds are watched, by what, and where: an API server's reflectors or a folder's manifests, as one source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from kdns.control.client import ApiServer
from kdns.control.reflector import Pace, Reflector, Resource
from kdns.control.sink import Sink
from zones.decode import Decoder
from zones.objects import Kind
from zones.selectors import Scope

RUNNING_PODS = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown"

_PATHS = {
    Kind.NAMESPACE: "/api/v1/namespaces",
    Kind.SERVICE: "/api/v1/services",
    Kind.ENDPOINT_SLICE: "/apis/discovery.k8s.io/v1/endpointslices",
    Kind.POD: "/api/v1/pods",
}


class Source(Protocol):
    """What feeds a sink."""

    async def run(self) -> None:
        """Feed it until cancelled."""


class ApiSource:
    """Feeds *sink* from *server*, one reflector for each of the sink's kinds."""

    def __init__(
        self,
        server: ApiServer,
        sink: Sink,
        decoder: Decoder,
        scope: Scope,
        *,
        pace: Pace | None = None,
        observe_programming: Callable[[str, float], None] | None = None,
    ) -> None:
        self.reflectors: Sequence[Reflector] = [
            Reflector(
                server,
                Resource(
                    kind,
                    _PATHS[kind],
                    label_selector=scope.selector_of(kind),
                    field_selector=RUNNING_PODS if kind is Kind.POD else "",
                ),
                sink,
                decoder,
                pace=pace,
                observe_programming=observe_programming,
            )
            for kind in sorted(sink.kinds, key=lambda kind: list(Kind).index(kind))
        ]

    async def run(self) -> None:
        """Reflect all kinds until cancelled."""
        async with trio.open_nursery() as nursery:
            for reflector in self.reflectors:
                nursery.start_soon(reflector.run)
