"""Ask the servers of a route until one answers: fail-over before a second, an end before the client's own.

| after                        | what happens                                                           |
|------------------------------|------------------------------------------------------------------------|
| a reply NOERROR, NXDOMAIN    | it is the answer                                                       |
| a truncated reply            | the same server is asked over TCP                                      |
| one in another spelling      | the same, where the spelling was random (0x20)                         |
| FORMERR, NOTIMP              | the same server is asked without EDNS (RFC 6891 section 6.2.2)         |
| any other RCODE              | the next server is asked; if none does better, this is the answer      |
| the system's refusal         | the next server is asked at once                                       |
| ``PATIENCE_SECONDS``         | the next server, if there is one that was not asked, is asked as well; |
|                              | the first reply of any wins                                            |
| ``RETRY_SECONDS``            | a server that was asked is asked again, up to ``MAX_TRIES`` in all     |
| ``TOTAL_SECONDS``            | there is no answer                                                     |
| *max_questions* on their way | the oldest of them gets no answer, so that the newest is asked: whoever |
|                              | asked first is the likeliest to have given up                          |
| half as many of one zone     | the oldest of that zone gets no answer                                 |

Any number of equal questions on their way cost one; one that goes away takes nothing from the others.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable, Sequence
from enum import Enum
from os import urandom
from typing import Any, Final, Generic, NoReturn, TypeVar

import msgspec
import trio

from kdns.errors import WireError
from kdns.proto.query import FORMERR, HEADER_OCTETS, NOERROR, NOTIMP, NXDOMAIN
from kdns.upstream.attempt import Attempt, Carrier, UpstreamTap
from kdns.upstream.cookies import UpstreamCookies, with_option
from kdns.upstream.question import Question
from kdns.upstream.servers import Protocol, Server, ServerList
from kdns.upstream.stream import StreamQuestions
from kdns.upstream.timers import Timers
from kdns.upstream.udp import UdpQuestions
from kdns.upstream.wire import section_of, wire_of, with_random_case

log = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 0.4
"""Two dead servers before a good one still leave the answer within a second."""
RETRY_SECONDS: Final = 1.0
"""One server is asked the same at most once a second (ROBUSTNESS section 3, RFC 9520 section 3.1)."""
TOTAL_SECONDS: Final = 4.0
"""Under the five seconds after which a C library asks again."""
MAX_TRIES: Final = 3

MAX_QUESTIONS: Final = 1024
"""Questions of one route on their way."""

MAX_WAITERS: Final = 4096
"""Askers of one question that wait for its reply; the one that has waited longest goes without when there are more."""

ZONE_LABELS: Final = 2
"""Questions are told apart by so many last labels, for no zone may have more than half of those on their way."""

RESERVED_DESCRIPTORS: Final = 256
"""File descriptors that upstream sockets leave to listeners, clients over TCP and the API server."""

T = TypeVar("T")


class NoReply(Enum):
    """Why there is no reply."""

    NOBODY = "no server answered in time"
    SHED = "given up for newer questions: this says nothing of the servers"


Callback = Callable[[T | NoReply], None]


class Exchanges:
    """The sockets and timers that all routes of a program share. *streams* brings its own idea of TLS."""

    def __init__(self, streams: StreamQuestions | None = None) -> None:
        self._forwarders: list[Forwarder[Any]] = []
        self._wake = trio.Event()
        self.udp = UdpQuestions()
        self.streams = StreamQuestions() if streams is None else streams  # an empty one is false
        self.over_udp: Carrier = self.udp
        self.over_streams: Carrier = self.streams
        self.timers = Timers()
        self.tap: UpstreamTap | None = None
        """Is told of questions and replies, if anybody is."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry questions until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.udp.run)
            nursery.start_soon(self.timers.run)
            nursery.start_soon(self._sweep)
            await nursery.start(self.streams.run)
            task_status.started()

    def add(self, forwarder: Forwarder[Any]) -> None:
        """Look after the deadlines of *forwarder*'s questions."""
        self._forwarders.append(forwarder)

    def wake(self) -> None:
        """Note that there is a question whose deadline may come."""
        self._wake.set()

    async def _sweep(self) -> NoReturn:
        """Look at every question on its way, twenty times a second while there is one.

        They are few at any time, while those of a second are thousands: a timer for each would keep all of these
        in memory until it fires (17 MB at 13,000 questions a second), and costs more than the look.
        """
        while True:
            if not any(map(len, self._forwarders)):
                self._wake = trio.Event()
                await self._wake.wait()
            await trio.sleep(SWEEP_SECONDS)
            now = self.timers.now()
            for forwarder in self._forwarders:
                for asking in [some for some in forwarder.askings.values() if now >= some.wake_at]:
                    asking.timeout(now)


class Forwarder(Generic[T]):
    """Asks the servers of *servers*.

    *read(wire, question, server)* makes of a matching reply what askers get, or raises WireError: then it was none.
    ``observe(server, rcode or None, seconds)`` is told of every try. *is_one_zone*: all questions are of one.
    With *cookies* servers are shown some over UDP and TCP, and must repeat them over UDP once they have.
    With *randomizes_case* the name is spelled at random over UDP, and a reply must repeat the spelling.
    """

    def __init__(
        self,
        servers: ServerList,
        exchanges: Exchanges,
        read: Callable[[bytes, Question, Server], T],
        *,
        observe: Callable[[Server, int | None, float], None] | None = None,
        max_questions: int = MAX_QUESTIONS,
        is_one_zone: bool = False,
        randomizes_case: bool = False,
        cookies: UpstreamCookies | None = None,
    ) -> None:
        self.servers = servers
        self.exchanges = exchanges
        exchanges.add(self)
        self.now = exchanges.timers.now
        self.read = read
        self.randomizes_case = randomizes_case
        self.cookies = cookies
        self.observe = observe or (lambda server, rcode, seconds: None)
        self.is_failing = False
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_questions = max(64, min(max_questions, (soft - RESERVED_DESCRIPTORS) // 4))
        self.askings: dict[bytes, _Asking[T]] = {}
        self._zones: dict[tuple[bytes, ...], _Zone] = {}
        self._max_of_zone = self._max_questions if is_one_zone else self._max_questions // 2
        self.shed = 0
        """Questions that were given up for newer ones."""
        self.unreadable = 0
        """Replies that matched and could not be read."""
        self.failures: dict[Server, int] = {}
        self.all_down = 0
        """Questions asked while every server was backed off from."""

    def __len__(self) -> int:
        return len(self.askings)

    def ask(
        self,
        question: Question,
        callback: Callback[T],
        *,
        key: bytes | None = None,
        servers: Sequence[Server] | None = None,
        now: float | None = None,
    ) -> None:
        """Have *callback* called once, with the best reply or with why there is none.

        It may be called before this returns. *servers* are asked in place of the route's own; *key*, the question's,
        and *now*, the time, are for those who know them.
        """
        if key is None:
            key = question.key
        if servers is not None:
            key += b"!"
        asking = self.askings.get(key)
        if asking is not None:
            asking.add(callback)
            return
        if now is None:
            now = self.now()
        order = self.servers.in_order(now) if servers is None else servers
        if not order:
            self.note_failing(True, order)
            callback(NoReply.NOBODY)
            return
        labels = question.qname.labels[-ZONE_LABELS:]
        zone = self._zones.get(labels)
        is_crowded = zone is not None and zone.count >= self._max_of_zone
        if is_crowded or len(self.askings) >= self._max_questions:
            self.shed += 1
            # Where it is a zone, at least every second question is one of it: the oldest of them is found soon.
            next(some for some in self.askings.values() if some.zone is zone or not is_crowded).finish(NoReply.SHED)
            asking = self.askings.get(key)
            if asking is not None:  # whoever was given up has asked the same meanwhile
                asking.add(callback)
                return
            zone = self._zones.get(labels)
        if not self.askings:
            self.exchanges.wake()
        if zone is None:
            zone = self._zones[labels] = _Zone(labels)
        zone.count += 1
        asking = _Asking(self, key, zone, question, callback, order, now, is_apart=servers is not None)
        self.askings[key] = asking
        asking.next_try(now)

    def forget(self, key: bytes, zone: _Zone) -> None:
        """Take out a question that is over."""
        del self.askings[key]
        zone.count -= 1
        if not zone.count:
            del self._zones[zone.labels]

    def failed(self, server: Server) -> None:
        """Note that a server gave no usable reply."""
        self.failures[server] = self.failures.get(server, 0) + 1
        now = self.now()
        self.servers.failed(server, now)
        if all(self.servers.is_down(other, now) for other in self.servers.in_order(now)):
            self.all_down += 1

    def note_failing(self, is_failing: bool, order: Sequence[Server]) -> None:
        """Log the first question that nobody answered, and the first that somebody did again."""
        now = self.now()
        if is_failing and not all(self.servers.is_down(server, now) for server in order):
            return  # one question that nobody answered says little: its own zone may be the trouble
        if is_failing == self.is_failing:
            return
        self.is_failing = is_failing
        names = ", ".join(map(str, order)) or "there is none that could be asked"
        if is_failing:
            log.warning("no upstream answers: %s", names)
        else:
            log.info("upstreams answer again: %s", names)


class _Zone:
    """How many questions of one zone are on their way."""

    __slots__ = ("count", "labels")

    def __init__(self, labels: tuple[bytes, ...]) -> None:
        self.labels = labels
        self.count = 0


class _Asking(Generic[T]):
    """One question on its way, and who waits for it."""

    __slots__ = (
        "_best",
        "_callbacks",
        "_is_apart",
        "_key",
        "_open",
        "_order",
        "_tries",
        "began",
        "forwarder",
        "is_done",
        "question",
        "section",
        "wake_at",
        "wire",
        "zone",
    )  # fmt: skip

    def __init__(
        self,
        forwarder: Forwarder[T],
        key: bytes,
        zone: _Zone,
        question: Question,
        callback: Callback[T],
        order: Sequence[Server],
        now: float,
        *,
        is_apart: bool,
    ) -> None:
        self.forwarder = forwarder
        self._is_apart = is_apart  # of servers of the asker's choice: this says nothing of the route
        self._key = key
        self.zone = zone
        self.question = question
        self.section = section_of(question)
        self.wire = wire_of(question, self.section)
        self._callbacks = [callback]
        self._order = order
        self.began = now
        self.wake_at = 0.0
        self._tries = 0
        self._open: list[_Try[T]] = []
        self._best: T | NoReply = NoReply.NOBODY
        self.is_done = False

    def add(self, callback: Callback[T]) -> None:
        """Have another wait."""
        if len(self._callbacks) >= MAX_WAITERS:
            self._call(self._callbacks.pop(0), NoReply.SHED)
        self._callbacks.append(callback)

    def next_try(self, now: float) -> None:
        """Ask the next server, and see to it that something happens if it does not answer."""
        order, tries = self._order, self._tries
        count = len(order)
        most = count if count > MAX_TRIES else MAX_TRIES
        while tries < most:
            server = order[tries % count]
            tries += 1
            attempt = _Try(self, server, now)
            if attempt.start():
                self._open.append(attempt)
                break
            self.forwarder.failed(server)
            if tries % count == 0:
                break  # all in a row could not even be asked; again only after a while
        self._tries = tries
        when = end = self.began + TOTAL_SECONDS
        if tries < count:
            when = now + PATIENCE_SECONDS
        elif tries < most:
            when = max(now + PATIENCE_SECONDS, self.began + RETRY_SECONDS * (tries // count))
        self.wake_at = when if when < end else end

    def timeout(self, now: float) -> None:
        """Go on: nothing has come until ``wake_at``."""
        if self.is_done:
            return
        if now >= self.began + TOTAL_SECONDS:
            for attempt in self._open:
                self.forwarder.failed(attempt.server)
            self.finish(self._best)
            return
        if self._open:
            self.forwarder.failed(self._open[-1].server)
        self.next_try(now)

    def replied(self, attempt: _Try[T], rcode: int, reply: T) -> None:
        """Take a reply."""
        if rcode in (NOERROR, NXDOMAIN):
            self._open.remove(attempt)
            self.finish(reply)
            return
        self._best = reply
        self._go_on(attempt)

    def failed(self, attempt: _Try[T]) -> None:
        """Note that no reply comes."""
        self.forwarder.failed(attempt.server)
        self._go_on(attempt)

    def _go_on(self, attempt: _Try[T]) -> None:
        """After a refusal: ask the next server at once, or end when all have refused."""
        if attempt in self._open:
            self._open.remove(attempt)
        if self._open:
            return  # another is on its way
        if self._tries < len(self._order):
            self.next_try(self.forwarder.now())
        elif self._best is not NoReply.NOBODY or self._tries >= MAX_TRIES:
            self.finish(self._best)
        # else the timer that runs asks again

    def finish(self, reply: T | NoReply) -> None:
        """Give everybody the reply."""
        if self.is_done:
            return
        self.is_done = True
        forwarder = self.forwarder
        forwarder.forget(self._key, self.zone)
        if self._open:
            for attempt in self._open:
                attempt.close()
            self._open = []
        if reply is not NoReply.SHED and (reply is NoReply.NOBODY) != forwarder.is_failing and not self._is_apart:
            forwarder.note_failing(reply is NoReply.NOBODY, self._order)
        for callback in self._callbacks:
            self._call(callback, reply)

    def _call(self, callback: Callback[T], reply: T | NoReply) -> None:
        """Give one asker the reply; one that breaks costs itself alone."""
        try:
            callback(reply)
        except Exception:
            log.exception("a reply for %s", self.question.qname)


class _Try(Attempt, Generic[T]):
    """One question to one server: over UDP, then perhaps without EDNS, then perhaps over TCP."""

    __slots__ = ("_asking", "_began", "_has_edns", "_is_tcp", "server")

    def __init__(self, asking: _Asking[T], server: Server, now: float) -> None:
        self.port = None
        self.connection = None
        self.moves = 0
        self._asking = asking
        self.server = server
        self._began = now
        self._has_edns = True
        self._is_tcp = server.protocol is not Protocol.UDP

    def start(self) -> bool:
        """Send the question; False where that cannot even be tried."""
        asking = self._asking
        forwarder = asking.forwarder
        exchanges = forwarder.exchanges
        self.section = section = asking.section
        wire = asking.wire if self._has_edns else wire_of(asking.question, section, edns=False)
        if forwarder.randomizes_case and not self._is_tcp:
            wire = with_random_case(wire, urandom(len(section)))
            self.section = wire[HEADER_OCTETS - 2 : HEADER_OCTETS - 2 + len(section)]
        cookies = forwarder.cookies
        if cookies is not None and self._has_edns:
            wire = with_option(wire, len(asking.question.qname.wire), cookies.option(self.server))
        server = self.server
        if not self._is_tcp:
            is_on_its_way = exchanges.over_udp.ask(self, server, wire)
        else:
            if server.protocol is Protocol.UDP:
                server = msgspec.structs.replace(server, protocol=Protocol.TCP)
            is_on_its_way = exchanges.over_streams.ask(self, server, wire)
        if exchanges.tap is not None and is_on_its_way:
            exchanges.tap.asked(server, self.message_id + wire)
        return is_on_its_way

    def close(self) -> None:
        """Give up: another was quicker, or time is up."""
        exchanges = self._asking.forwarder.exchanges
        exchanges.over_udp.close(self)
        exchanges.over_streams.close(self)

    def received(self, wire: bytes) -> bool:
        """Take a matching reply, or ask again in another way."""
        asking = self._asking
        tap = asking.forwarder.exchanges.tap
        if tap is not None:
            server = self.server
            if self._is_tcp and server.protocol is Protocol.UDP:
                server = msgspec.structs.replace(server, protocol=Protocol.TCP)
            tap.replied(server, wire, asking.forwarder.now() - self._began)
        if asking.is_done:
            return True
        cookies = asking.forwarder.cookies
        if cookies is not None and self._has_edns and not self._is_tcp:
            is_theirs, is_wanted_again = cookies.take(self.server, wire)
            if not is_theirs:
                return False
            if is_wanted_again:
                self._again(is_tcp=False, has_edns=True)
                return False
        rcode = wire[3] & 15
        is_truncated = bool(wire[2] & 0x02)
        if not self._is_tcp and (is_truncated or (asking.forwarder.randomizes_case and self._is_respelled(wire))):
            self._again(is_tcp=True, has_edns=self._has_edns)
            return False
        if rcode in (FORMERR, NOTIMP) and self._has_edns:
            came_by_stream = self._is_tcp
            self._again(is_tcp=self._is_tcp, has_edns=False)
            return came_by_stream
        forwarder = asking.forwarder
        try:
            reply = forwarder.read(wire, asking.question, self.server)
        except WireError as exc:
            log.debug("%s: %s", self.server, exc)
            forwarder.unreadable += 1
            return False  # over UDP, the true reply may still come
        forwarder.observe(self.server, rcode, forwarder.now() - self._began)
        forwarder.servers.succeeded(self.server)
        asking.replied(self, rcode, reply)
        return True

    def _is_respelled(self, wire: bytes) -> bool:
        """Tell whether a reply repeats the question in another spelling: a server that folds case, or a guess."""
        return wire[4:6] == b"\0\1" and not wire.startswith(self.section, HEADER_OCTETS)

    def lost(self, reason: str) -> None:
        """Note that no reply comes."""
        if not self._asking.is_done:
            log.debug("%s: %s", self.server, reason)
            forwarder = self._asking.forwarder
            forwarder.observe(self.server, None, forwarder.now() - self._began)
            self._asking.failed(self)

    def _again(self, *, is_tcp: bool, has_edns: bool) -> None:
        """Ask once more; a socket that the reply came from is given up for it."""
        self._asking.forwarder.exchanges.over_udp.close(self)
        self._is_tcp, self._has_edns = is_tcp, has_edns
        if not self.start():
            self.lost("cannot be asked")
