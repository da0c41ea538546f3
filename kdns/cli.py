"""The command line of ``kdns``: serve, zone, check, demo."""

from __future__ import annotations

import logging
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import trio

from kdns import config
from kdns.admin import logs
from kdns.cluster import api_or_manifests, Cluster, counts_of
from kdns.command import Command, OptionGroups, with_options
from kdns.control.client import Access, ApiServer
from kdns.control.manifests import ManifestSource
from kdns.errors import ClusterError, ConfigError, Problem
from kdns.generation import run_generation
from kdns.keeper import Keeper
from kdns.net.listeners import Sockets
from kdns.options import LogFormat
from kdns.privileges import keep_only, READING
from kdns.program import bind_all
from kdns.proto.text import rrset_to_text
from kdns.reload import ConfigFile
from kdns.serve import Server
from kdns.top import top_command
from kdns.upstream.servers import Protocol, server_from_text
from kdns.upstream.servers import Server as UpstreamServer
from kdns.version import VERSION_TEXT
from kdns.workers.controller import Controller, make_spawner
from kdns.workers.spawner import Spawner
from zones.errors import BadName
from zones.names import Name
from zones.objects import Kind, ObjectKey
from zones.records import address_from_text, rrtype_from_text
from zones.reverse import reverse_name

LIST_SECONDS: Final = 30.0
"""How long a command waits for an API server to have told everything."""
HOPELESS_SECONDS: Final = 5.0
"""Where an API server is not there, or refuses everything, there is no waiting longer than this."""


COMMAND: Final = Command("kdns")

config_options = with_options(config.OPTIONS)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION_TEXT, prog_name="kdns")
def main() -> None:
    """DNS for Kubernetes clusters: the authoritative server.

    Answers for the Services, endpoints and pods of a cluster, from its API server or from manifests, and follows
    every change. Try `kdns demo`.
    """


main.add_command(top_command("kdns", 9153))


@main.command(cls=OptionGroups, short_help="Answer DNS queries until stopped.")
@config_options
def serve(config_file: Path | None, **flags: Any) -> None:
    """Answer DNS queries until stopped."""
    conf = COMMAND.load(config.load, flags, config_file)
    logs.set_up(as_json=conf.log_format is LogFormat.JSON)
    if config_file is not None:
        sys.exit(
            _serve_and_follow(
                conf,
                ConfigFile(
                    config_file, lambda: config.load(COMMAND.named(flags), config_file), conf, fixed=FIXED, kept=KEPT
                ),
            )
        )
    COMMAND.run(_serve, conf, _spawner_for(conf))


FIXED: Final = {"listen": "listen", "listen_tls": "listen-tls", "admin": "admin", "workers": "workers"}
KEPT: Final = ("cookie_secret",)


def _spawner_for(conf: config.Config) -> Spawner | None:
    return make_spawner(conf) if conf.workers > 1 else None


def _server_of(conf: config.Config, spawner: Spawner | None) -> Server | Controller:
    announce = COMMAND.announcer(conf.log_format)
    server = Server(conf, announce=announce) if spawner is None else Controller(conf, spawner, announce=announce)
    _check_credentials(conf)
    return server


async def _serve(conf: config.Config, spawner: Spawner | None) -> None:
    server = _server_of(conf, spawner)
    server.bind()
    keep_only(READING)
    server.load()
    await server.run()


def _serve_and_follow(conf: config.Config, file: ConfigFile[config.Config]) -> int:
    """Serve one configuration after the other, as *file* has them; return the status to exit with."""
    try:
        sets, admin = bind_all(conf.listen, conf.listen_tls, conf.admin, conf.workers)
    except ConfigError as exc:
        COMMAND.end_with(exc.problems)
    keep_only(READING)

    def serve_one(new: config.Config, link: socket.socket, succeeds: bool) -> int:
        logs.set_up(as_json=new.log_format is LogFormat.JSON)
        COMMAND.run(_serve_generation, new, _spawner_for(new), sets, admin, link, succeeds)
        return 0

    return Keeper(file, serve_one, lambda config: config.lameduck).run()


async def _serve_generation(
    conf: config.Config,
    spawner: Spawner | None,
    sets: list[Sockets],
    admin: list[socket.socket],
    link: socket.socket,
    succeeds: bool,
) -> None:
    server = _server_of(conf, spawner)
    server.check()
    server.program.adopt(sets, admin)
    server.load()
    await run_generation(server, link, succeeds=succeeds)


def _check_credentials(conf: config.Config) -> None:
    if conf.access is not None and conf.access.kubeconfig is not None:
        try:
            ApiServer(conf.access).check_files()
        except ClusterError as exc:
            where = f"--kubeconfig {conf.access.kubeconfig}"
            raise ConfigError([Problem(where, str(exc), "a kubeconfig that can be used")]) from exc


@main.command(cls=OptionGroups, short_help="Print the records of a zone as a master file.")
@click.argument("origin", required=False)
@config_options
def zone(origin: str | None, config_file: Path | None, **flags: Any) -> None:
    """Print the records of a zone as a master file: ORIGIN, or the first --zone."""
    conf = COMMAND.load(config.load, flags, config_file)
    logs.set_up(as_json=conf.log_format is LogFormat.JSON)
    try:
        wanted = Name.from_text(origin) if origin else conf.zones[0]
    except BadName as exc:
        COMMAND.end_with([Problem("ORIGIN", repr(origin), f"a domain name ({exc})")])
    COMMAND.run(_print_zone, conf, wanted)


async def _print_zone(conf: config.Config, origin: Name) -> None:
    cluster = Cluster(conf)
    chosen = next((zone for zone in cluster.zones.all if zone.origin == origin), None)
    if chosen is None:
        served = ", ".join(zone.origin.to_text() for zone in cluster.zones.all)
        raise ConfigError([Problem("ORIGIN", origin.to_text(), f"a zone that is served: {served}")])
    _check_credentials(conf)
    cluster.load()
    if not cluster.sink.is_synced:
        await _sync(cluster)
    click.echo(f"$ORIGIN {origin.to_text()}")
    for rrset in cluster.zones.records(chosen.origin):
        for line in rrset_to_text(rrset):
            click.echo(line)


async def _sync(cluster: Cluster) -> None:
    sink = cluster.sink

    async def see_whether_it_is_there() -> None:
        await trio.sleep(HOPELESS_SECONDS)
        while not sink.is_hopeless:  # noqa: ASYNC110 - it comes and goes with every try
            await trio.sleep(1)
        scope.cancel()

    click.echo(f"kdns: waiting for the API server, {LIST_SECONDS:g} s at most", err=True)
    with trio.move_on_after(LIST_SECONDS) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.source.run)
            nursery.start_soon(see_whether_it_is_there)
            await cluster.synced.wait()
            nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        missing = sorted(kind.value for kind in sink.missing())
        found = "; ".join(sink.troubles.values()) or f"no whole list of {', '.join(missing)}"
        is_there = f"everything listed within {LIST_SECONDS:g} s"
        wanted = "one that is there, and may be listed from" if sink.is_hopeless else is_there
        raise ConfigError([Problem("API server", found, wanted)])


@main.command(cls=OptionGroups, short_help="Check the configuration and the manifests.")
@config_options
def check(config_file: Path | None, **flags: Any) -> None:
    """Check the configuration, and the manifests if it names some; print every problem.

    That no source of objects is named is none: in a pod it is the service account.
    """
    conf = COMMAND.load(partial(config.load, needs_source=False), flags, config_file)
    logs.set_up(as_json=False)
    COMMAND.run(_check, conf)


async def _check(conf: config.Config) -> None:
    server = Server(conf)
    _check_credentials(conf)
    server.check()
    problems: list[Problem] = []
    try:
        server.cluster.load(tells=False)
    except ConfigError as exc:
        problems += exc.problems
    problems += [problem for some in server.cluster.static.problems.values() for problem in some]
    if problems:
        raise ConfigError(problems)
    click.echo("kdns: the configuration is good")
    if conf.access == Access():
        click.echo("kdns: objects will come from the API server of the pod's service account")
    if isinstance(server.cluster.source, ManifestSource):
        click.echo(f"kdns: the manifests are good: {counts_of(server.cluster.sink)}")


@main.command(cls=OptionGroups, short_help="Compare another server's answers with kdns's.")
@click.option(
    "--against", required=True, metavar="SERVER", help="The other server: an address, ADDR:PORT, tls://ADDR#NAME."
)
@click.option(
    "--names",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Ask for the names in this file as well: a name and perhaps a type on each line, or a dnstap capture.",
)
@config_options
def diff(against: str, names: Path | None, config_file: Path | None, **flags: Any) -> None:
    """Ask another server everything that there is in the cluster, and tell what it answers otherwise, and why.

    The objects come from where kdns's would; no kdns needs to be running. Status 1 where a difference has no reason.
    """
    conf = COMMAND.load(config.load, flags, config_file)
    logs.set_up(as_json=False, level=logging.WARNING)
    try:
        server = server_from_text(against, default=Protocol.TCP)
    except ValueError as exc:
        COMMAND.end_with([Problem("--against", repr(against), f"an address, ADDR:PORT or tls://ADDR#NAME ({exc})")])
    COMMAND.run(_diff, conf, server, names)


async def _diff(conf: config.Config, server: UpstreamServer, names: Path | None) -> None:
    from kdns.migrate.difference import compare, questions_of
    from kdns.migrate.names import names_in

    cluster = Cluster(conf)
    more = names_in(names) if names is not None else []
    _check_credentials(conf)
    cluster.load()
    if not cluster.sink.is_synced:
        await _sync(cluster)

    def progress(count: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\rkdns: {count:,} questions", nl=False, err=True)

    comparison = await compare(cluster, server, [*questions_of(cluster), *more], progress=progress)
    if sys.stderr.isatty():
        click.echo(err=True)
    for difference in comparison.differences:
        click.echo(str(difference))
    for text, count in comparison.ttl_alone.most_common():
        click.echo(f"{count:,} answers with another TTL: {text}")
    click.echo(
        f"{comparison.same + sum(comparison.ttl_alone.values()):,} answers alike, {len(comparison.differences):,} not, "
        f"{comparison.unexplained:,} of them without a reason"
    )
    if comparison.unexplained:
        sys.exit(1)


@main.command("explain", cls=OptionGroups, short_help="Say why a name is answered as it is.")
@click.argument("name")
@click.argument("rrtype", metavar="[TYPE]", default="A")
@click.option(
    "--as", "pod", metavar="NAMESPACE[/POD]", help="As a pod of that namespace: every step of its search path."
)
@config_options
def explain_command(name: str, rrtype: str, pod: str | None, config_file: Path | None, **flags: Any) -> None:
    """Say which zone, rule and objects give or deny the answer to NAME [TYPE].

    The objects come from where kdns's would; no kdns needs to be running.
    """
    conf = COMMAND.load(config.load, flags, config_file)
    logs.set_up(as_json=False, level=logging.WARNING)
    try:
        with suppress(ValueError):  # an address: whose it is
            name, rrtype = reverse_name(address_from_text(name)).to_text(), "PTR" if rrtype == "A" else rrtype
        qname, qtype = Name.from_text(name), rrtype_from_text(rrtype.upper())
    except (BadName, ValueError) as exc:
        COMMAND.end_with([Problem(f"{name} {rrtype}", str(exc), "a domain name and a type such as AAAA")])
    COMMAND.run(_explain, conf, name, qname, qtype, pod.partition("/")[0] if pod else None)


async def _explain(conf: config.Config, typed: str, qname: Name, qtype: int, namespace: str | None) -> None:
    from kdns.explain import explain, explain_as

    versions: dict[tuple[Kind, ObjectKey], str] = {}
    cluster = Cluster(conf, api_or_manifests(conf, versions=versions))
    _check_credentials(conf)
    cluster.load()
    if not cluster.sink.is_synced:
        await _sync(cluster)
    if namespace is None:
        lines = explain(cluster, qname, qtype, versions)
    else:
        lines = explain_as(cluster, conf, typed, qtype, namespace, versions)
    for line in lines:
        click.echo(line)
    if namespace is None and not typed.endswith(".") and len(qname.labels) < 2:
        click.echo("a pod looks it up along its search path, from its own namespace: --as NAMESPACE")


@main.command("import", short_help="Write a Corefile's options as ours.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--for", "program", type=click.Choice(["kdns", "nodelocal"]), help="Whose options [default: as it looks]."
)
@click.option("--output", type=click.Path(path_type=Path), help="Where to [default: standard output].")
def import_command(file: Path, program: str | None, output: Path | None) -> None:
    """Read a Corefile of CoreDNS or NodeLocal DNSCache, or a ConfigMap with one (or with kube-dns's stubDomains), and
    write a configuration file.

    What became of every line that is no option of ours is told on standard error; status 1 if nothing here does the
    work of some of them.
    """
    from kdns.migrate.sources import import_text

    try:
        imported = import_text(file.read_text(encoding="utf-8"), str(file), program)
    except (OSError, UnicodeDecodeError) as exc:
        COMMAND.end_with([Problem(str(file), str(exc), "a Corefile")])
    except ConfigError as exc:
        COMMAND.end_with(exc.problems)
    if output is not None:
        try:
            output.write_text(imported.toml(), encoding="utf-8")
        except OSError as exc:
            COMMAND.end_with([Problem(f"--output {output}", exc.strerror or str(exc), "a file that can be written")])
    else:
        click.echo(imported.toml(), nl=False)
    for note in sorted(imported.notes, key=lambda note: note.line):
        click.echo(f"kdns: {note}", err=True)
    lost = sum(note.is_lost for note in imported.notes)
    click.echo(f"kdns: options of {imported.program}; {lost or 'nothing'} without a counterpart", err=True)
    sys.exit(1 if lost else 0)


@main.command(short_help="Serve an example cluster and ask it a tour of questions.")
@click.option("--keep/--no-keep", default=None, help="Stay up after the tour, or not [default: on a terminal].")
def demo(keep: bool | None) -> None:
    """Serve an example cluster on loopback and ask it a tour of questions."""
    from kdns.demo import run_demo

    logs.set_up(as_json=False)
    COMMAND.run(run_demo, sys.stdout.isatty() if keep is None else keep)
