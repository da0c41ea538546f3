"""Run targets for long: python -m tests.fuzz [TARGET …] [--inputs N | --seconds S] [--seed N] [--coverage].

Mutated inputs by a seed that is printed; with --coverage atheris guides the way instead (``pip install '.[fuzz]'``).
An input that breaks a target is written to tests/fuzz/corpus, so that the suite runs it from then on.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

import click

from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import CORPUS, Target, TARGETS

TELL_SECONDS = 10.0


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(TARGETS)), metavar="[TARGET]…")
@click.option("--inputs", type=click.IntRange(1), help="Inputs for each target.")
@click.option("--seconds", type=click.FloatRange(0.1), help="Seconds for each target [default: 60].")
@click.option("--seed", type=int, default=None, help="What to make the inputs from.")
@click.option("--coverage", is_flag=True, help="Let atheris choose inputs by what code they reach.")
def main(
    names: tuple[str, ...], inputs: int | None, seconds: float | None, seed: int | None, *, coverage: bool
) -> None:
    """Fuzz each TARGET, or all of them."""
    seed = random.randrange(1 << 30) if seed is None else seed
    limit = seconds or (float("inf") if inputs else 60.0)
    failed = []
    for name in names or TARGETS:
        target = TARGETS[name]
        if coverage:
            ok = _guided(target, limit, seed)
        else:
            ok = _mutated(target, inputs or sys.maxsize, limit, seed)
        if not ok:
            failed.append(name)
    if failed:
        sys.exit(f"broken: {', '.join(failed)}")


def _mutated(target: Target, inputs: int, limit: float, seed: int) -> bool:
    mutator = Mutator(target.seeds, seed)
    began = told = time.monotonic()
    number = 0
    for number in range(inputs):
        data = mutator.next()
        try:
            target.run(data)
        except BaseException as exc:
            if isinstance(exc, KeyboardInterrupt):
                raise
            path = keep(target, data)
            click.echo(f"{target.name}: seed {seed}, input {number}: {type(exc).__name__}: {exc}\nkept as {path}")
            return False
        if not number % 64 and (now := time.monotonic()) - began > limit:
            break
        if not number % 64 and now - told > TELL_SECONDS:
            told = now
            click.echo(f"{target.name}: {number:,} inputs")
    seconds = time.monotonic() - began
    click.echo(f"{target.name}: {number + 1:,} inputs of seed {seed} in {seconds:.1f} s: nothing found")
    return True


def keep(target: Target, data: bytes) -> Path:
    """Write an input to the corpus."""
    path = CORPUS / target.name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _guided(target: Target, limit: float, seed: int) -> bool:
    """Atheris ends its process, so it gets one for each target."""
    command = [sys.executable, "-m", "tests.fuzz.guided", target.name, f"{limit:.0f}", str(seed)]
    return not subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    main()
