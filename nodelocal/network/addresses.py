"""The node's addresses, through netlink: on a dummy device of our own, or, where there are none, on loopback."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psutil
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kdns.errors import ConfigError, Problem
from nodelocal.network.plan import Plan

LOOPBACK: Final = "lo"
NO_DAD: Final = 0x02
"""IFA_F_NODAD: an IPv6 address that is meant to be on every node must not wait to find out that it is."""


class AddressError(ConfigError):
    """An address or a device could not be had."""

    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__([Problem(where, found, expected)])


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
        if not missing:
            return []
        done: list[str] = []
        with _netlink() as netlink:
            device, is_new = self._device(netlink)
            try:
                for address in missing:
                    try:
                        flags = {"flags": NO_DAD} if ":" in address else {}
                        netlink.addr("add", index=device, address=address, prefixlen=_prefix(address), **flags)
                    except NetlinkError as exc:
                        raise _error(f"address {address}", exc) from exc
                    done.append(address)
                netlink.link("set", index=device, state="up")
            except BaseException:
                for address in done:
                    netlink.addr("del", index=device, address=address, prefixlen=_prefix(address))
                if is_new:
                    netlink.link("del", index=device)
                raise
        return done

    def remove(self, addresses: Sequence[str]) -> list[str]:
        """Take *addresses* off our device and off loopback, where they stand alone (/32, /128); return those that were
        there. A dummy device of ours that has no address left goes, too. Raises AddressError, after all were tried."""
        removed: list[str] = []
        problems: list[Problem] = []
        with _netlink() as netlink:
            for name in (self._plan.device, LOOPBACK):
                for index in netlink.link_lookup(ifname=name):
                    for row in list(netlink.get_addr(index=index)):
                        address = row.get_attr("IFA_ADDRESS")
                        if address not in addresses or row["prefixlen"] != _prefix(address):
                            continue
                        try:
                            netlink.addr("del", index=index, address=address, prefixlen=row["prefixlen"])
                            removed.append(address)
                        except NetlinkError as exc:
                            problems += _error(f"address {address}", exc).problems
            self._remove_device(netlink)
        if problems:
            raise ConfigError(problems)
        return removed

    def _remove_device(self, netlink: Any) -> None:
        for index in netlink.link_lookup(ifname=self._plan.device):
            (link,) = netlink.get_links(index)
            info = link.get_attr("IFLA_LINKINFO")
            left = [row for row in netlink.get_addr(index=index) if not row.get_attr("IFA_ADDRESS").startswith("fe80:")]
            if info is not None and info.get_attr("IFLA_INFO_KIND") == "dummy" and not left:
                netlink.link("del", index=index)

    def _device(self, netlink: Any) -> tuple[int, bool]:
        """Return the index of the device, made if need be, and whether it is new."""
        name = self._plan.device
        if some := netlink.link_lookup(ifname=name):
            return int(some[0]), False
        try:
            netlink.link("add", ifname=name, kind="dummy")
        except NetlinkError as exc:
            if exc.code not in (errno.EOPNOTSUPP, errno.ENODEV):
                raise _error(f"--interface {name}", exc) from exc
            return int(netlink.link_lookup(ifname=LOOPBACK)[0]), False
        return int(netlink.link_lookup(ifname=name)[0]), True

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


@contextmanager
def _netlink() -> Iterator[Any]:
    try:
        netlink = IPRoute()
    except OSError as exc:
        raise AddressError("netlink", exc.strerror or str(exc), "a kernel that is asked about its devices") from exc
    with netlink:
        yield netlink


def _prefix(address: str) -> int:
    return 128 if ":" in address else 32


def _error(where: str, exc: NetlinkError) -> AddressError:
    if exc.code == errno.EACCES and ":" in where:
        return AddressError(where, "IPv6 switched off (disable_ipv6)", "IPv6, or --listen without an IPv6 address")
    if exc.code in (errno.EPERM, errno.EACCES):
        return AddressError(where, "no permission", "root, or the capability NET_ADMIN, on the node's own network")
    return AddressError(where, str(exc.args[-1] if exc.args else exc), "a device that takes it")
