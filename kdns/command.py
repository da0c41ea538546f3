"""What the command lines of both programs share: options as flags, problems as lines, a program run to its end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime, UTC
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click
import trio

from kdns.clock import SystemClock
from kdns.errors import ConfigError, Problem
from kdns.options import LogFormat, Option

EXIT_USAGE: Final = 2

C = TypeVar("C")


class OptionGroups(click.Command):
    """A command whose help shows its options under the headings of ``Option.group``."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options group by group, the ones without a group last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        heading: Mapping[str, str] = getattr(self.callback, "headings", {})
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                name = max(param.opts, key=len).lstrip("-")
                groups.setdefault(heading.get(name, "Other"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def with_options(options: Sequence[Option]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command each of *options* as a flag, and ``--config``."""

    def decorate_all(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="A TOML file with any of these options as keys; flags win. Read again when it changes, and on SIGHUP.",
        )(command)
        for option in reversed(options):
            shown = option.default if not isinstance(option.default, list) else " ".join(option.default)
            text = option.help if not shown else f"{option.help} [default: {shown}]"
            if option.metavar is None:
                decorate = click.option(f"--{option.name}", is_flag=True, default=False, help=text)
            else:
                decorate = click.option(
                    f"--{option.name}", metavar=option.metavar, multiple=option.is_list, default=None, help=text
                )
            command = decorate(command)
        command.headings = {option.name: option.group for option in options}  # type: ignore[attr-defined]
        return command

    return decorate_all


class Command:
    """One program's way of talking on a terminal; *name* stands in front of its lines."""

    def __init__(self, name: str) -> None:
        self.name = name

    def load(
        self, read: Callable[[Mapping[str, Any], Path | None], C], flags: Mapping[str, Any], file: Path | None
    ) -> C:
        """Return the configuration that *read* makes, or end the program with every problem."""
        try:
            return read(self.named(flags), file)
        except ConfigError as exc:
            self.end_with(exc.problems)

    @staticmethod
    def named(flags: Mapping[str, Any]) -> dict[str, Any]:
        """Return *flags* under the names of the options, as *read* takes them."""
        return {name.replace("_", "-"): value for name, value in flags.items()}

    def end_with(self, problems: Sequence[Problem]) -> NoReturn:
        """Print *problems* and exit with status 2."""
        for problem in problems:
            click.echo(f"{self.name}: {problem}", err=True)
        sys.exit(EXIT_USAGE)

    def announcer(self, log_format: LogFormat) -> Callable[[str], None]:
        """Return what prints the lines of the program's life: in the form of the log, so both can be read as one."""
        if log_format is LogFormat.TEXT:
            return click.echo
        return lambda line: click.echo(
            json.dumps(
                {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    "level": "info",
                    "logger": self.name,
                    "message": line.removeprefix(f"{self.name}: "),
                }
            )
        )

    def run(self, main: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        """Run *main* under trio; problems, Ctrl-C and output that cannot be written end it with a line each."""
        try:
            trio.run(main, *arguments, clock=SystemClock())
        except* ConfigError as group:
            self.end_with(
                [problem for exc in _leaves(group) if isinstance(exc, ConfigError) for problem in exc.problems]
            )
        except* KeyboardInterrupt:
            sys.exit(130)
        except* BrokenPipeError:
            sys.stdout = None  # whoever read it is gone; nothing is left to flush to
            sys.exit(1)
        except* OSError as group:
            click.echo(f"{self.name}: {next(_leaves(group))}", err=True)
            sys.exit(1)


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
