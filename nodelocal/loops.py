"""Questions that come back: whether an upstream asks us in turn (ROBUSTNESS section 3).

Each server is asked for a name that nobody can guess, in the zone that it is asked for: if the question arrives at our
own listeners, that server's answers are ours, and it is not asked any more until its probe stays away again. The
others go on. Probes go out at the start and then every ``PROBE_SECONDS``, to servers that a followed resolv.conf names
meanwhile too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import urandom
from typing import Any, Final, NoReturn

import msgspec
import trio

from kdns.proto import peer
from kdns.upstream.forwarder import Forwarder
from kdns.upstream.question import Question
from kdns.upstream.servers import Server
from nodelocal.route import CLUSTER
from zones.names import Name

log = logging.getLogger(__name__)

PROBE_SECONDS: Final = 30.0
HINFO: Final = 13
"""Nobody asks for it, so a probe stands out in the logs of others; CoreDNS's loop plugin asks for it, too."""


class Probe(msgspec.Struct):
    """One question on its way that must not come back; the context by which the resolver knows its reply."""

    group: str
    server: Server
    came_back: bool = False


class LoopGuard:
    """Probes the servers of *forwarders*, by group. *zones* has the zone that a group is asked for: a server that
    speaks for one zone may well ask us for what lies outside, and that is no loop."""

    def __init__(self, forwarders: Mapping[str, Forwarder[Any]], zones: Mapping[str, Name]) -> None:
        self._forwarders = forwarders
        self._zones = zones
        self.probes: dict[bytes, Probe] = {}
        """Those on their way, by the key of their name."""

    def is_probe(self, name: Name) -> bool:
        """Tell whether *name* is a probe of ours that came back; its server is then not asked any more."""
        probe = self.probes.get(name.key)
        if probe is None:
            return False
        probe.came_back = True
        if self._forwarders[probe.group].servers.set_looping(probe.server, True):
            log.error("upstream %s asks this server in turn: it is not asked any more", probe.server)
        return True

    async def run(self) -> NoReturn:
        """Probe until cancelled."""
        while True:
            await self.probe()
            await trio.sleep(PROBE_SECONDS)

    async def probe(self) -> None:
        """Ask every server once; one whose probe stays away is asked again."""
        async with trio.open_nursery() as nursery:
            for group, forwarder in self._forwarders.items():
                for server in forwarder.servers.all(trio.current_time()):
                    nursery.start_soon(self._probe_one, group, server)

    async def _probe_one(self, group: str, server: Server) -> None:
        zone = self._zones[group]
        labels = tuple(urandom(16).hex().encode() for _ in range(2))
        name = zone.prefixed(*(labels if zone.has_room_for(*labels) else labels[:1]))
        probe = self.probes[name.key] = Probe(group, server)
        forwarder = self._forwarders[group]
        options = peer.HELLO if group == CLUSTER else b""
        over = trio.Event()
        try:
            question = Question(name, HINFO, options=options, context=probe)
            forwarder.ask(question, lambda _: over.set(), servers=(server,))
            await over.wait()
        finally:
            del self.probes[name.key]
        if not probe.came_back and forwarder.servers.set_looping(server, False):
            log.info("upstream %s does not ask this server any more", server)
