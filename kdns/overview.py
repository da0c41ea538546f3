"""What kdns tells of itself on the status page: zones, objects, watches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdns.cluster import Cluster
from kdns.control.cluster import ApiSource, Source
from kdns.control.sink import Sink
from kdns.explain import explain, explain_as
from kdns.net.addresses import Listen
from kdns.served import Zones
from zones.names import Name
from zones.objects import Kind
from zones.records import rrtype_from_text


def overview(
    sink: Sink,
    source: Source,
    zones: Zones,
    addresses: Sequence[tuple[str, int]],
    figures: Sequence[tuple[str, float]],
    numbers: Sequence[tuple[str, float]],
) -> dict[str, Any]:
    """Return what ``admin.status.Facts`` wants; *figures* are shown large, *numbers* in a table."""
    watches = {one.kind.plural: one.age() for one in source.reflectors} if isinstance(source, ApiSource) else {}
    missing = sink.missing()
    return {
        "addresses": [str(Listen(*address)) for address in addresses],
        "asker": "as a pod of namespace",
        "zones_head": ["zone", "serial", ""],
        "zones": [
            [zone.origin.to_text(), str(group.serial.value), "complete" if not group.kinds & missing else "incomplete"]
            for group in zones.groups
            for zone in group.zones
        ],
        "objects": {kind.plural: sink.count(kind) for kind in Kind if kind in sink.kinds},
        "watches": {kind: round(age, 1) for kind, age in watches.items()},
        "figures": list(figures),
        "numbers": list(numbers),
    }


def explained(cluster: Cluster, name: str, rrtype: str, asker: str) -> list[str]:
    """Explain a question, *asker* being a namespace or namespace/pod or empty. Raises ValueError."""
    if not name:
        raise ValueError("no name")
    qtype = rrtype_from_text(rrtype)
    namespace = asker.partition("/")[0]
    if namespace:
        return list(explain_as(cluster, cluster.config, name, qtype, namespace))
    return list(explain(cluster, Name.from_text(name), qtype))
