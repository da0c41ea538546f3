"""Ask the servers of a route until one answers: fail-over before a second, an end before the client's own.

| after                     | what happens                                                              |
|---------------------------|---------------------------------------------------------------------------|
| a reply NOERROR, NXDOMAIN | it is the answer                                                          |
| a truncated reply         | the same server is asked over TCP                                         |
| any other RCODE           | the next server is asked; if none does better, this is the answer         |
| the system's refusal      | the next server is asked at once                                          |
| ``PATIENCE_SECONDS``      | the next server is asked as well; the first reply of any wins             |
| ``TOTAL_SECONDS``         | there is no answer                                                        |

A list that has been gone through is begun again, so a lost datagram to the only server is asked again.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable
from typing import Final

import trio

from kdns.errors import UpstreamError
from kdns.proto.message import Message
from kdns.proto.query import FORMERR, NOERROR, NOTIMP, NXDOMAIN
from kdns.upstream.exchange import exchange_tcp, exchange_udp
from kdns.upstream.servers import Server, ServerList
from zones.names import Name

log = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 0.45
"""Two dead servers before a good one still leave the answer within a second."""
TOTAL_SECONDS: Final = 4.0
"""Under the five seconds after which a C library asks again."""
MAX_TRIES: Final = 6

MAX_QUESTIONS: Final = 2048
"""Questions on their way; what is asked beyond that gets no answer, so SERVFAIL at once and not a growing queue."""

RESERVED_DESCRIPTORS: Final = 256
"""File descriptors that upstream sockets leave to listeners, clients over TCP and the API server."""


class Forwarder:
    """Asks the servers of *servers*. ``observe(server, rcode or None, seconds)`` is told of every try."""

    def __init__(
        self, servers: ServerList, *, observe: Callable[[Server, int | None, float], None] | None = None
    ) -> None:
        self._servers = servers
        self._observe = observe or (lambda server, rcode, seconds: None)
        self._is_failing = False
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_sockets = max(64, min(MAX_QUESTIONS * 2, (soft - RESERVED_DESCRIPTORS) // 2))
        self._sockets = 0
        self._questions = 0
        self.rejected = 0
        """Questions that were not asked because too many were on their way."""

    async def resolve(self, qname: Name, qtype: int, *, do: bool) -> Message | None:
        """Return the best reply, or None when no server gave one in time. Raises nothing but cancellation."""
        if self._questions >= MAX_QUESTIONS or self._sockets >= self._max_sockets:
            self.rejected += 1
            return None
        self._questions += 1
        try:
            return await self._resolve(qname, qtype, do=do)
        finally:
            self._questions -= 1

    async def _resolve(self, qname: Name, qtype: int, *, do: bool) -> Message | None:
        replies: list[Message] = []
        servers = self._servers.in_order(trio.current_time())
        order = [server for _ in range(MAX_TRIES) for server in servers][: max(MAX_TRIES, len(servers))]
        with trio.move_on_after(TOTAL_SECONDS):
            async with trio.open_nursery() as nursery:
                for server in order:
                    over = trio.Event()
                    nursery.start_soon(self._try, server, qname, qtype, do, replies, over, nursery.cancel_scope)
                    with trio.move_on_after(PATIENCE_SECONDS):
                        await over.wait()
                    refusals = sum(1 for reply in replies if reply.rcode not in (NOERROR, NXDOMAIN))
                    if refusals >= len(servers):
                        nursery.cancel_scope.cancel()
        best = min(replies, key=lambda reply: reply.rcode not in (NOERROR, NXDOMAIN), default=None)
        self._note(best is not None, servers)
        return best

    async def _try(
        self,
        server: Server,
        qname: Name,
        qtype: int,
        do: bool,
        replies: list[Message],
        over: trio.Event,
        scope: trio.CancelScope,
    ) -> None:
        began = trio.current_time()
        rcode: int | None = None
        self._sockets += 1
        try:
            message = await exchange_udp(server, qname, qtype, do=do)
            if message.rcode in (FORMERR, NOTIMP):  # it may not know EDNS (RFC 6891 section 6.2.2)
                message = await exchange_udp(server, qname, qtype, do=do, edns=False)
            if message.is_truncated:
                message = await exchange_tcp(server, qname, qtype, do=do)
            rcode = message.rcode
            replies.append(message)
            self._servers.succeeded(server)
            if rcode in (NOERROR, NXDOMAIN):
                scope.cancel()
        except UpstreamError as exc:
            log.debug("%s", exc)
            self._servers.failed(server, trio.current_time())
        except trio.Cancelled:
            # Another was quicker, or time is up: a server that had its patience and said nothing has failed.
            if not over.is_set() and trio.current_time() - began >= PATIENCE_SECONDS:
                self._servers.failed(server, trio.current_time())
            raise
        finally:
            self._sockets -= 1
            self._observe(server, rcode, trio.current_time() - began)
            over.set()

    def _note(self, is_answered: bool, servers: list[Server]) -> None:
        """Log the first question that nobody answered, and the first that somebody did again."""
        if is_answered == self._is_failing:
            self._is_failing = not is_answered
            names = ", ".join(map(str, servers)) or "none is known"
            if is_answered:
                log.info("upstreams answer again: %s", names)
            else:
                log.warning("no upstream answers: %s", names)
