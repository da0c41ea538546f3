"""Run the soak: python -m tests.soak [--seconds S] [--seed N]. Status 1 where an answer was wrong or missing, or something grew."""

from __future__ import annotations

import random
import sys

import click

from tests.soak.run import soak

SHOWN = 200
"""Lines of a kind, where something was wrong."""


@click.command()
@click.option("--seconds", type=click.FloatRange(10), default=1800.0, show_default=True, help="How long.")
@click.option("--seed", type=int, default=None, help="What happens; printed, and so can be repeated.")
@click.option(
    "--pause", type=click.FloatRange(0.1), default=1.2, show_default=True, help="Seconds from fault to fault, about."
)
def main(seconds: float, seed: int | None, pause: float) -> None:
    """Serve a cluster that changes, break something every moment, and compare every answer with the truth."""
    seed = random.randrange(1 << 30) if seed is None else seed
    click.echo(f"soak: {seconds:g} s, seed {seed}")
    result = soak(seconds, seed, pause=pause, tell=click.echo)
    click.echo(result.text())
    if result.problems():
        for program, output in result.outputs.items():
            click.echo("\n".join((f"\n-- {program} printed, at last:", *output.splitlines()[-SHOWN:])))
        click.echo("\n".join(("\n-- faults, at last:", *result.happened[-SHOWN:])))
        click.echo("\n".join(("\n-- problems:", *result.problems()[:20])))
        click.echo(f"to repeat: python -m tests.soak --seconds {seconds:g} --seed {seed} --pause {pause:g}")
        sys.exit(1)


if __name__ == "__main__":
    main()
