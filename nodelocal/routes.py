"""Which servers speak for a name: the cluster's zones, stub zones, the rest; the longest match of whole labels wins.

| the name                          | is asked of                                                              |
|-----------------------------------|--------------------------------------------------------------------------|
| in a stub zone                    | that zone's servers                                                      |
| in a cluster zone                 | the cluster's DNS                                                        |
| in ``in-addr.arpa``, ``ip6.arpa`` | the cluster's DNS, and what it denies or refuses, of the upstreams       |
| anything else                     | the upstreams                                                            |

A route speaks for the names that it is the route of, and for no others (ROBUSTNESS section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from nodelocal.route import CLUSTER, Route, UPSTREAM
from zones.names import Name, ROOT

REVERSE: Final = (Name.from_text("in-addr.arpa."), Name.from_text("ip6.arpa."))


class Routes:
    """All routes, found by the longest match."""

    def __init__(
        self,
        cluster_zones: Sequence[Name],
        stubs: Sequence[Name],
        *,
        has_cluster: bool = True,
        has_upstream: bool = True,
    ) -> None:
        then = UPSTREAM if has_upstream else None
        routes = [Route(ROOT, UPSTREAM)] if has_upstream else []
        if has_cluster:
            routes += [Route(zone, CLUSTER, then, is_cluster=True) for zone in REVERSE]
            routes += [Route(zone, CLUSTER, is_cluster=True) for zone in cluster_zones]
        routes += [Route(zone, zone.to_text()) for zone in stubs]
        self._by_labels = {
            route.zone.labels: msgspec.structs.replace(route, text=route.zone.to_text()) for route in routes
        }
        self._depths = sorted({len(labels) for labels in self._by_labels}, reverse=True)

    @property
    def all(self) -> list[Route]:
        """All of them, the longest first."""
        return sorted(self._by_labels.values(), key=lambda route: (-len(route.zone.labels), route.zone.labels))

    def of(self, name: Name) -> Route | None:
        """Return the route of *name*; None where nobody speaks for it."""
        labels = name.labels
        count = len(labels)
        for depth in self._depths:
            if depth <= count and (route := self._by_labels.get(labels[count - depth :])) is not None:
                return route
        return None
