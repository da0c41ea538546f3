"""Which kinds are watched, by what, and where: an API server's reflectors or a folder's manifests, as one source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from kdns.control.client import ApiServer
from kdns.control.consistency import Consistency
from kdns.control.reflector import Reflector
from kdns.control.resource import Pace, Resource
from kdns.control.sink import Sink
from zones.decode import Decoder
from zones.objects import Kind
from zones.selectors import Scope
from zones.shapes import API_VERSIONS

RUNNING_PODS = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown"

CORE = frozenset({Kind.NAMESPACE, Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.POD})
"""What every cluster has."""


def paths_of(kind: Kind) -> tuple[str, ...]:
    """Return the path of *kind* in the API, for each version that is understood."""
    return tuple(
        f"/{'apis' if '/' in version else 'api'}/{version}/{kind.plural.lower()}" for version in API_VERSIONS[kind]
    )


class Source(Protocol):
    """What feeds a sink."""

    async def run(self) -> None:
        """Feed it until cancelled."""


class ApiSource:
    """Feeds *sink* from *server*, one reflector for each of its kinds; compares every *compare_seconds*, 0: never."""

    def __init__(
        self,
        server: ApiServer,
        sink: Sink,
        decoder: Decoder,
        scope: Scope,
        *,
        pace: Pace | None = None,
        compare_seconds: float = 0.0,
        observe_programming: Callable[[str, float], None] | None = None,
    ) -> None:
        self.reflectors: Sequence[Reflector] = [
            Reflector(
                server,
                Resource(
                    kind,
                    paths_of(kind),
                    is_optional=kind not in CORE,
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
        self.consistency = Consistency(self.reflectors, compare_seconds) if compare_seconds else None

    async def run(self) -> None:
        """Reflect all kinds until cancelled."""
        async with trio.open_nursery() as nursery:
            for reflector in self.reflectors:
                nursery.start_soon(reflector.run)
            if self.consistency is not None:
                nursery.start_soon(self.consistency.run)
