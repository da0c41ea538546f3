"""What is to be set up on the node: which addresses, on which device, by which rules; read from options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from ipaddress import ip_address, IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final

import msgspec

from kdns.errors import ConfigError, Problem
from kdns.net.addresses import Listen
from kdns.options import choice, Option, switch, text

DNS_PORT: Final = 53
LOCAL: Final = ("169.254.20.10", "fd00:a9fe:20::10")
"""Where pods ask by default: a link-local address, and for IPv6, which has none that a pod could use, a ULA."""
IPV6_OFF: Final = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
DEVICE: Final = "nodelocaldns"
LOOPBACK: Final = "lo"
MAX_DEVICE_OCTETS: Final = 15
MARK: Final = 0x100000
PROBE_PORT: Final = 9953
LEASE_SECONDS: Final = 3

NODE: Final = "The node's network"


class AddressError(ConfigError):
    """An address or a device could not be had."""

    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__([Problem(where, found, expected)])


class Rules(Enum):
    """How queries are brought here; the value is what a user writes."""

    NFT = "nft"
    NONE = "none"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses that are put on *device*, and what the rules are made of.

    *local* are the addresses of this program alone, *service* those of the cluster DNS Service, of each family one at
    most; with *takes_service* the Service's are answered here, too. *mark* is the one bit of packet and connection
    marks that the rules use.
    """

    local: tuple[str, ...]
    service: tuple[str, ...] = ()
    takes_service: bool = True
    device: str = DEVICE
    mark: int = MARK
    rules: Rules = Rules.NFT

    @property
    def ours(self) -> tuple[str, ...]:
        """The addresses that are answered on this node."""
        return (*self.local, *(self.service if self.takes_service else ()))

    @property
    def aliases(self) -> list[tuple[str, str]]:
        """Each local address with the Service's of its family."""
        return [(one, other) for one in self.local for other in self.service if (":" in one) == (":" in other)]


def _has_ipv6() -> bool:
    """Tell whether this node's devices may have IPv6 addresses."""
    try:
        return IPV6_OFF.read_text().strip() == "0"
    except OSError:
        return False


def _address(value: Any) -> str:
    address = ip_address(text(value))
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError("not an address of a Service")
    return str(address)


def _device(value: Any) -> str:
    name = text(value)
    if not name.isascii() or len(name) > MAX_DEVICE_OCTETS or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError("no name of a network device")
    return name


def _mark(value: Any) -> int:
    number = int(value, 0) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 2**32 or number & (number - 1):
        raise ValueError("not one bit of 32")
    return number


NODE_OPTIONS: Final[Sequence[Option]] = (
    Option(
        "setup-network",
        None,
        "Put the addresses of --listen and --service-address on this node, and rules that bring queries here while "
        f"they are answered. Without --listen that is {' and '.join(LOCAL)}, port 53. Needs NET_ADMIN.",
        "true or false",
        switch,
        default=False,
        group=NODE,
    ),
    Option(
        "supervise",
        None,
        "Answer in a process of its own, replaced when it ends or hangs, and hand the sockets over to the next "
        "nodelocal on this node; --setup-network does so anyhow.",
        "true or false",
        switch,
        default=False,
        group=NODE,
    ),
    Option(
        "service-address",
        "ADDRESS",
        "An address of the cluster DNS Service, one of each family: answered here, and where queries go while this is "
        "dead. Repeatable.",
        "an address such as 10.96.0.10",
        _address,
        is_list=True,
        group=NODE,
    ),
    Option(
        "keep-service",
        None,
        "Leave the Service's addresses to the cluster's service proxy: where that is IPVS or eBPF it has them already.",
        "true or false",
        switch,
        default=False,
        group=NODE,
    ),
    Option(
        "rules",
        "KIND",
        "nft; or none, where the data plane brings queries here by itself.",
        "nft or none",
        choice(Rules),
        "nft",
        group=NODE,
    ),
    Option(
        "interface",
        "NAME",
        "The dummy device that has the addresses; where the kernel has no such devices, loopback has them.",
        "a name of at most 15 letters, digits, - and _",
        _device,
        DEVICE,
        group=NODE,
    ),
    Option(
        "mark",
        "BIT",
        "The bit of packet and connection marks that the rules use; nobody else on the node may use it.",
        "one bit of 32, such as 0x100000",
        _mark,
        hex(MARK),
        group=NODE,
    ),
)


def plan_of(
    values: Mapping[str, Any], written: Mapping[str, tuple[str, Any]], problems: list[Problem]
) -> tuple[Plan | None, tuple[Listen, ...]]:
    """Return the plan (None: nothing is set up) and where is listened, of what ``read_options`` read."""
    listen = tuple(dict.fromkeys(one for one in values["listen"] if one is not None))
    if not values["setup-network"]:
        problems.extend(
            Problem(written[name][0], "no --setup-network", "--setup-network, which this is a part of")
            for name in ("service-address", "keep-service", "rules", "interface", "mark")
            if name in written
        )
        return None, listen
    if "listen" not in written:
        listen = tuple(Listen(address, DNS_PORT) for address in LOCAL if ":" not in address or _has_ipv6())
    where = written.get("listen", ("--listen",))[0]
    local: list[str] = []
    for one in listen:
        address = ip_address(one.address.partition("%")[0])
        if one.port != DNS_PORT and values["rules"] is Rules.NFT:
            problems.append(Problem(where, f"{one} with --setup-network", "port 53, which the rules are for"))
        elif address.is_unspecified:
            problems.append(Problem(where, f"{one} with --setup-network", "addresses of this program's own"))
        elif not address.is_loopback:
            local.append(str(address))
    service = [one for one in values["service-address"] if one is not None]
    _check_families(local, where, problems)
    _check_families(service, written.get("service-address", ("",))[0], problems)
    plan = Plan(
        local=tuple(dict.fromkeys(local)),
        service=tuple(dict.fromkeys(service)),
        takes_service=not values["keep-service"],
        device=values["interface"] or DEVICE,
        mark=values["mark"] or MARK,
        rules=values["rules"] or Rules.NFT,
    )
    if not plan.local and not problems:
        problems.append(Problem(where, "loopback alone", "an address for pods to ask at"))
    taken = tuple(Listen(address, DNS_PORT) for address in plan.service) if plan.takes_service else ()
    return plan, tuple(dict.fromkeys((*listen, *taken)))


def _check_families(addresses: Sequence[str], where: str, problems: list[Problem]) -> None:
    for family in (IPv4Address, IPv6Address):
        some = [address for address in dict.fromkeys(addresses) if isinstance(ip_address(address), family)]
        if len(some) > 1:
            problems.append(Problem(where, " and ".join(some), "one address of each family: one stands for the other"))
