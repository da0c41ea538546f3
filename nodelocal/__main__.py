"""``python -m nodelocal``."""

from nodelocal.start import main

main()
