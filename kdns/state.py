"""What outlives the process: the serials of the zones, in ``--state-dir``.

A serial is Unix time and so grows by itself; kept, it grows even if the clock was set back meanwhile.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

SERIALS: Final = "serials.json"


class State:
    """The files in *folder*; without one nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._failure: str | None = None

    def serials(self) -> dict[str, int]:
        """Return the serials kept, by the first zone of those that share one; a file that is damaged keeps none."""
        if self._folder is None:
            return {}
        path = self._folder / SERIALS
        try:
            found = json.loads(path.read_bytes())
            return {str(zone): int(serial) & 0xFFFFFFFF for zone, serial in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError, OverflowError) as exc:
            log.warning("--state-dir: %s: %s; serials begin at the time of day", path, exc)
            return {}

    def keep_serials(self, serials: Mapping[str, int]) -> None:
        """Write the serials, whole or not at all; one that cannot be written is told, once. Blocks."""
        if self._folder is None:
            return
        path = self._folder / SERIALS
        new = path.with_suffix(f".{os.getpid()}.new")  # two generations may write at once
        try:
            new.write_text(json.dumps(serials), encoding="utf-8")
            os.replace(new, path)
        except OSError as exc:
            if self._failure is None:
                log.warning("--state-dir: %s: %s", path, exc.strerror)
            self._failure = exc.strerror or str(exc)
        else:
            self._failure = None

    def troubles(self) -> list[str]:
        """List what is wrong with the folder."""
        return [] if self._failure is None else [f"--state-dir {self._folder}: {self._failure}"]
