"""``kdns top`` and ``nodelocal top``: what a running program does, live, on a terminal."""

from __future__ import annotations

import sys

import click

from kdns.command import Command
from kdns.errors import ConfigError, Problem
from kdns.net.addresses import listen_from_text


def top_command(name: str, default_port: int) -> click.Command:
    """Return the command ``top`` of the program *name*."""

    @click.command("top", short_help="Show what a running one does, live.")
    @click.option(
        "--admin",
        metavar="ADDR:PORT",
        default=f"127.0.0.1:{default_port}",
        show_default=True,
        help="Its --admin address.",
    )
    @click.option(
        "--every", type=click.FloatRange(0.5, 60), default=2.0, show_default=True, help="Seconds from look to look."
    )
    @click.option("--once", is_flag=True, help="Look once, print it and end; so too where the output is no terminal.")
    def top(admin: str, every: float, once: bool) -> None:
        """Show rates, latencies, RCODEs, the names and clients that matter, and the upstreams; Ctrl-C ends it.

        Names and clients are counted from a sample of the queries, over the last half minute or so.
        """
        from kdns.top.screen import run_top

        command = Command(name)
        try:
            address = listen_from_text(admin, default_port=default_port)
        except ValueError as exc:
            command.end_with(
                [Problem("--admin", f"{admin!r} ({exc})", f"an address and port such as 127.0.0.1:{default_port}")]
            )
        try:
            run_top(address, every=every, once=once or not sys.stdout.isatty())
        except ConfigError as exc:
            command.end_with(exc.problems)
        except KeyboardInterrupt:
            pass

    return top
