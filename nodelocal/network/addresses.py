"""The node's addresses: which of the plan's are there, and on what device."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from kdns.errors import ConfigError, Problem
from nodelocal.network.plan import LOOPBACK, Plan


class Addresses:
    """The addresses of *plan* on this node."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def find(self) -> dict[str, str]:
        """Return the device that each of the plan's addresses is on; netlink takes ten times as long to tell."""
        return {
            entry.address: name
            for name, entries in psutil.net_if_addrs().items()
            for entry in entries
            if entry.address in self._plan.ours
        }

    def missing(self) -> list[str]:
        """Return those that are not on this node. Raises ConfigError for one that another device has."""
        found = self.find()
        self._check(found)
        return [address for address in self._plan.ours if address not in found]

    def add(self) -> list[str]:
        """Put those that are missing on the device; return them. Raises AddressError; then none of them is left."""
        missing = self.missing()
        if missing:
            # Here, because netlink brings 160 modules and 13 MB that nobody needs who has nothing to set up.
            from nodelocal.network.devices import add

            add(self._plan, missing)
        return missing

    def remove(self, addresses: Sequence[str]) -> list[str]:
        """Take *addresses* off our device and off loopback, where they stand alone (/32, /128); return those that were
        there. A dummy device of ours that has no address left goes, too. Raises ConfigError, after all were tried."""
        from nodelocal.network.devices import remove

        return remove(self._plan, addresses)

    def _check(self, found: dict[str, str]) -> None:
        problems = [
            Problem(
                f"address {address}",
                f"it is on {name} already",
                "--keep-service: IPVS binds it itself"
                if name.startswith("kube-ipvs")
                else "a node where nobody has it",
            )
            for address, name in found.items()
            if name not in (self._plan.device, LOOPBACK)
        ]
        if problems:
            raise ConfigError(problems)
