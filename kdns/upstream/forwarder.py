"""Ask the servers of a route until one answers: fail-over before a second, an end before the client's own.

| after                        | what happens                                                           |
|------------------------------|------------------------------------------------------------------------|
| a reply NOERROR, NXDOMAIN    | it is the answer                                                       |
| a truncated reply            | the same server is asked over TCP                                      |
| FORMERR, NOTIMP              | the same server is asked without EDNS (RFC 6891 section 6.2.2)         |
| any other RCODE              | the next server is asked; if none does better, this is the answer      |
| the system's refusal         | the next server is asked at once                                       |
| ``PATIENCE_SECONDS``         | the next server, if there is one that was not asked, is asked as well; |
|                              | the first reply of any wins                                            |
| ``RETRY_SECONDS``            | a server that was asked is asked again, up to ``MAX_TRIES`` in all     |
| ``TOTAL_SECONDS``            | there is no answer                                                     |
| *max_questions* on their way | the oldest of them gets no answer, so that the newest is asked: whoever |
|                              | asked first is the likeliest to have given up                          |

Any number of equal questions on their way cost one; one that goes away takes nothing from the others.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
import trio

from kdns.errors import WireError
from kdns.proto.query import FORMERR, NOERROR, NOTIMP, NXDOMAIN
from kdns.upstream.question import Question
from kdns.upstream.servers import Protocol, Server, ServerList
from kdns.upstream.stream import StreamQuestion, StreamQuestions
from kdns.upstream.timers import Timers
from kdns.upstream.udp import UdpQuestion, UdpQuestions

log = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 0.4
"""Two dead servers before a good one still leave the answer within a second."""
RETRY_SECONDS: Final = 1.0
"""One server is asked the same at most once a second (ROBUSTNESS section 3, RFC 9520 section 3.1)."""
TOTAL_SECONDS: Final = 4.0
"""Under the five seconds after which a C library asks again."""
MAX_TRIES: Final = 3

MAX_QUESTIONS: Final = 1024
"""Questions of one route on their way."""

MAX_WAITERS: Final = 512
"""Askers of one question that wait for its reply; the one that has waited longest goes without when there are more."""

RESERVED_DESCRIPTORS: Final = 256
"""File descriptors that upstream sockets leave to listeners, clients over TCP and the API server."""

T = TypeVar("T")
Callback = Callable[[T | None], None]


class Exchanges:
    """The sockets and timers that all routes of a program share. *streams* brings its own idea of TLS."""

    def __init__(self, streams: StreamQuestions | None = None) -> None:
        self.udp = UdpQuestions()
        self.streams = streams or StreamQuestions()
        self.timers = Timers()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry questions until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.udp.run)
            nursery.start_soon(self.timers.run)
            await nursery.start(self.streams.run)
            task_status.started()


class Forwarder(Generic[T]):
    """Asks the servers of *servers*.

    *read(wire, question, server)* makes of a matching reply what askers get, or raises WireError: then it was none.
    ``observe(server, rcode or None, seconds)`` is told of every try.
    """

    def __init__(
        self,
        servers: ServerList,
        exchanges: Exchanges,
        read: Callable[[bytes, Question, Server], T],
        *,
        observe: Callable[[Server, int | None, float], None] | None = None,
        max_questions: int = MAX_QUESTIONS,
    ) -> None:
        self.servers = servers
        self.exchanges = exchanges
        self.read = read
        self.observe = observe or (lambda server, rcode, seconds: None)
        self.is_failing = False
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_questions = max(64, min(max_questions, (soft - RESERVED_DESCRIPTORS) // 4))
        self._askings: dict[bytes, _Asking[T]] = {}
        self.shed = 0
        """Questions that were given up for newer ones."""
        self.failures: dict[Server, int] = {}
        self.all_down = 0
        """Questions asked while every server was backed off from."""

    def __len__(self) -> int:
        return len(self._askings)

    def ask(self, question: Question, callback: Callback[T], *, servers: Sequence[Server] | None = None) -> None:
        """Have *callback* called once, with the best reply or with None when no server gave one in time.

        It may be called before this returns. *servers* are asked in place of the route's own.
        """
        key = question.key
        if servers is not None:
            key += b"!"
        asking = self._askings.get(key)
        if asking is not None:
            asking.add(callback)
            return
        now = trio.current_time()
        order = self.servers.in_order(now) if servers is None else servers
        if not order:
            self._note_failing(True, order)
            callback(None)
            return
        if len(self._askings) >= self._max_questions:
            self.shed += 1
            next(iter(self._askings.values())).finish(None)
        asking = _Asking(self, key, question, callback, order, now)
        self._askings[key] = asking
        asking.next_try()

    def forget(self, key: bytes) -> None:
        """Take out an asking that is over."""
        self._askings.pop(key, None)

    def failed(self, server: Server) -> None:
        """Note that a server gave no usable reply."""
        self.failures[server] = self.failures.get(server, 0) + 1
        now = trio.current_time()
        self.servers.failed(server, now)
        if all(self.servers.is_down(other, now) for other in self.servers.in_order(now)):
            self.all_down += 1

    def note(self, is_answered: bool, order: Sequence[Server]) -> None:
        """Log the first question that nobody answered, and the first that somebody did again."""
        if is_answered == self.is_failing:
            self._note_failing(not is_answered, order)

    def _note_failing(self, is_failing: bool, order: Sequence[Server]) -> None:
        if is_failing == self.is_failing:
            return
        self.is_failing = is_failing
        names = ", ".join(map(str, order)) or "none is known"
        if is_failing:
            log.warning("no upstream answers: %s", names)
        else:
            log.info("upstreams answer again: %s", names)


class _Asking(Generic[T]):
    """One question on its way, and who waits for it."""

    __slots__ = (
        "_began", "_best", "_callbacks", "_done", "_forwarder", "_key", "_open", "_order", "_tries", "question", "wire"
    )  # fmt: skip

    def __init__(
        self,
        forwarder: Forwarder[T],
        key: bytes,
        question: Question,
        callback: Callback[T],
        order: Sequence[Server],
        now: float,
    ) -> None:
        self._forwarder = forwarder
        self._key = key
        self.question = question
        self.wire = question.to_wire()
        self._callbacks = [callback]
        self._order = order
        self._began = now
        self._tries = 0
        self._open: list[_Try[T]] = []
        self._best: T | None = None
        self._done = False

    def add(self, callback: Callback[T]) -> None:
        """Have another wait."""
        if len(self._callbacks) >= MAX_WAITERS:
            self._callbacks.pop(0)(None)
        self._callbacks.append(callback)

    def next_try(self) -> None:
        """Ask the next server, and see to it that something happens if it does not answer."""
        forwarder, order = self._forwarder, self._order
        count = len(order)
        while not self._done and self._tries < max(MAX_TRIES, count):
            server = order[self._tries % count]
            self._tries += 1
            attempt = _Try(self, server)
            if not attempt.start():
                forwarder.failed(server)
                if self._tries % count == 0:
                    break  # all in a row could not even be asked; again only after a while
                continue
            break
        if self._done:
            return
        now = trio.current_time()
        end = self._began + TOTAL_SECONDS
        if self._tries >= max(MAX_TRIES, count):
            when = end
        elif self._tries < count:
            when = now + PATIENCE_SECONDS
        else:
            when = max(now + PATIENCE_SECONDS, self._began + RETRY_SECONDS * (self._tries // count))
        forwarder.exchanges.timers.call_at(min(when, end), _Timeout(self, self._tries))

    def timeout(self, tries: int) -> None:
        """Go on, unless something else made us go on meanwhile."""
        if self._done or tries != self._tries:
            return
        if trio.current_time() >= self._began + TOTAL_SECONDS - 0.1:
            for attempt in self._open:
                self._forwarder.failed(attempt.server)
            self.finish(self._best)
            return
        if self._open:
            self._forwarder.failed(self._open[-1].server)
        self.next_try()

    def replied(self, attempt: _Try[T], rcode: int, reply: T) -> None:
        """Take a reply."""
        if self._done:
            return
        attempt.over(rcode)
        self._forwarder.servers.succeeded(attempt.server)
        if rcode in (NOERROR, NXDOMAIN):
            self.finish(reply)
            return
        self._best = reply
        self._go_on()

    def failed(self, attempt: _Try[T], reason: str) -> None:
        """Note that no reply comes."""
        if self._done:
            return
        log.debug("%s", reason)
        attempt.over(None)
        self._forwarder.failed(attempt.server)
        self._go_on()

    def _go_on(self) -> None:
        """After a refusal: ask the next server at once, or end when all have refused."""
        if self._open:
            return  # another is on its way
        if self._tries >= len(self._order) and (self._best is not None or self._tries >= MAX_TRIES):
            self.finish(self._best)
        elif self._tries < len(self._order):
            self.next_try()
        # else the timer that runs asks again

    def opened(self, attempt: _Try[T]) -> None:
        """Keep a try that is on its way."""
        self._open.append(attempt)

    def closed(self, attempt: _Try[T]) -> None:
        """Forget a try."""
        if attempt in self._open:
            self._open.remove(attempt)

    def finish(self, reply: T | None) -> None:
        """Give everybody the reply."""
        if self._done:
            return
        self._done = True
        forwarder = self._forwarder
        forwarder.forget(self._key)
        for attempt in self._open:
            attempt.abandon()
        self._open = []
        if (reply is None) != forwarder.is_failing:
            forwarder.note(reply is not None, self._order)
        for callback in self._callbacks:
            try:
                callback(reply)
            except Exception:
                log.exception("a reply for %s", self.question.qname)


class _Timeout:
    """The call that a timer makes: smaller and quicker than a closure over two values."""

    __slots__ = ("_asking", "_tries")

    def __init__(self, asking: _Asking[Any], tries: int) -> None:
        self._asking = asking
        self._tries = tries

    def __call__(self) -> None:
        self._asking.timeout(self._tries)


class _Try(Generic[T]):
    """One question to one server: over UDP, then perhaps without EDNS, then perhaps over TCP."""

    __slots__ = ("_asking", "_began", "_edns", "_handle", "_is_tcp", "server")

    def __init__(self, asking: _Asking[T], server: Server) -> None:
        self._asking = asking
        self.server = server
        self._began = trio.current_time()
        self._edns = True
        self._is_tcp = server.protocol is not Protocol.UDP
        self._handle: UdpQuestion | StreamQuestion | None = None

    def start(self) -> bool:
        """Send the question; False where that cannot even be tried."""
        asking = self._asking
        exchanges = asking._forwarder.exchanges
        wire = asking.wire if self._edns else asking.question.to_wire(edns=False)
        section = wire[10 : 14 + len(asking.question.qname.wire)]
        if not self._is_tcp:
            self._handle = exchanges.udp.ask(self.server, wire, section, self._replied, self._failed)
        else:
            server = self.server
            if server.protocol is Protocol.UDP:
                server = msgspec.structs.replace(server, protocol=Protocol.TCP)
            self._handle = exchanges.streams.ask(server, wire, section, self._replied, self._failed)
        if self._handle is None:
            return False
        asking.opened(self)
        return True

    def over(self, rcode: int | None) -> None:
        """Note how it ended."""
        self._asking.closed(self)
        self._asking._forwarder.observe(self.server, rcode, trio.current_time() - self._began)

    def abandon(self) -> None:
        """Give up: another was quicker, or time is up."""
        if self._handle is not None:
            self._handle.close()

    def _replied(self, wire: bytes) -> bool:
        asking = self._asking
        rcode = wire[3] & 15
        if wire[2] & 0x02 and not self._is_tcp:
            self._is_tcp = True
            return self._again()
        if rcode in (FORMERR, NOTIMP) and self._edns:
            self._edns = False
            return self._again()
        try:
            reply = asking._forwarder.read(wire, asking.question, self.server)
        except WireError as exc:
            log.debug("%s: %s", self.server, exc)
            if self._is_tcp:
                asking.failed(self, f"{self.server}: {exc}")
            return self._is_tcp  # over UDP, the true reply may still come
        asking.replied(self, rcode, reply)
        return True

    def _again(self) -> bool:
        self._asking.closed(self)
        if not self.start():
            self._asking.failed(self, f"{self.server}: cannot be asked")
        return True

    def _failed(self, reason: str) -> None:
        self._asking.failed(self, f"{self.server}: {reason}")
