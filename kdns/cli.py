"""The command line of ``kdns``: serve, zone, check, demo."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import trio

from kdns import config
from kdns.admin import logs
from kdns.control.client import ApiServer
from kdns.control.manifests import ManifestSource
from kdns.errors import ClusterError, ConfigError, Problem
from kdns.proto.text import rrset_to_text
from kdns.serve import Cluster, Server
from kdns.version import VERSION
from zones.errors import BadName
from zones.names import Name

EXIT_USAGE: Final = 2
LIST_SECONDS: Final = 30.0
"""How long ``kdns zone`` waits for an API server to have told everything."""


class OptionGroups(click.Command):
    """A command whose help shows its options under the headings of ``config.Option.group``."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options group by group, the ones without a group last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        heading = {option.name: option.group for option in config.OPTIONS}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                name = max(param.opts, key=len).lstrip("-")
                groups.setdefault(heading.get(name, "Other"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give *command* every option of the configuration, and ``--config``."""
    command = click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A TOML file with any of these options as keys; flags win.",
    )(command)
    for option in reversed(config.OPTIONS):
        shown = option.default if not isinstance(option.default, list) else " ".join(option.default)
        text = option.help if not shown else f"{option.help} [default: {shown}]"
        if option.metavar is None:
            decorate = click.option(f"--{option.name}", is_flag=True, default=False, help=text)
        else:
            decorate = click.option(
                f"--{option.name}", metavar=option.metavar, multiple=option.is_list, default=None, help=text
            )
        command = decorate(command)
    return command


def load_config(flags: dict[str, Any], file: Path | None) -> config.Config:
    """Return the configuration, or end the program with every problem."""
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    try:
        return config.load(named, file)
    except ConfigError as exc:
        end_with(exc.problems)


def end_with(problems: Sequence[Problem]) -> NoReturn:
    """Print *problems* and exit with status 2."""
    for problem in problems:
        click.echo(f"kdns: {problem}", err=True)
    sys.exit(EXIT_USAGE)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="kdns")
def main() -> None:
    """DNS for Kubernetes clusters: the authoritative server.

    Answers for the Services, endpoints and pods of a cluster, from its API server or from manifests, and follows
    every change. Try `kdns demo`.
    """


@main.command(cls=OptionGroups, short_help="Answer DNS queries until stopped.")
@config_options
def serve(config_file: Path | None, **flags: Any) -> None:
    """Answer DNS queries until stopped."""
    conf = load_config(flags, config_file)
    logs.set_up(as_json=conf.log_format is config.LogFormat.JSON)
    run(_serve, conf)


async def _serve(conf: config.Config) -> None:
    server = Server(conf, announce=_announcer(conf))
    _check_credentials(conf)
    server.bind()
    server.cluster.load()
    await server.run()


def _announcer(conf: config.Config) -> Callable[[str], None]:
    """Return what prints the lines of the program's life: in the form of the log, so that both can be read as one."""
    if conf.log_format is config.LogFormat.TEXT:
        return click.echo
    return lambda line: click.echo(
        json.dumps({"level": "info", "logger": "kdns", "message": line.removeprefix("kdns: ")})
    )


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
    conf = load_config(flags, config_file)
    logs.set_up(as_json=conf.log_format is config.LogFormat.JSON)
    try:
        wanted = Name.from_text(origin) if origin else conf.zones[0]
    except BadName as exc:
        end_with([Problem("ORIGIN", repr(origin), f"a domain name ({exc})")])
    run(_print_zone, conf, wanted)


async def _print_zone(conf: config.Config, origin: Name) -> None:
    cluster = Cluster(conf)
    chosen = next((zone for zone in cluster.zones if zone.origin == origin), None)
    if chosen is None:
        served = ", ".join(zone.origin.to_text() for zone in cluster.zones)
        raise ConfigError([Problem("ORIGIN", origin.to_text(), f"a zone that is served: {served}")])
    _check_credentials(conf)
    cluster.load()
    if not cluster.sink.is_synced:
        await _sync(cluster)
    click.echo(f"$ORIGIN {origin.to_text()}")
    for rrset in chosen.walk():
        for line in rrset_to_text(rrset):
            click.echo(line)


async def _sync(cluster: Cluster) -> None:
    click.echo(f"kdns: waiting for the API server, {LIST_SECONDS:g} s at most", err=True)
    with trio.move_on_after(LIST_SECONDS) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.source.run)
            await cluster.synced.wait()
            nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        found = "; ".join(cluster.sink.troubles.values()) or f"no whole list of {', '.join(cluster.sink.missing())}"
        raise ConfigError([Problem("API server", found, f"everything listed within {LIST_SECONDS:g} s")])


@main.command(cls=OptionGroups, short_help="Check the configuration and the manifests.")
@config_options
def check(config_file: Path | None, **flags: Any) -> None:
    """Check the configuration, and the manifests if it names some; print every problem."""
    conf = load_config(flags, config_file)
    logs.set_up(as_json=False)
    run(_check, conf)


async def _check(conf: config.Config) -> None:
    server = Server(conf)
    _check_credentials(conf)
    server.check_upstreams()
    server.cluster.load()
    click.echo("kdns: the configuration is good")
    if isinstance(server.cluster.source, ManifestSource):
        click.echo(f"kdns: the manifests are good: {server.cluster.counts()}")


@main.command(short_help="Serve an example cluster and ask it a tour of questions.")
@click.option("--keep/--no-keep", default=None, help="Stay up after the tour, or not [default: on a terminal].")
def demo(keep: bool | None) -> None:
    """Serve an example cluster on loopback and ask it a tour of questions."""
    from kdns.demo import run_demo

    logs.set_up(as_json=False)
    run(run_demo, sys.stdout.isatty() if keep is None else keep)


def run(main: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
    """Run *main* under trio; problems, Ctrl-C and output that cannot be written end the program with a line each."""
    try:
        trio.run(main, *arguments)
    except* ConfigError as group:
        end_with([problem for exc in _leaves(group) if isinstance(exc, ConfigError) for problem in exc.problems])
    except* KeyboardInterrupt:
        sys.exit(130)
    except* BrokenPipeError:
        sys.stdout = None  # whoever read it is gone; nothing is left to flush to
        sys.exit(1)
    except* OSError as group:
        click.echo(f"kdns: {next(_leaves(group))}", err=True)
        sys.exit(1)


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
