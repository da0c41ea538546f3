"""Which servers to ask: addresses given, or a resolv.conf followed as it changes; and which of them first.

| a server has                        | it is asked                                                    |
|-------------------------------------|----------------------------------------------------------------|
| answered the last question          | in its place in the list                                       |
| failed ``FAILURES`` times in a row  | after the others, until its back-off ends; then in its place   |
| been found to ask us in turn        | not at all                                                     |
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Sequence
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec

from zones.errors import BadName
from zones.names import Name

log = logging.getLogger(__name__)

DNS_PORT: Final = 53
TLS_PORT: Final = 853
FAILURES: Final = 2
FIRST_BACKOFF_SECONDS: Final = 1.0
MAX_BACKOFF_SECONDS: Final = 30.0
RECHECK_SECONDS: Final = 1.0
"""A resolv.conf is looked at again this often at most, when a question needs it."""

MAX_NAMESERVERS: Final = 15
"""As many as CoreDNS's forward takes; a resolv.conf of the C library has three."""


MAX_SEARCH_DOMAINS: Final = 32
"""As many as a pod may have (KEP-2595)."""


class Protocol(Enum):
    """How a server is asked; the value is the scheme that a user writes."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


class Server(msgspec.Struct, frozen=True, cache_hash=True):
    """One upstream: its address in text form, its port, how it is asked.

    ``name`` is what its certificate must be for, where it is asked over TLS; without one, its address.
    """

    address: str
    port: int = DNS_PORT
    protocol: Protocol = Protocol.UDP
    name: str | None = None

    def __str__(self) -> str:
        text = f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"
        scheme = "" if self.protocol is Protocol.UDP else f"{self.protocol.value}://"
        return f"{scheme}{text}{'#' + self.name if self.name else ''}"


def server_from_text(text: str, *, default: Protocol = Protocol.UDP) -> Server:
    """Read ``192.0.2.1``, ``[2001:db8::1]:5353``, ``udp://…``, ``tcp://…`` or ``tls://192.0.2.1:853#dns.example``.

    Without a scheme it is asked by *default*. Raises ValueError.
    """
    scheme, is_there, rest = text.partition("://")
    protocol = default
    if is_there:
        try:
            protocol = Protocol(scheme)
        except ValueError:
            raise ValueError(f"{scheme!r} is none of udp, tcp and tls") from None
    else:
        rest = text
    rest, has_name, name = rest.partition("#")
    if has_name and (protocol is not Protocol.TLS or not name):
        raise ValueError("a name behind # is for tls:// and is not empty")
    address, port = rest, ""
    if rest.startswith("["):
        address, bracket, behind = rest[1:].partition("]")
        if not bracket or (behind and not behind.startswith(":")):
            raise ValueError(f"{rest!r} is no address")
        port = behind[1:]
        if behind == ":":
            raise ValueError(f"{rest!r} lacks its port")
    elif rest.count(":") == 1:
        address, _, port = rest.partition(":")
        if not port:
            raise ValueError(f"{rest!r} lacks its port")
    bare, has_scope, scope = address.partition("%")
    if has_scope and (":" not in bare or not scope):
        raise ValueError(f"{address!r} is no address")
    ip_address(bare)
    if name:
        Name.from_text(name)
        if name.startswith(".") or len(name) > 253:
            raise ValueError(f"{name!r} is no name of a server")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError(f"{port!r} is no port")
    default_port = TLS_PORT if protocol is Protocol.TLS else DNS_PORT
    return Server(
        address if scope else str(ip_address(bare)), int(port) if port else default_port, protocol, name or None
    )


class ResolvConf(msgspec.Struct, frozen=True):
    """What a resolv.conf says: its nameservers and its search path."""

    servers: tuple[Server, ...] = ()
    search: tuple[Name, ...] = ()


def read_resolv_conf(path: Path) -> ResolvConf:
    """Read *path*; lines that make no sense are passed over with a warning. Raises OSError."""
    servers: list[Server] = []
    search: list[Name] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split("#")[0].split(";")[0].split()
        match words:
            case ["nameserver", address, *_]:
                try:
                    servers.append(server_from_text(address))
                except ValueError:
                    log.warning("%s: %r is no address of a nameserver", path, address)
            case ["search" | "domain", *domains]:  # the last such line counts, as for the C library
                search = []
                for domain in domains:
                    try:
                        search.append(Name.from_text(domain))
                    except BadName:
                        log.warning("%s: %r is no domain", path, domain)
    return ResolvConf(
        tuple(servers[:MAX_NAMESERVERS]), tuple(name for name in search if name.labels)[:MAX_SEARCH_DOMAINS]
    )


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
        self._told: tuple[Server, ...] = ()
        self._is_own = own or (lambda server: False)
        self._from_file: dict[Path, ResolvConf] = {}
        self._stamps: dict[Path, tuple[int, int, int] | None] = {}
        self._health: dict[Server, _Health] = {}
        self._looping: dict[Server, None] = {}
        self._checked_at = float("-inf")
        self._order: tuple[Server, ...] = ()
        self._valid_until = float("-inf")

    def in_order(self, now: float) -> tuple[Server, ...]:
        """Return the servers, those that back off last, looping ones not; *now* in seconds of a monotonic clock."""
        if now < self._valid_until:
            return self._order
        if now - self._checked_at >= RECHECK_SECONDS:
            self._checked_at = now
            self._follow_files()
        servers = [server for server in self._all() if server not in self._looping]
        self._order = tuple(sorted(servers, key=lambda server: self.is_down(server, now)))
        waits = [health.retry_at for health in self._health.values() if health.retry_at > now]
        self._valid_until = min([self._checked_at + RECHECK_SECONDS, *waits])
        return self._order

    def all(self, now: float) -> tuple[Server, ...]:
        """Return every server, looping ones too."""
        self.in_order(now)
        return tuple(self._all())

    def search(self, now: float) -> tuple[Name, ...]:
        """Return the search path of the resolv.conf files."""
        self.in_order(now)
        return tuple(dict.fromkeys(name for conf in self._from_file.values() for name in conf.search))

    def tell(self, servers: Sequence[Server]) -> None:
        """Ask these from now on, in this order, instead of the sources; none of them: the sources again."""
        self._told = tuple(server for server in servers if not self._is_own(server))
        self._health = {server: health for server, health in self._health.items() if server in self._all()}
        self._looping = {server: None for server in self._looping if server in self._all()}
        self._valid_until = float("-inf")

    def succeeded(self, server: Server) -> None:
        """Note a true reply."""
        if server in self._health:
            del self._health[server]
            self._valid_until = float("-inf")

    def failed(self, server: Server, now: float) -> None:
        """Note a timeout or an error."""
        health = self._health.setdefault(server, _Health())
        health.failures += 1
        if health.failures >= FAILURES:
            wait = FIRST_BACKOFF_SECONDS * 2.0 ** min(health.failures - FAILURES, 10)
            health.retry_at = now + min(wait, MAX_BACKOFF_SECONDS)
            self._valid_until = float("-inf")

    def set_looping(self, server: Server, is_looping: bool) -> bool:
        """Note whether questions to *server* come back to us; tell whether that is news."""
        if is_looping == (server in self._looping):
            return False
        if is_looping:
            self._looping[server] = None
        else:
            del self._looping[server]
        self._valid_until = float("-inf")
        return True

    @property
    def looping(self) -> tuple[Server, ...]:
        """The servers that are not asked because questions to them come back to us."""
        return tuple(self._looping)

    def is_down(self, server: Server, now: float) -> bool:
        """Tell whether *server* is backed off from."""
        health = self._health.get(server)
        return health is not None and health.failures >= FAILURES and now < health.retry_at

    def _all(self) -> list[Server]:
        if self._told:
            return list(self._told)
        servers: dict[Server, None] = {}
        for source in self._sources:
            if isinstance(source, Server):
                servers[source] = None
            elif source in self._from_file:
                servers.update(dict.fromkeys(self._from_file[source].servers))
        return list(servers)

    def _follow_files(self) -> None:
        for source in self._sources:
            if not isinstance(source, Path):
                continue
            try:
                status = os.stat(source)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(errno.EINVAL, "no regular file")
                stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
                if stamp == self._stamps.get(source):
                    continue
                conf = read_resolv_conf(source)
            except OSError as exc:
                if self._stamps.get(source, ()) is not None:
                    log.warning("%s: %s; the nameservers it last named stay in use", source, exc.strerror)
                self._stamps[source] = None
                continue
            self._stamps[source] = stamp
            servers = []
            for server in conf.servers:
                if self._is_own(server):
                    log.warning("%s: nameserver %s is this server itself; left out", source, server)
                else:
                    servers.append(server)
            if not servers:
                rest = "those it last named stay in use" if source in self._from_file else "none is known"
                log.warning("%s names no nameserver that can be asked; %s", source, rest)
                continue
            self._from_file[source] = ResolvConf(tuple(servers), conf.search)
            self._health = {server: health for server, health in self._health.items() if server in self._all()}
