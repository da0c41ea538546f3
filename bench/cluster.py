"""Generated clusters: the same seed and counts give the same objects."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def objects(
    services: int, endpoints: int, *, headless: int = 0, namespaces: int = 10, seed: int = 1
) -> Iterator[dict[str, Any]]:
    """Yield Namespaces, *services* Services, the first *headless* of them headless, and *endpoints* for each."""
    random_source = random.Random(seed)
    for number in range(namespaces):
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"ns{number}"}}
    for number in range(services):
        namespace = f"ns{number % namespaces}"
        name = f"svc{number}"
        is_headless = number < headless
        spec: dict[str, Any] = {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
        spec["clusterIP"] = "None" if is_headless else f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        yield {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
        for start in range(0, endpoints, 100):
            labels = {"kubernetes.io/service-name": name}
            if is_headless:
                labels["service.kubernetes.io/headless"] = ""
            count = min(100, endpoints - start)
            yield {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": f"{name}-{start // 100}", "namespace": namespace, "labels": labels},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                "endpoints": [
                    {
                        "addresses": [".".join(map(str, (10 + 117 * (at & 1), *random_source.randbytes(2), at & 255)))],
                        "conditions": {"ready": True},
                    }
                    for at in range(start, start + count)
                ],
            }


def write_manifests(path: Path, services: int, endpoints: int, **more: int) -> None:
    """Write the cluster as one JSON list."""
    items = list(objects(services, endpoints, **more))
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
