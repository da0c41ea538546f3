"""Where ``nodelocal`` begins: Ctrl-C is quiet even while modules are still being imported."""

import gc
import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["probe"]:
        from nodelocal.probe import main as probe

        sys.exit(probe(sys.argv[2:]))
    try:
        gc.disable()  # modules are no garbage: nothing is gained by looking while they are made, nor later
        from nodelocal.cli import main as command

        gc.freeze()
        gc.enable()

        command(prog_name="nodelocal")
    except KeyboardInterrupt:
        sys.exit(130)
