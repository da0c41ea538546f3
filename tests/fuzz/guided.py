"""One target under atheris: python -m tests.fuzz.guided TARGET SECONDS SEED. It ends the process."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

INSTRUMENTED = ("kdns", "nodelocal", "zones")


def main() -> None:
    """Fuzz until the time is up, or something is found."""
    name, seconds, seed = sys.argv[1:]
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from tests.fuzz.__main__ import keep
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except BaseException as exc:
            print(f"{target.name}: {type(exc).__name__}: {exc}; kept as {keep(target, data)}", flush=True)
            raise

    folder = Path(tempfile.mkdtemp())  # the process ends without a chance to remove it; it has some small files
    for number, one in enumerate(target.seeds):
        (folder / str(number)).write_bytes(one)
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        "-max_len=4096",
        f"-artifact_prefix={folder}/",
        "-verbosity=0",
    ]
    print(f"{name}: {seconds} s guided by coverage, seed {seed}", flush=True)
    atheris.Setup([sys.argv[0], str(folder), *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
