"""What the further zones and records cost: memory, and CPU a query of the cluster's own names, all off and all on."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.cluster import write_manifests
from bench.dnsperf import drive, Run, write_queries
from bench.mixes import generated, make
from bench.peers import BASE, CLUSTER_PROBE, compiled_reflector, reflector
from bench.process import free_port, Process
from bench.report import progress

OFF, ON, FULL = "all off", "all on", "all on, with objects"


def further(imports: int, routes: int) -> Iterator[dict[str, Any]]:
    """Yield *imports* ServiceImports with a slice each, and *routes* HTTPRoutes of one Gateway."""
    for number in range(imports):
        meta = {"name": f"imp{number}", "namespace": f"ns{number % 10}"}
        yield {
            "apiVersion": "multicluster.x-k8s.io/v1beta1",
            "kind": "ServiceImport",
            "metadata": meta,
            "spec": {
                "type": "ClusterSetIP" if number % 2 else "Headless",
                "ips": [f"10.112.{number >> 8}.{number & 255}"],
                "ports": [{"name": "http", "port": 80}],
            },
        }
        labels = {
            "multicluster.kubernetes.io/service-name": f"imp{number}",
            "multicluster.kubernetes.io/source-cluster": f"c{number % 5}",
        }
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**meta, "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": [f"10.113.{number >> 8}.{number & 255}"]}],
        }
    gateway = "gateway.networking.k8s.io/v1"
    yield {
        "apiVersion": gateway,
        "kind": "Gateway",
        "metadata": {"name": "gw", "namespace": "ns0"},
        "spec": {"listeners": [{"name": "web", "port": 80}]},
        "status": {"addresses": [{"type": "IPAddress", "value": "192.0.2.1"}]},
    }
    for number in range(routes):
        yield {
            "apiVersion": gateway,
            "kind": "HTTPRoute",
            "metadata": {"name": f"route{number}", "namespace": f"ns{number % 10}"},
            "spec": {
                "hostnames": [f"app{number}.apps.example"],
                "parentRefs": [{"name": "gw", "namespace": "ns0"}],
            },
        }


def run(folder: Path, *, seconds: float, rounds: int, services: int, imports: int, routes: int) -> list[dict[str, Any]]:
    """Measure each way in turn, *rounds* times; return a row for each."""
    base, extra, hosts = folder / "base.json", folder / "extra.json", folder / "hosts"
    write_manifests(base, services, 10)
    items = list(further(imports, routes))
    extra.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    hosts.write_text("192.0.2.9 static.example\n")
    flags = [
        "--clusterset-zone", "clusterset.local", "--external-zone", "apps.example", "--zonal", "--hosts", str(hosts),
        "--rewrite", "old.example=static.example", "--transfer-to", "127.0.0.0/8", "--push", "tcp",
    ]  # fmt: skip
    ways: dict[str, Sequence[str]] = {OFF: [], ON: flags, FULL: [*flags, "--manifests", str(extra)]}
    hot, mixed = folder / "hot.txt", folder / "mixed.txt"
    write_queries(hot, make("hot", generated(services)).questions)
    write_queries(mixed, make("cluster", generated(services)).questions)
    figures: dict[str, dict[str, list[float]]] = {}
    binary = compiled_reflector(folder)
    for number in range(rounds):
        if binary is not None:
            with reflector(binary, CLUSTER_PROBE) as server:
                some = figures.setdefault(BASE, {"hot": [], "mixed": [], "memory": []})
                some["hot"].append(_driven(server, hot, seconds).cpu)
                some["mixed"].append(_driven(server, mixed, seconds).cpu)
                some["memory"].append(server.proportional_octets() / 2**20)
        for way, more in ways.items():
            progress(f"{number + 1}/{rounds} {way} …")
            port = free_port()
            command = [sys.executable, "-m", "kdns", "serve", "--manifests", str(base), "--admin", "127.0.0.1:0"]
            with Process(way, [*command, "--listen", f"127.0.0.1:{port}", *more], port, CLUSTER_PROBE) as server:
                some = figures.setdefault(way, {"hot": [], "mixed": [], "memory": []})
                some["memory"].append(server.proportional_octets() / 2**20)
                some["hot"].append(_driven(server, hot, seconds).cpu)
                some["mixed"].append(_driven(server, mixed, seconds).cpu)
    return [_row(way, some, figures) for way, some in figures.items()]


def _driven(server: Process, path: Path, seconds: float) -> Run:
    drive(server, path, seconds=max(2.0, seconds / 2))  # warm
    return drive(server, path, seconds=seconds)


def _row(way: str, some: dict[str, list[float]], figures: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    row: dict[str, Any] = {"way": way}
    for kind in ("hot", "mixed"):
        median = statistics.median(some[kind])
        row[f"{kind}_us"] = round(median, 2)
        row[f"{kind}_spread"] = f"{min(some[kind]):.2f} – {max(some[kind]):.2f}"
        row[f"{kind}_ratio"] = round(median / statistics.median(figures[BASE][kind]), 2) if BASE in figures else None
    memory = statistics.median(some["memory"])
    row["pss_mb"] = round(memory, 1)
    row["more_mb"] = round(memory - statistics.median(figures[OFF]["memory"]), 1) if OFF in figures else None
    return row
