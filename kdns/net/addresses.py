"""Addresses of listeners as users write them, sockets bound to them, and the addresses of this machine."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import ip_address

import msgspec
import psutil

from kdns.errors import ConfigError, Problem
from zones.records import address_from_text

UDP_BUFFER_OCTETS = 4 * 2**20
"""Asked of the kernel for each UDP socket: a burst of 10,000 queries waits there rather than being lost."""

TCP_BACKLOG = 1024


class Listen(msgspec.Struct, frozen=True):
    """An address in text form and a port; ``::`` means every address of both families."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def listen_from_text(text: str, *, default_port: int) -> Listen:
    """Read ``127.0.0.1:53``, ``[::1]:53``, ``10.0.0.1``, ``::`` or ``:53`` (every address). Raises ValueError."""
    address, port = text, ""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or rest == ":":
            raise ValueError("brackets that do not close, or something else than a port behind them")
        port = rest[1:]
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
        if not port:
            raise ValueError("no port behind the colon")
    number = int(port) if port.isascii() and port.isdigit() else default_port if not port else -1
    if not 0 <= number < 65_536:
        raise ValueError(f"{port!r} is no port")
    bare = (address or "::").partition("%")[0]
    return Listen(address if "%" in address else str(ip_address(bare)), number)


def families_of(listen: Listen) -> list[tuple[int, str]]:
    """Return the family (4 or 6) and address of each socket that *listen* takes: two for ``::``, else one.

    Two sockets rather than one for both families: each then has addresses of its own form, and its own counters.
    """
    if listen.address != "::":
        return [(6 if ":" in listen.address else 4, listen.address)]
    wildcards = [(4, "0.0.0.0")]  # noqa: S104 - what the user asked for
    return [*wildcards, (6, "::")] if _has_ipv6() else wildcards


def bind(
    listen: Listen, kind: socket.SocketKind, what: str, *, is_shared: bool = False
) -> list[tuple[int, socket.socket]]:
    """Return a bound non-blocking socket, with its family, for each family of *listen*. TCP sockets listen already.

    With port 0 all families get the one port that the first was given. Sockets that are *is_shared* may have the
    address together (SO_REUSEPORT). Raises ConfigError, naming *what*.
    """
    sockets: list[tuple[int, socket.socket]] = []
    port = listen.port
    try:
        for family, address in families_of(listen):
            sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, kind)
            sockets.append((family, sock))
            sock.setblocking(False)
            if is_shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_OCTETS)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UDP_BUFFER_OCTETS)
            info = socket.getaddrinfo(address, port, type=kind, flags=socket.AI_NUMERICHOST)[0]
            sock.bind(info[4])
            port = sock.getsockname()[1]
            if kind == socket.SOCK_STREAM:
                sock.listen(TCP_BACKLOG)
    except OSError as exc:
        for _, sock in sockets:
            sock.close()
        proto = "TCP" if kind == socket.SOCK_STREAM else "UDP"
        raise ConfigError([Problem(f"{what} {listen} ({proto})", *_why(exc))]) from exc
    return sockets


def bind_pair(
    listen: Listen, what: str, *, is_shared: bool = False
) -> tuple[list[tuple[int, socket.socket]], list[tuple[int, socket.socket]]]:
    """Bind UDP and TCP to the same port; with port 0 one is found that both can have."""
    for attempt in range(20):
        udp = bind(listen, socket.SOCK_DGRAM, what, is_shared=is_shared)
        same = Listen(listen.address, udp[0][1].getsockname()[1])
        try:
            return udp, bind(same, socket.SOCK_STREAM, what, is_shared=is_shared)
        except ConfigError:
            for _, sock in udp:
                sock.close()
            if listen.port or attempt == 19:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def own_addresses(listens: Iterable[Listen]) -> tuple[bytes, ...]:
    """Return the addresses that clients may reach the listeners at, for NS records: 4 or 16 octets each.

    Those listened at, or for a wildcard all of this machine but loopback and link-local ones; if that leaves
    none, loopback, so that the name of the name server always has an address.
    """
    found: dict[bytes, None] = {}
    for listen in listens:
        for family, text in families_of(listen):
            if text not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
                found[address_from_text(text.partition("%")[0])] = None
            else:
                found.update(dict.fromkeys(_interface_addresses(family)))
    far = [address for address in found if not _is_near(address)]
    return tuple(sorted(far or found or [bytes((127, 0, 0, 1))], key=lambda address: (len(address), address)))


def is_listened_at(listens: Iterable[Listen], address: str, port: int) -> bool:
    """Tell whether one of *listens* answers at *address* and *port*."""
    for listen in listens:
        if listen.port != port:
            continue
        if listen.address == address:
            return True
        for family, text in families_of(listen):
            is_wildcard = text in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
            if is_wildcard and address_from_text(address.partition("%")[0]) in _interface_addresses(family):
                return True
    return False


def _interface_addresses(family: int) -> Iterable[bytes]:
    wanted = socket.AF_INET6 if family == 6 else socket.AF_INET
    for some in psutil.net_if_addrs().values():
        for entry in some:
            if entry.family == wanted:
                yield address_from_text(entry.address.partition("%")[0])


def _is_near(address: bytes) -> bool:
    parsed = ip_address(address)
    return parsed.is_loopback or parsed.is_link_local


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::", 0))
    except OSError:
        return False
    return True


def _why(exc: OSError) -> tuple[str, str]:
    match exc.errno:
        case errno.EADDRINUSE:
            return "the port is in use by another program", "a free port"
        case errno.EACCES:
            return "no permission", "a port from 1024 on, or the capability NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            return (
                "no interface of this machine has the address",
                "an address of this machine; IPv6 with a port is written [::1]:5300",
            )
    return exc.strerror or str(exc), "an address and port that can be bound"
