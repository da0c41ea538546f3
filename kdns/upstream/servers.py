"""Which servers to ask: addresses given, or a resolv.conf followed as it changes; and which of them first.

| a server has                        | it is asked                                                    |
|-------------------------------------|----------------------------------------------------------------|
| answered the last question          | in its place in the list                                       |
| failed ``FAILURES`` times in a row  | after the others, until its back-off ends; then in its place   |
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec

log = logging.getLogger(__name__)

DNS_PORT: Final = 53
FAILURES: Final = 2
FIRST_BACKOFF_SECONDS: Final = 1.0
MAX_BACKOFF_SECONDS: Final = 30.0
RECHECK_SECONDS: Final = 1.0
"""A resolv.conf is looked at again this often at most, when a question needs it."""

MAX_NAMESERVERS: Final = 15
"""As many as CoreDNS's forward takes; a resolv.conf of the C library has three."""


class Server(msgspec.Struct, frozen=True):
    """One upstream: its address in text form and its port."""

    address: str
    port: int = DNS_PORT

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def server_from_text(text: str, *, default_port: int = DNS_PORT) -> Server:
    """Read ``192.0.2.1``, ``192.0.2.1:5353``, ``2001:db8::1`` or ``[2001:db8::1]:5353``. Raises ValueError."""
    address, port = text, ""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is no address")
        port = rest[1:]
        if rest == ":":
            raise ValueError(f"{text!r} lacks its port")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
        if not port:
            raise ValueError(f"{text!r} lacks its port")
    bare, _, scope = address.partition("%")
    ip_address(bare)
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError(f"{port!r} is no port")
    return Server(address if scope else str(ip_address(bare)), int(port) if port else default_port)


def read_resolv_conf(path: Path) -> list[Server]:
    """Return the ``nameserver`` lines of *path*; lines that make no sense are passed over with a warning."""
    servers = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            servers.append(server_from_text(words[1]))
        except ValueError:
            log.warning("%s: %r is no address of a nameserver", path, words[1])
    return servers[:MAX_NAMESERVERS]


class _Health:
    __slots__ = ("failures", "retry_at")

    def __init__(self) -> None:
        self.failures = 0
        self.retry_at = 0.0


class ServerList:
    """The servers of one route, in the order to ask them; *sources* are servers or resolv.conf files.

    Servers that are *own*, listeners of this program, are left out: asking them would never end.
    A file that cannot be read, or names no server any more, leaves the servers that it last named.
    """

    def __init__(self, sources: Sequence[Server | Path], *, own: Callable[[Server], bool] | None = None) -> None:
        self._sources = tuple(sources)
        self._is_own = own or (lambda server: False)
        self._from_file: dict[Path, list[Server]] = {}
        self._stamps: dict[Path, tuple[int, int, int] | None] = {}
        self._health: dict[Server, _Health] = {}
        self._checked_at = float("-inf")

    def in_order(self, now: float) -> list[Server]:
        """Return the servers, those that back off last; *now* in seconds of a monotonic clock."""
        if now - self._checked_at >= RECHECK_SECONDS:
            self._checked_at = now
            self._follow_files()
        servers: dict[Server, None] = {}
        for source in self._sources:
            servers.update(dict.fromkeys([source] if isinstance(source, Server) else self._from_file.get(source, ())))
        return sorted(servers, key=lambda server: self._is_down(server, now))

    def succeeded(self, server: Server) -> None:
        """Note a true reply."""
        self._health.pop(server, None)

    def failed(self, server: Server, now: float) -> None:
        """Note a timeout or an error."""
        health = self._health.setdefault(server, _Health())
        health.failures += 1
        if health.failures >= FAILURES:
            wait = FIRST_BACKOFF_SECONDS * 2.0 ** min(health.failures - FAILURES, 10)
            health.retry_at = now + min(wait, MAX_BACKOFF_SECONDS)

    def _is_down(self, server: Server, now: float) -> bool:
        health = self._health.get(server)
        return health is not None and health.failures >= FAILURES and now < health.retry_at

    def _follow_files(self) -> None:
        for source in self._sources:
            if not isinstance(source, Path):
                continue
            try:
                status = os.stat(source)
                stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
                if stamp == self._stamps.get(source):
                    continue
                servers = read_resolv_conf(source)
            except OSError as exc:
                if self._stamps.get(source, ()) is not None:
                    log.warning("%s: %s; the nameservers it last named stay in use", source, exc.strerror)
                self._stamps[source] = None
                continue
            self._stamps[source] = stamp
            for server in [server for server in servers if self._is_own(server)]:
                log.warning("%s: nameserver %s is this server itself; left out", source, server)
                servers.remove(server)
            if not servers:
                rest = "those it last named stay in use" if source in self._from_file else "none is known"
                log.warning("%s names no nameserver that can be asked; %s", source, rest)
                continue
            self._from_file[source] = servers
            self._health = {server: health for server, health in self._health.items() if server in servers}
