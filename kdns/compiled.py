"""Whether the data path runs as machine code: this module is compiled with it, or not (``make compiled``)."""

from pathlib import Path
from typing import Final

IS_COMPILED: Final = Path(__file__).suffix != ".py"
