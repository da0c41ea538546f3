"""Put the node's network up, look whether it still is, take it down: all of it or nothing, any number of times."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from kdns.errors import ConfigError
from nodelocal.network import nft
from nodelocal.network.addresses import Addresses
from nodelocal.network.plan import Plan, Rules
from nodelocal.network.ruleset import FAMILY, TABLE


class Network:
    """The network of *plan* on this node. *tell* is given a line for each thing that is done."""

    def __init__(self, plan: Plan, tell: Callable[[str], None] = lambda line: None) -> None:
        self.plan = plan
        self._tell = tell
        self._addresses = Addresses(plan)
        self._rows: nft.Rows | None = None

    def up(self) -> bool:
        """Set up what is not there yet; tell whether anything was missing.

        Raises ConfigError, with every problem; then the node is as it was found.
        """
        missing = self._addresses.missing()
        rows = self._read() if self._has_rules else None
        is_fit = not self._has_rules or (rows is not None and self._is_fit(rows))
        added = self._addresses.add() if missing else []
        try:
            if not is_fit:
                nft.load(self.plan)
        except BaseException:
            with suppress(ConfigError):
                self._addresses.remove(added)
            raise
        for address in added:
            self._tell(f"address {address} added")
        if not is_fit:
            self._tell(f"rules: table {FAMILY} {TABLE} {'loaded' if rows is None else 'replaced'}")
        if self._has_rules and not (is_fit and self._rows is not None):
            now = nft.read()
            self._rows = now if now is not None and nft.is_current(now, self.plan) else None
        return bool(added) or not is_fit

    def down(self) -> bool:
        """Take everything away that ``up`` sets up; tell whether there was anything. Raises ConfigError."""
        had_rules = self._read() is not None if self._has_rules else False
        if had_rules:
            nft.delete()
            self._tell(f"rules: table {FAMILY} {TABLE} deleted")
        removed = self._addresses.remove(self.plan.ours)
        for address in removed:
            self._tell(f"address {address} removed")
        return had_rules or bool(removed)

    def check(self) -> list[str]:
        """Return what is not as it should be. Raises ConfigError where that cannot be known, or is somebody else's."""
        wrong = [f"address {address}: on no device" for address in self._addresses.missing()]
        if self._has_rules:
            rows = self._read()
            if rows is None:
                wrong.append(f"rules: no table {FAMILY} {TABLE}")
            elif not self._is_fit(rows):
                wrong.append(f"rules: table {FAMILY} {TABLE} is not what it should be")
        return wrong

    @property
    def _has_rules(self) -> bool:
        return self.plan.rules is Rules.NFT

    def _is_fit(self, rows: nft.Rows) -> bool:
        """Tell whether the table is as it was after ``up``, or before the first, as it says that it is."""
        return rows == self._rows if self._rows is not None else nft.is_current(rows, self.plan)

    def _read(self) -> nft.Rows | None:
        rows = nft.read()
        if rows is not None and not nft.is_ours(rows):
            raise nft.NftError(
                f"a table {FAMILY} {TABLE} that is somebody else's",
                "a free name: look at it with `nft list table inet nodelocal`, and delete it if nobody needs it",
            )
        return rows
