"""Questions that come back: whether an upstream asks us in turn (ROBUSTNESS section 3).

Each server is asked for a name that nobody can guess, and that nobody else ever asks for: if the question arrives at
our own listeners, that server's answers are ours, and it is not asked any more until its probe stays away again. The
others go on. Probes go out at the start and then every ``PROBE_SECONDS``, to servers that a followed resolv.conf names
meanwhile too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import urandom
from typing import Any, Final, NoReturn

import trio

from kdns.proto import peer
from kdns.upstream.forwarder import Forwarder
from kdns.upstream.question import Question
from kdns.upstream.servers import Server
from zones.names import Name

log = logging.getLogger(__name__)

PROBE_SECONDS: Final = 30.0
_HINFO: Final = 13
"""Nobody asks for it, so a probe stands out in the logs of others; CoreDNS's loop plugin asks for it, too."""


class LoopGuard:
    """Probes the servers of *forwarders*, by group."""

    def __init__(self, forwarders: Mapping[str, Forwarder[Any]]) -> None:
        self._forwarders = forwarders
        self._probes: dict[bytes, tuple[str, Server]] = {}
        self.loops = 0

    def is_probe(self, name: Name) -> bool:
        """Tell whether *name* is a probe of ours that came back; its server is then not asked any more."""
        found = self._probes.get(name.key) if len(name.labels) == 2 else None
        if found is None:
            return False
        group, server = found
        self.loops += 1
        if self._forwarders[group].servers.set_looping(server, True):
            log.error("upstream %s asks this server in turn: it is not asked any more", server)
        return True

    async def run(self) -> NoReturn:
        """Probe until cancelled."""
        while True:
            await self.probe()
            await trio.sleep(PROBE_SECONDS)

    async def probe(self) -> None:
        """Ask every server once; those whose probe stayed away are asked again."""
        before = self.loops
        looped: set[tuple[str, Server]] = set()
        async with trio.open_nursery() as nursery:
            for group, forwarder in self._forwarders.items():
                for server in forwarder.servers.all(trio.current_time()):
                    nursery.start_soon(self._probe_one, group, server, looped)
        if self.loops == before and not looped:
            for group, forwarder in self._forwarders.items():
                for server in forwarder.servers.looping:
                    log.info("upstream %s does not ask this server any more", server)
                    self._forwarders[group].servers.set_looping(server, False)

    async def _probe_one(self, group: str, server: Server, looped: set[tuple[str, Server]]) -> None:
        name = Name((urandom(16).hex().encode(), urandom(16).hex().encode()))
        self._probes[name.key] = group, server
        forwarder = self._forwarders[group]
        loops = self.loops
        over = trio.Event()
        try:
            forwarder.ask(Question(name, _HINFO, options=peer.HELLO), lambda _: over.set(), servers=(server,))
            await over.wait()
        finally:
            del self._probes[name.key]
        if self.loops != loops and server in forwarder.servers.looping:
            looped.add((group, server))
