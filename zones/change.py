"""What an event of the cluster changes of its names."""

from __future__ import annotations

import msgspec


class Change(msgspec.Struct, frozen=True):
    """What became visible or stopped being so.

    ``forward``: owner names in wire form, lower case, relative to any cluster domain. ``addresses``: those
    whose reverse names changed. ``imported``: owner names relative to any clusterset domain. ``outside``: the keys of
    whole owner names in external zones. ``is_everything``: while a list is loaded nobody counts what shows.
    """

    forward: frozenset[bytes] = frozenset()
    addresses: frozenset[bytes] = frozenset()
    imported: frozenset[bytes] = frozenset()
    outside: frozenset[bytes] = frozenset()
    is_everything: bool = False

    def __bool__(self) -> bool:
        return bool(self.is_everything or self.forward or self.addresses or self.imported or self.outside)

    def __or__(self, other: Change) -> Change:
        return Change(
            self.forward | other.forward,
            self.addresses | other.addresses,
            self.imported | other.imported,
            self.outside | other.outside,
            self.is_everything or other.is_everything,
        )


NO_CHANGE = Change()
EVERYTHING = Change(is_everything=True)
