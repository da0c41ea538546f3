"""The node's devices and what addresses are on them, through netlink: a dummy device of our own, or, where there are
none, loopback."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kdns.errors import ConfigError, Problem
from nodelocal.network.plan import AddressError, LOOPBACK, Plan

NO_DAD: Final = 0x02
"""IFA_F_NODAD: an IPv6 address that is meant to be on every node must not wait to find out that it is."""


def add(plan: Plan, addresses: Sequence[str]) -> None:
    """Put *addresses* on the plan's device. Raises AddressError; then none of them is left."""
    done: list[str] = []
    with _netlink() as netlink:
        device, is_new = _device(netlink, plan.device)
        try:
            for address in addresses:
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


def remove(plan: Plan, addresses: Sequence[str]) -> list[str]:
    """Take *addresses* off the plan's device and off loopback; return those that were there.

    Raises ConfigError, after all were tried.
    """
    removed: list[str] = []
    problems: list[Problem] = []
    with _netlink() as netlink:
        for name in (plan.device, LOOPBACK):
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
        _remove_device(netlink, plan.device)
    if problems:
        raise ConfigError(problems)
    return removed


def _remove_device(netlink: Any, name: str) -> None:
    for index in netlink.link_lookup(ifname=name):
        (link,) = netlink.get_links(index)
        info = link.get_attr("IFLA_LINKINFO")
        left = [row for row in netlink.get_addr(index=index) if not row.get_attr("IFA_ADDRESS").startswith("fe80:")]
        if info is not None and info.get_attr("IFLA_INFO_KIND") == "dummy" and not left:
            netlink.link("del", index=index)


def _device(netlink: Any, name: str) -> tuple[int, bool]:
    """Return the index of the device *name*, made if need be, and whether it is new; loopback's where it cannot be."""
    if some := netlink.link_lookup(ifname=name):
        return int(some[0]), False
    try:
        netlink.link("add", ifname=name, kind="dummy")
    except NetlinkError as exc:
        if exc.code not in (errno.EOPNOTSUPP, errno.ENODEV):
            raise _error(f"--interface {name}", exc) from exc
        return int(netlink.link_lookup(ifname=LOOPBACK)[0]), False
    return int(netlink.link_lookup(ifname=name)[0]), True


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
