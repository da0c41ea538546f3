"""The serials of all zones: moved once a second, kept over a restart, told to secondaries."""

from __future__ import annotations

import time
from collections.abc import Sequence

from kdns.config import Config
from kdns.notify import Notifier
from kdns.served import Group, Zones
from kdns.state import State
from zones.names import Name
from zones.zone import Serial


class Serials:
    """Those of a program; one process of it has them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._state = State(config.state_dir)
        self._kept = self._state.serials()
        self.notifier: Notifier | None = None
        self._zones: Zones | None = None

    def first(self, origin: Name) -> Serial:
        """Return the serial that the zones begin with of which the first has that origin."""
        return Serial(time.time(), last=self._kept.get(origin.to_text()))

    def watch(self, zones: Zones) -> None:
        """Move the serials of *zones*."""
        self._zones = zones
        if self._config.notify:
            self.notifier = Notifier(self._config.notify, zones.soa)

    def move(self) -> Sequence[Group]:
        """Let the serials move; return the zones of those that did."""
        assert self._zones is not None  # watched from the start on
        groups = self._zones.groups
        now = time.time()
        moved = [group for group in groups if group.serial.advance(now)]
        if moved:
            self._state.keep_serials({group.name: group.serial.value for group in groups})
        return moved

    def tell(self, groups: Sequence[Group]) -> None:
        """Tell secondaries that the serials of these zones have moved, and that they can have them."""
        if self.notifier is not None and groups:
            self.notifier.changed([origin for group in groups for origin in group.listed])

    def troubles(self) -> list[str]:
        """List what is wrong with what is kept, and with the secondaries."""
        return self._state.troubles() + (self.notifier.troubles() if self.notifier is not None else [])
