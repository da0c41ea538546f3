"""Where ``nodelocal`` begins: Ctrl-C is quiet even while modules are still being imported."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from nodelocal.cli import main as command

        command(prog_name="nodelocal")
    except KeyboardInterrupt:
        sys.exit(130)
