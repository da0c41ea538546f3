"""``python -m bench``: measure kdns, nodelocal and other DNS servers."""

from __future__ import annotations

import compileall
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

import kdns
import nodelocal
import zones
from bench import (
    attacks,
    budget,
    churn,
    compare,
    connections,
    conntrack,
    expansion,
    features,
    feed,
    latency,
    load,
    mixes,
    observe,
    propagation,
    scale,
    unique,
    watch_traffic,
    workers,
)
from bench.peers import Peer
from bench.process import BenchError
from bench.report import OUT, Report
from kdns.config import MAX_WORKERS

SEED = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=OUT, help="Where figures go.")
@click.pass_context
def main(ctx: click.Context, out: Path) -> None:
    """Measure kdns and nodelocal, or any other DNS server.

    Each bench prints a table, writes one JSON file and draws one picture. Absolute figures are those of the machine;
    what can be compared are ratios from one run. bench/README.md tells what each is for.
    """
    ctx.obj = out
    for package in (kdns, nodelocal, zones):  # what is measured starts as it does where pip installed it: with bytecode
        compileall.compile_dir(Path(str(package.__file__)).parent, quiet=2)


@contextmanager
def report_of(name: str, **parameters: Any) -> Iterator[tuple[Report, Path]]:
    """Give a report and a folder for what the bench needs meanwhile; write the report, also of a bench that fails."""
    report = Report(name, parameters, out=click.get_current_context().obj)
    with tempfile.TemporaryDirectory() as folder:
        yield report, Path(folder)
    report.write()


def simple(name: str, title: str, measure: Callable[[Path], Sequence[dict[str, Any]]], **parameters: Any) -> None:
    """Run a bench that gives rows, each drawn by its numbers."""
    with report_of(name, **parameters) as (report, folder):
        rows = measure(folder)
        report.table(title, rows)
        draw(report, title, rows)


def draw(report: Report, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Draw what is in milliseconds, or else in megabytes, of *rows*."""
    keys = [key for key in rows[0] if key.endswith("_ms")] or [key for key in rows[0] if key.endswith("_mb")]
    if not keys:
        return
    labels = [str(next(iter(row.values()))) for row in rows]
    with report.figure(title, "", "milliseconds" if keys[0].endswith("_ms") else "MB", size=(9, 4.5)) as axes:
        width = 0.8 / len(keys)
        for at, key in enumerate(keys):
            axes.bar([x + at * width for x in range(len(rows))], [row.get(key) or 0 for row in rows], width, label=key)
        axes.set_xticks([x + 0.4 - width / 2 for x in range(len(rows))], labels, fontsize=8)
        axes.legend()


# -- any server -----------------------------------------------------------------------------------------------------


@main.command("load", short_help="Drive any DNS server with dnsperf, on names of a cluster.")
@click.option("--server", required=True, metavar="ADDR", help="The server's address.")
@click.option("--port", default=53, show_default=True)
@click.option("--mix", type=click.Choice(mixes.NAMES), default="cluster", show_default=True, help="What is asked.")
@click.option("--manifests", multiple=True, type=click.Path(path_type=Path, exists=True), help="Names from manifests.")
@click.option("--kubeconfig", type=click.Path(path_type=Path, exists=True), help="Names from a cluster's API server.")
@click.option("--context", help="A context of the kubeconfig.")
@click.option("--zone", default="cluster.local", show_default=True, help="The cluster's domain.")
@click.option("--protocol", type=click.Choice(["udp", "tcp"]), default="udp", show_default=True)
@click.option("--rate", default=0, help="Queries a second; by default full speed.")
@click.option("--seconds", default=10.0, show_default=True, help="Length of a round.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--clients", default=4, show_default=True, help="Sockets, or connections, that ask.")
@click.option("--outstanding", default=256, show_default=True, help="Queries under way at most.")
def bench_load(
    mix: str,
    manifests: tuple[Path, ...],
    kubeconfig: Path | None,
    context: str | None,
    zone: str,
    **options: Any,
) -> None:
    """Drive any DNS server with dnsperf, on names of a cluster: from manifests, a kubeconfig, or kubectl's own
    kubeconfig where neither is given."""
    if not manifests and kubeconfig is None:
        kubeconfig = Path.home() / ".kube" / "config"
        if not kubeconfig.is_file():
            raise BenchError(f"no names to ask for: give --manifests or --kubeconfig ({kubeconfig} is not there)")
    with report_of("load", mix=mix, seed=mixes.SEED, **options) as (report, folder):
        known = mixes.read_cluster(manifests=manifests, kubeconfig=kubeconfig, context=context, zone=zone)
        made = mixes.make(mix, known)
        report.note(f"{len(known.services):,} Services, {len(made.questions):,} questions")
        load.run(report, folder, made, **options)


# -- side by side ---------------------------------------------------------------------------------------------------


@main.command("compare", short_help="kdns, nodelocal and every peer found, side by side.")
@click.option("--what", type=click.Choice(["all", "authorities", "forwarders"]), default="all", show_default=True)
@click.option("--services", type=click.IntRange(2), default=10_000, show_default=True, help="Services in the cluster.")
@click.option("--seconds", default=4.0, show_default=True, help="Length of a run.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each server on each mix.")
@click.option(
    "--workers",
    multiple=True,
    type=click.IntRange(1, MAX_WORKERS),
    default=(1, 2),
    show_default=True,
    help="Workers of kdns.",
)
@click.option(
    "--peer",
    multiple=True,
    metavar="NAME=COMMAND",
    help="Another server; its command has places for {port}, {zone} (a master file), {upstream} (a port), {folder}.",
)
def bench_compare(
    what: str, services: int, seconds: float, rounds: int, workers: tuple[int, ...], peer: tuple[str, ...]
) -> None:
    """kdns, nodelocal and every peer found, on the same names, beside the cost of the bare socket API.

    CPU a query of the whole process tree, queries a second, latency at half of the top speed, memory. A peer named by
    --peer with {zone} is measured among the authorities, one with {upstream} among the forwarders.
    """
    peers = [Peer.from_text(text) for text in peer]
    parameters = {"what": what, "services": services, "seconds": seconds, "rounds": rounds, "seed": mixes.SEED}
    with report_of("compare", **parameters, peers=list(peer)) as (report, folder):
        compare.run(
            report,
            folder,
            what=what,
            services=services,
            seconds=seconds,
            rounds=rounds,
            workers=workers,
            peers=peers,
        )


# -- kdns -----------------------------------------------------------------------------------------------------------


@main.command("scale", short_help="Memory and CPU by the number of Services.")
@click.option(
    "--services",
    multiple=True,
    type=click.IntRange(2),
    default=(1_000, 5_000, 10_000, 20_000, 50_000),
    show_default=True,
)
@click.option("--endpoints", default=10, show_default=True, help="Endpoints of each Service.")
@click.option("--headless", default=0.0, show_default=True, help="The share of headless Services.")
@click.option("--namespaces", default=10, show_default=True)
@click.option("--load-seconds", default=4.0, show_default=True, help="Length of the load over UDP, and over TCP.")
@click.option("--flags", default="", help="More flags of kdns serve, such as '--endpoints headless'.")
def bench_scale(services: tuple[int, ...], flags: str, **options: Any) -> None:
    """Seconds and CPU to ready, memory at ready, after a load, in and after a relist, by the number of Services."""
    with report_of("scale", services=list(services), flags=flags, seed=SEED, **options) as (report, folder):
        scale.run(report, folder, sizes=services, flags=flags.split(), seed=SEED, **options)


@main.command("churn", short_help="Queries while the cluster changes.")
@click.option(
    "--services", type=click.IntRange(2), default=5_000, show_default=True, help="Services that stay as they are."
)
@click.option("--small", default=300, show_default=True, help="Headless Services of ten endpoints that are rolled.")
@click.option("--large", default=5_000, show_default=True, help="Endpoints of the large headless Service.")
@click.option("--rate", default=1_000, show_default=True, help="Events a second.")
@click.option("--queries", default=2_000, show_default=True, help="Queries a second.")
@click.option("--seconds", default=10.0, show_default=True, help="Length of each kind of change.")
@click.option(
    "--cost-events",
    default=1_000,
    show_default=True,
    help="Events of each kind whose CPU is measured, at 200 a second; at 1,000 five times as many.",
)
@click.option("--flags", default="", help="More flags of kdns serve, such as '--workers 2'.")
def bench_churn(flags: str, **options: Any) -> None:
    """Latency, wrong and missing answers, and CPU an event, while the cluster changes."""
    with report_of("churn", flags=flags, seed=SEED, **options) as (report, folder):
        churn.run(report, folder, flags=flags.split(), seed=SEED, **options)


@main.command("propagation", short_help="Milliseconds from an event to the answer.")
@click.option("--events", default=500, show_default=True, help="Events of each kind.")
def bench_propagation(events: int) -> None:
    """Milliseconds from an event of the API server to the answer."""
    simple(
        "propagation",
        "From event to answer",
        lambda folder: propagation.rows_of(propagation.run(events)),
        events=events,
    )


@main.command("watch-traffic", short_help="Bytes sent to watchers by an update, by the number of nodes.")
@click.option("--endpoints", default=5_000, show_default=True, help="Endpoints of the Service.")
@click.option("--replicas", default=3, show_default=True, help="Replicas of kdns.")
@click.option("--holders", default=0.2, show_default=True, help="The share of nodes whose cache holds the name.")
@click.option("--nodes", multiple=True, type=int, default=(100, 500, 1_000, 5_000, 10_000, 15_000), show_default=True)
@click.option("--watchers", default=5, show_default=True, help="Real watchers in the simulation.")
@click.option("--subscribers", default=5, show_default=True, help="Real subscribers in the simulation.")
def bench_watch_traffic(**options: Any) -> None:
    """Bytes sent by one update and by a rolling update: Endpoints, EndpointSlices, kdns, kdns and subscriptions."""
    with report_of("watch-traffic", **options) as (report, _):
        watch_traffic.run(report, **options)


@main.command("features", short_help="What further zones and records cost.")
@click.option("--seconds", default=4.0, show_default=True, help="Length of a run.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each way.")
@click.option(
    "--services",
    type=click.IntRange(2),
    default=10_000,
    show_default=True,
    help="Services in the cluster, of ten endpoints each.",
)
@click.option("--imports", default=2_000, show_default=True, help="ServiceImports, of one endpoint each.")
@click.option("--routes", default=2_000, show_default=True, help="HTTPRoutes.")
def bench_features(**options: Any) -> None:
    """Memory, and CPU a query, with the further zones and records all off and all on."""
    simple("features", "Everything off, everything on", lambda folder: features.run(folder, **options), **options)


@main.command("observe", short_help="What the status page, dnstap and logs cost.")
@click.option("--seconds", default=4.0, show_default=True, help="Length of a run.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each way.")
@click.option("--services", type=click.IntRange(2), default=10_000, show_default=True, help="Services in the cluster.")
def bench_observe(**options: Any) -> None:
    """CPU a query while the status page is open, with dnstap, with a log line each; how soon the page is there."""
    with report_of("observe", **options) as (report, folder):
        observe.run(report, folder, **options)


@main.command("workers", short_help="CPU a query by the number of workers, each at the same load.")
@click.option(
    "--count", "counts", type=click.IntRange(1, MAX_WORKERS), multiple=True, help="Beside one [default: processors]."
)
@click.option(
    "--rate",
    "rates",
    type=click.IntRange(100),
    multiple=True,
    default=(10_000, 30_000, 60_000),
    show_default=True,
    help="Queries a second for each worker.",
)
@click.option("--services", type=click.IntRange(2), default=10_000, show_default=True, help="Services in the cluster.")
@click.option("--mix", type=click.Choice(["hot", "cluster", "nx-domain"]), default="hot", show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Length of each run.")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="Turns at each rate.")
def bench_workers(counts: tuple[int, ...], **options: Any) -> None:
    """What a query costs kdns with one worker and with more, at the same load for each of them."""
    counts = counts or (min(os.cpu_count() or 1, MAX_WORKERS),)
    with report_of("workers", seed=mixes.SEED, counts=counts, **options) as (report, folder):
        workers.run(report, folder, counts=counts, **options)


@main.command("unique", short_help="Memory of kdns under names asked for once.")
@click.option("--millions", default=10, show_default=True, help="Names asked for once, in millions.")
def bench_unique(millions: int) -> None:
    """Memory of kdns while names that do not exist are asked for, each once."""
    simple("unique", "Names asked for once", lambda folder: unique.run(folder, millions), millions=millions)


@main.command("connections", short_help="Memory of idle TCP connections.")
@click.option("--connections", "count", default=5_000, show_default=True)
def bench_connections(count: int) -> None:
    """Memory of kdns while thousands of TCP connections are open and quiet."""
    measure = lambda folder: connections.run(folder, connections=count)  # noqa: E731 - as the others are
    simple("connections", "Idle TCP connections", measure, connections=count)


@main.command("feed", short_help="What the change feed costs, and how soon it tells.")
@click.option("--events", default=500, show_default=True, help="Services made while a node's cache denies them.")
@click.option("--subscriptions", default=10_000, show_default=True, help="Subscriptions on the one connection.")
@click.option("--connections", default=1_000, show_default=True, help="Connections to one kdns.")
@click.option("--each", default=50, show_default=True, help="Subscriptions on each of them.")
def bench_feed(events: int, subscriptions: int, **options: int) -> None:
    """Milliseconds until a node's cache follows a change, and what subscriptions cost kdns."""
    with report_of("feed", events=events, subscriptions=subscriptions, **options) as (report, _):
        node = feed.run_node(events)
        report.table("A node", node)
        for row in feed.run_server(subscriptions, options["connections"], options["each"], 50):
            report.table(
                str(row["what"]), [{"figure": key, "value": value} for key, value in row.items() if key != "what"]
            )
        draw(report, "From event to a node's answer", node)


# -- nodelocal ------------------------------------------------------------------------------------------------------


@main.command("latency", short_help="Latency of nodelocal and its peers at a given rate.")
@click.option("--rate", default=2000, show_default=True, help="Queries a second.")
@click.option("--misses", default=0.05, show_default=True, help="The share of names that were never asked for.")
@click.option("--seconds", default=20.0, show_default=True, help="Length of a run.")
def bench_latency(**options: Any) -> None:
    """Milliseconds to the answer of nodelocal at a given rate, some of them forwarded, beside its peers."""
    simple("latency", "Latency at a given rate", lambda folder: latency.run(folder, **options), **options)


@main.command("attacks", short_help="A good client beside each attack.")
@click.option("--seconds", default=10.0, show_default=True, help="Length of an attack.")
@click.option("--flags", default="", help="More options of the server, in one word.")
def bench_attacks(seconds: float, flags: str) -> None:
    """What a good client beside each attack is answered, how soon, and what the server's memory does."""
    with report_of("attacks", seconds=seconds, flags=flags) as (report, folder):
        rows = attacks.run(folder, seconds=seconds, flags=shlex.split(flags))
        report.table(f"200 queries a second beside each attack {flags}".strip(), rows)


@main.command("conntrack", short_help="Connection tracking on a node, by lookups of its pods.")
@click.option("--lookups", type=click.IntRange(1, 60_000), default=1_000, show_default=True, help="Of each kind.")
def bench_conntrack(lookups: int) -> None:
    """Entries in a node's connection tracking after lookups by glibc: straight to the cluster's DNS, behind a plain
    node cache, behind nodelocal. Needs root, iproute2, nftables and conntrack."""
    with report_of("conntrack", lookups=lookups) as (report, _):
        conntrack.run(report, lookups=lookups)


@main.command("expansion", short_help="Queries a lookup, by real resolvers.")
@click.option("--repeats", default=7, show_default=True, help="Lookups of each name.")
def bench_expansion(repeats: int) -> None:
    """Queries a lookup costs with and without search-path expansion, by real resolvers in a network namespace."""
    with report_of("expansion", repeats=repeats) as (report, _):
        expansion.run(report, repeats=repeats)


@main.command("budget", short_help="Memory of nodelocal under names asked for once.")
@click.option("--millions", default=5.0, show_default=True, help="Names asked for once, in millions.")
@click.option("--megabytes", default=32, show_default=True, help="The cache's budget.")
def bench_budget(**options: Any) -> None:
    """Memory of nodelocal at the start and under names that are asked for once."""
    simple("budget", "Names asked for once", lambda folder: budget.run(folder, **options), **options)


def run() -> None:
    """Run the command line; what keeps figures from being made is one line."""
    try:
        main(prog_name="python -m bench", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        _end_interrupted()
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except Exception as exc:
        if _is_due_to_interruption(exc):
            _end_interrupted()
        if not isinstance(exc, BenchError):
            raise
        click.echo(f"bench: {exc}", err=True)
        sys.exit(1)


def _is_due_to_interruption(exc: BaseException) -> bool:
    """Tell whether Ctrl-C is behind it: servers end by it, too, and may be missed before it is noticed here."""
    context: BaseException | None = exc
    while context is not None and not isinstance(context, KeyboardInterrupt):
        context = context.__context__
    try:
        time.sleep(0.2)
    except KeyboardInterrupt:
        return True
    return context is not None


def _end_interrupted() -> NoReturn:
    click.echo("bench: interrupted", err=True)
    sys.exit(130)


if __name__ == "__main__":
    run()
