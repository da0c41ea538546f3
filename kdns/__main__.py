"""``python -m kdns``."""

from kdns.start import main

main()
