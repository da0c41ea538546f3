"""The command line of ``nodelocal``: serve, check, and what a running one is asked: stats, dump, flush, explain."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from kdns.admin import logs
from kdns.command import Command, OptionGroups, with_options
from kdns.errors import ConfigError, Problem
from kdns.options import LogFormat
from kdns.privileges import keep_only, READING
from kdns.reload import ConfigFile
from kdns.top import top_command
from kdns.version import VERSION_TEXT
from kdns.workers.spawner import Spawner
from nodelocal import config, probe
from nodelocal.control import request
from nodelocal.network.plan import NODE
from nodelocal.network.setup import Network
from nodelocal.route import CLUSTER, UPSTREAM
from nodelocal.serve import Server
from nodelocal.supervise.supervisor import make_spawner, Supervisor
from nodelocal.telling import entry_lines, explanation

T = TypeVar("T")

COMMAND: Final = Command("nodelocal")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION_TEXT, prog_name="nodelocal")
def main() -> None:
    """DNS for Kubernetes nodes: the caching forwarder.

    Answers from its cache, asks the cluster's DNS for the cluster's names and the node's resolvers for all others, and
    walks the search paths of pods on their behalf.
    """


main.add_command(top_command("nodelocal", 9253))


@main.command(cls=OptionGroups, short_help="Answer DNS queries until stopped.")
@with_options(config.OPTIONS)
def serve(config_file: Path | None, **flags: Any) -> None:
    """Answer DNS queries until stopped."""
    conf = COMMAND.load(config.load, flags, config_file)
    logs.set_up(as_json=conf.log_format is LogFormat.JSON)
    if config_file is not None:
        file = ConfigFile(
            config_file,
            lambda: config.load(COMMAND.named(flags), config_file),
            conf,
            fixed=FIXED,
            kept=("cookie_secret",),
        )
        COMMAND.run(_supervise, conf, make_spawner(), file)
    elif conf.plan is not None or conf.supervise:
        COMMAND.run(_supervise, conf, make_spawner(), None)
    else:
        COMMAND.run(_serve, conf)


FIXED: Final = {
    "listen": "listen",
    "admin": "admin",
    "control": "control",
    "plan": "the node's network",
}


async def _supervise(conf: config.Config, spawner: Spawner, file: ConfigFile[config.Config] | None) -> None:
    server = Server(conf)
    server.check()
    server.load()
    keep_only(READING, "net_admin", "net_bind_service")
    announce = COMMAND.announcer(conf.log_format)
    await Supervisor(conf, spawner, file=file, check=lambda new: Server(new).check(), announce=announce).run()


async def _serve(conf: config.Config) -> None:
    server = Server(conf, announce=COMMAND.announcer(conf.log_format))
    server.load()
    server.bind()
    keep_only(READING)
    await server.run()


@main.command(cls=OptionGroups, short_help="Check the configuration.")
@with_options(config.OPTIONS)
def check(config_file: Path | None, **flags: Any) -> None:
    """Check the configuration; print every problem. Nothing is bound and nobody is asked."""
    conf = COMMAND.load(config.load, flags, config_file)
    logs.set_up(as_json=False)
    COMMAND.run(_check, conf)


async def _check(conf: config.Config) -> None:
    server = Server(conf)
    server.check()
    server.load(tells=False)
    if problems := [problem for some in server.static.problems.values() for problem in some]:
        raise ConfigError(problems)
    click.echo("nodelocal: the configuration is good")
    for route in server.routes.all:
        then = "" if route.then is None else f", then {_servers(conf, route.then)}"
        click.echo(f"  {route.zone.to_text():28} {_servers(conf, route.servers)}{then}")
    click.echo(f"  search paths: {conf.expand.value}")


@main.group(short_help="The node's addresses and rules: up, down, check.")
def network() -> None:
    """Put the node's addresses and rules up, take them down, or look whether they are as they should be.

    `nodelocal serve --setup-network` does the first by itself and repairs them as long as it runs. They stay when it
    ends: without an answer from here the rules leave all queries to the cluster's DNS.
    """


_PLAN_OPTIONS: Final = [
    option
    for option in config.OPTIONS
    if option.name == "listen" or (option.group == NODE and option.name not in ("setup-network", "supervise"))
]


def _network(name: str) -> Callable[[Any], Any]:
    return lambda command: network.command(name, cls=OptionGroups)(with_options(_PLAN_OPTIONS)(command))


@_network("up")
def up(config_file: Path | None, **flags: Any) -> None:
    """Put the addresses and the rules up, where they are not: all of them, or none."""
    if not _done(_plan(config_file, flags).up):
        click.echo("nodelocal: everything is up already")


@_network("down")
def down(config_file: Path | None, **flags: Any) -> None:
    """Take the rules and the addresses away: pods that ask at the local address are not answered any more."""
    if not _done(_plan(config_file, flags).down):
        click.echo("nodelocal: there is nothing to take down")


@_network("check")
def look(config_file: Path | None, **flags: Any) -> None:
    """Look whether the addresses and the rules are as they should be; status 1 if they are not."""
    wrong = _done(_plan(config_file, flags).check)
    for line in wrong:
        click.echo(f"nodelocal: {line}", err=True)
    if wrong:
        sys.exit(1)
    click.echo("nodelocal: addresses and rules are as they should be")


def _plan(file: Path | None, flags: dict[str, Any]) -> Network:
    return Network(COMMAND.load(config.load_plan, flags, file), lambda line: click.echo(f"nodelocal: {line}"))


def _done(work: Callable[[], T]) -> T:
    """Return what *work* does, or end the program with what is wrong."""
    try:
        return work()
    except ConfigError as exc:
        COMMAND.end_with(exc.problems)


@main.command(short_help="Both programs on an example cluster, all queries counted.")
@click.option("--keep/--no-keep", default=None, help="Stay up after it, or not [default: on a terminal].")
def demo(keep: bool | None) -> None:
    """Run kdns and nodelocal on loopback: kdns's tour, then the same lookups with and without expansion, counted."""
    from nodelocal.demo import run_demo

    logs.set_up(as_json=False)
    COMMAND.run(run_demo, sys.stdout.isatty() if keep is None else keep)


def _servers(conf: config.Config, group: str) -> str:
    """Return who is asked in a group of servers."""
    groups: dict[str, tuple[object, ...]] = {CLUSTER: conf.cluster, UPSTREAM: conf.upstreams}
    if conf.cluster_service is not None:
        groups[CLUSTER] = (conf.cluster_service, *conf.cluster)
    groups |= {zone.to_text(): servers for zone, servers in conf.stubs.items()}
    return " ".join(map(str, groups[group]))


def _control(command: Any) -> Any:
    return click.option(
        "--control",
        type=click.Path(path_type=Path),
        default=config.DEFAULT_CONTROL,
        show_default=True,
        metavar="PATH",
        help="The control socket of the process that is asked.",
    )(command)


@main.command(short_help="Show what a running nodelocal has done.")
@_control
def stats(control: Path) -> None:
    """Show what a running nodelocal has done: queries, cache, search paths, upstreams."""
    _show(_asked(control, {"do": "stats"}))


@main.command("probe", short_help="For a kubelet: does it live, is it ready?", add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def probe_command(words: tuple[str, ...]) -> None:
    """Ask the control socket whether nodelocal lives, or is ready."""
    sys.exit(probe.main(list(words)))  # in a process of its own ``nodelocal.start`` comes here first, and sooner


@main.command(short_help="Show what its cache holds, or what it has of NAME.")
@click.argument("name", required=False)
@_control
def dump(name: str | None, control: Path) -> None:
    """Show what the cache holds: all of it, or of NAME itself."""
    is_empty = True
    for entry in _lines(control, {"do": "dump", "name": name}):
        for line in entry_lines(entry):
            click.echo(line)
        is_empty = False
    if is_empty:
        click.echo(f"nodelocal: nothing is cached{' of that name' if name else ''}", err=True)


@main.command(short_help="Forget what its cache holds, or NAME and what is below.")
@click.argument("name", required=False)
@_control
def flush(name: str | None, control: Path) -> None:
    """Forget what the cache holds: all of it, or of NAME and the names below it."""
    count = _asked(control, {"do": "flush", "name": name})["flushed"]
    click.echo(f"{count} {'entry' if count == 1 else 'entries'} forgotten")


@main.command(short_help="Resolve NAME as for a client and show how.")
@click.argument("name")
@click.argument("rrtype", metavar="[TYPE]", default="A")
@click.option("--from", "client", metavar="ADDRESS", help="As if this client had asked: matters with --node.")
@_control
def explain(name: str, rrtype: str, client: str | None, control: Path) -> None:
    """Resolve NAME as for a client, and show the route, the steps of a search path, and the entries of the answer."""
    reply = _asked(control, {"do": "explain", "name": name, "type": rrtype, "from": client})
    for line in explanation(reply):
        click.echo(line)


def _asked(control: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the one line of a reply."""
    return next(_lines(control, asked), {})


def _lines(control: Path, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the lines of the reply of the process at *control*, or end the program with what is wrong."""
    try:
        for reply in request(control, asked):
            if "error" in reply:
                click.echo(f"nodelocal: {reply['error']}", err=True)
                sys.exit(2)
            yield reply
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        COMMAND.end_with([Problem(f"--control {control}", reason, "the control socket of a running nodelocal")])


def _show(tree: dict[str, Any], indent: str = "") -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{key}:")
            _show(value, indent + "  ")
        elif value is not None:
            click.echo(f"{indent}{key}: {value}")
