"""One route: a suffix, and which servers speak for the names below it."""

from __future__ import annotations

from typing import Final

import msgspec

from zones.names import Name

CLUSTER: Final = "cluster"
UPSTREAM: Final = "upstream"


class Route(msgspec.Struct, frozen=True):
    """One suffix and who is asked: ``servers`` names a group of servers, ``then`` the group asked next, if any.

    The group of a stub zone has the zone's own text for a name.
    """

    zone: Name
    servers: str
    then: str | None = None
    text: str = ""
    """The zone as text, for metrics."""

    is_cluster: bool = False
    """Whether the cluster's DNS speaks for it."""
