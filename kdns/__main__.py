"""``python -m kdns``."""

from kdns.cli import main

main(prog_name="kdns")
