"""The sockets of a node: bound here, or taken over from whoever answered on them before."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from kdns.errors import ConfigError, Problem
from kdns.net.addresses import bind, bind_pair, families_of, Listen
from kdns.net.listeners import Bound, Sockets
from nodelocal.config import Config
from nodelocal.supervise.handover import close, Key
from nodelocal.unix import bind_unix

CONTROL: Key = ("control", 0, "", 0)


class NodeSockets:
    """All sockets of *config*; those in *given* are taken, the others bound. Raises ConfigError; then none is open."""

    def __init__(self, config: Config, given: dict[Key, socket.socket]) -> None:
        self.dns = Sockets([], [], [])
        self.admin: list[socket.socket] = []
        self.taken = 0
        problems: list[Problem] = []
        for listen in config.listen:
            if not listen.port:  # any, and the same for both
                try:
                    udp, tcp = bind_pair(listen, "--listen")
                except ConfigError as exc:
                    problems += exc.problems
                else:
                    self.dns.udp += udp
                    self.dns.tcp += tcp
                continue
            self.dns.udp += self._some("udp", listen, socket.SOCK_DGRAM, "--listen", given, problems)
            self.dns.tcp += self._some("tcp", listen, socket.SOCK_STREAM, "--listen", given, problems)
        for listen in config.admin:
            bound = self._some("admin", listen, socket.SOCK_STREAM, "--admin", given, problems)
            self.admin += [sock for _, sock in bound]
        self.control = given.pop(CONTROL, None)
        if self.control is None:
            try:
                self.control = bind_unix(config.control, "--control")
            except ConfigError as exc:
                problems += exc.problems
        if problems:
            close(list(self.all().values()))
            raise ConfigError(problems)

    def all(self) -> dict[Key, socket.socket]:
        """Return each socket by what it is for."""
        named = [("udp", sock) for _, sock in self.dns.udp]
        named += [("tcp", sock) for _, sock in self.dns.tcp]
        named += [("admin", sock) for sock in self.admin]
        found = {_key(role, sock): sock for role, sock in named}
        if self.control is not None:
            found[CONTROL] = self.control
        return found

    @property
    def others(self) -> Sequence[socket.socket]:
        """What a worker needs beside those it answers DNS on: the control socket first."""
        assert self.control is not None  # bound or taken, else this was not made
        return (self.control, *self.admin)

    def _some(
        self,
        role: str,
        listen: Listen,
        kind: socket.SocketKind,
        what: str,
        given: dict[Key, socket.socket],
        problems: list[Problem],
    ) -> Bound:
        wanted: list[Key] = [(role, family, address, listen.port) for family, address in families_of(listen)]
        if listen.port and all(key in given for key in wanted):
            self.taken += len(wanted)
            return [(key[1], given.pop(key)) for key in wanted]
        try:
            return bind(listen, kind, what)
        except ConfigError as exc:
            problems += exc.problems
            return []


def _key(role: str, sock: socket.socket) -> Key:
    address, port = sock.getsockname()[:2]
    return role, 6 if sock.family == socket.AF_INET6 else 4, address, port
