"""``python -m bench``: measure kdns on this machine."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from bench import budget, features, feed, forward, latency, propagation, udp, unique
from bench.process import BenchError

OUT = Path(__file__).parent / "out"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure kdns, beside other servers where they are installed.

    Each bench prints a table and writes one JSON file to bench/out. Absolute figures are this machine's; what can be
    compared are ratios from one run.
    """


@main.command("udp")
@click.option("--seconds", default=5.0, show_default=True, help="Length of a run.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each server on each mix.")
@click.option("--services", default=10_000, show_default=True, help="Services in the cluster.")
def bench_udp(seconds: float, rounds: int, services: int) -> None:
    """CPU a query over UDP, as a multiple of the bare socket API's."""
    with tempfile.TemporaryDirectory() as folder:
        rows = udp.report(udp.run(Path(folder), seconds=seconds, rounds=rounds, services=services))
    udp.table(rows)
    write("udp", {"seconds": seconds, "rounds": rounds, "services": services, "seed": udp.SEED}, rows)


@main.command("forward")
@click.option("--seconds", default=5.0, show_default=True, help="Length of a run.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each server on each mix.")
def bench_forward(seconds: float, rounds: int) -> None:
    """CPU a query of nodelocal, cached and forwarded, as a multiple of the bare socket API's."""
    with tempfile.TemporaryDirectory() as folder:
        rows = udp.report(forward.run(Path(folder), seconds=seconds, rounds=rounds))
    udp.table(rows)
    write("forward", {"seconds": seconds, "rounds": rounds}, rows)


@main.command("latency")
@click.option("--rate", default=2000, show_default=True, help="Queries a second.")
@click.option("--misses", default=0.05, show_default=True, help="The share of names that were never asked for.")
@click.option("--seconds", default=20.0, show_default=True, help="Length of a run.")
def bench_latency(rate: int, misses: float, seconds: float) -> None:
    """Milliseconds to the answer of nodelocal at a given rate, some of them forwarded, beside its peers."""
    with tempfile.TemporaryDirectory() as folder:
        rows = latency.run(Path(folder), rate=rate, misses=misses, seconds=seconds)
    latency.table(rows)
    write("latency", {"rate": rate, "misses": misses, "seconds": seconds}, rows)


@main.command("budget")
@click.option("--millions", default=5.0, show_default=True, help="Names asked for once, in millions.")
@click.option("--megabytes", default=32, show_default=True, help="The cache's budget.")
def bench_budget(millions: float, megabytes: int) -> None:
    """Memory of nodelocal at the start and under names that are asked for once."""
    with tempfile.TemporaryDirectory() as folder:
        rows = budget.run(Path(folder), millions=millions, megabytes=megabytes)
    budget.table(rows)
    write("budget", {"millions": millions, "megabytes": megabytes}, rows)


@main.command("propagation")
@click.option("--events", default=500, show_default=True, help="Events of each kind.")
def bench_propagation(events: int) -> None:
    """Milliseconds from an event of the API server to the answer."""
    rows = propagation.report(propagation.run(events))
    propagation.table(rows)
    write("propagation", {"events": events}, rows)


@main.command("feed")
@click.option("--events", default=500, show_default=True, help="Services made while a node's cache denies them.")
@click.option("--subscriptions", default=10_000, show_default=True, help="Subscriptions on the one connection.")
@click.option("--connections", default=1_000, show_default=True, help="Connections to one kdns.")
@click.option("--each", default=50, show_default=True, help="Subscriptions on each of them.")
def bench_feed(events: int, subscriptions: int, connections: int, each: int) -> None:
    """Milliseconds until a node's cache follows a change, and what subscriptions cost kdns."""
    rows = feed.run_node(events) + feed.run_server(subscriptions, connections, each, 50)
    feed.table(rows)
    parameters = {"events": events, "subscriptions": subscriptions, "connections": connections, "each": each}
    write("feed", parameters, rows)


@main.command("features")
@click.option("--seconds", default=4.0, show_default=True, help="Length of a run.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each way.")
@click.option("--services", default=10_000, show_default=True, help="Services in the cluster, of ten endpoints each.")
@click.option("--imports", default=2_000, show_default=True, help="ServiceImports, of one endpoint each.")
@click.option("--routes", default=2_000, show_default=True, help="HTTPRoutes.")
def bench_features(seconds: float, rounds: int, services: int, imports: int, routes: int) -> None:
    """Memory, and CPU a query, with the further zones and records all off and all on."""
    with tempfile.TemporaryDirectory() as folder:
        rows = features.run(
            Path(folder), seconds=seconds, rounds=rounds, services=services, imports=imports, routes=routes
        )
    features.table(rows)
    parameters = {"seconds": seconds, "rounds": rounds, "services": services, "imports": imports, "routes": routes}
    write("features", parameters, rows)


@main.command("unique")
@click.option("--millions", default=10, show_default=True, help="Names asked for once, in millions.")
def bench_unique(millions: int) -> None:
    """Memory while names that do not exist are asked for, each once."""
    with tempfile.TemporaryDirectory() as folder:
        rows = unique.run(Path(folder), millions)
    unique.table(rows)
    write("unique", {"millions": millions}, rows)


def write(name: str, parameters: dict[str, Any], rows: list[dict[str, object]]) -> None:
    """Write the machine-readable file."""
    OUT.mkdir(exist_ok=True)
    machine = {
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "kdns": version("kdns"),
    }
    path = OUT / f"{name}.json"
    path.write_text(json.dumps({"bench": name, "machine": machine, "parameters": parameters, "rows": rows}, indent=1))
    click.echo(f"\nwritten to {path}")


if __name__ == "__main__":
    try:
        main(prog_name="python -m bench", standalone_mode=True)
    except BenchError as exc:
        click.echo(f"bench: {exc}", err=True)
        sys.exit(1)
