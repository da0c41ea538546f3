"""Questions over UDP on real sockets: who may answer, what the system says, what is given up."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import pytest
import trio

from kdns.compiled import IS_COMPILED
from kdns.upstream.attempt import Attempt
from kdns.upstream.question import Question
from kdns.upstream.servers import Protocol, Server
from kdns.upstream.udp import UdpQuestions
from kdns.upstream.wire import section_of, wire_of
from zones.names import Name

pytestmark = pytest.mark.skipif(IS_COMPILED, reason="compiled, an attempt of the test's own cannot be one of theirs")

LOOPBACK: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
QUESTION = Question(Name.from_text("www.example.com"), 1)
WIRE = wire_of(QUESTION, section_of(QUESTION))


class Asked(Attempt):
    """An attempt that notes what becomes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.section = WIRE[10 : 14 + len(Name.from_text("www.example.com").wire)]
        self.replies: list[bytes] = []
        self.reasons: list[str] = []
        self.done = trio.Event()

    def received(self, wire: bytes) -> bool:
        self.replies.append(wire)
        self.done.set()
        return True

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)
        self.done.set()


def _bound(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.bind((LOOPBACK[family], 0))
    except OSError:
        sock.close()
        pytest.skip("this machine has no IPv6 on loopback")
    sock.settimeout(5)
    return sock


def _server(sock: socket.socket) -> Server:
    return Server(sock.getsockname()[0], sock.getsockname()[1], Protocol.UDP)


def _play(steps: Callable[[UdpQuestions], Awaitable[None]]) -> None:
    async def main() -> None:
        questions = UdpQuestions()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(questions.run)
                await steps(questions)
                nursery.cancel_scope.cancel()

    trio.run(main)


def _reply(query: bytes) -> bytes:
    return query[:2] + bytes((query[2] | 0x80,)) + query[3:]


@pytest.mark.parametrize("family", LOOPBACK)
def test_another_address_cannot_answer_though_it_knows_port_and_id(family: int) -> None:
    with _bound(family) as server, _bound(family) as liar:

        async def steps(questions: UdpQuestions) -> None:
            asked = Asked()
            assert questions.ask(asked, _server(server), WIRE)
            query, sender = await trio.to_thread.run_sync(server.recvfrom, 4096)
            liar.sendto(_reply(query), sender)
            while not questions.mismatched:  # noqa: ASYNC110 - nothing tells of one that is ignored
                await trio.sleep(0.001)
            assert asked.replies == []
            server.sendto(_reply(query), sender)
            await asked.done.wait()
            assert asked.replies == [_reply(query)]
            assert len(questions) == 0

        _play(steps)


@pytest.mark.parametrize("family", LOOPBACK)
def test_a_port_that_nobody_listens_on_is_told_of_at_once(family: int) -> None:
    with _bound(family) as server:
        closed = _server(server)

    async def steps(questions: UdpQuestions) -> None:
        for _ in range(3):
            asked = Asked()
            assert questions.ask(asked, closed, WIRE)
            with trio.fail_after(10):
                await asked.done.wait()
            assert asked.reasons == ["Connection refused"]
            assert len(questions) == 0

    _play(steps)


def test_each_question_leaves_from_a_port_of_its_own() -> None:
    with _bound(socket.AF_INET) as server:

        async def steps(questions: UdpQuestions) -> None:
            ports = set()
            for _ in range(100):  # one after the other: the same socket each time
                asked = Asked()
                questions.ask(asked, _server(server), WIRE)
                query, sender = await trio.to_thread.run_sync(server.recvfrom, 4096)
                server.sendto(_reply(query), sender)
                await asked.done.wait()
                ports.add(sender[1])
            assert len(ports) > 90

        _play(steps)


def test_what_the_system_will_not_send_is_lost_and_the_next_question_goes_on() -> None:
    with _bound(socket.AF_INET) as server:

        async def steps(questions: UdpQuestions) -> None:
            nowhere, then = Asked(), Asked()
            nowhere_lost = nowhere.lost

            def lost(reason: str) -> None:  # as a forwarder does: the next server is asked from within the call
                nowhere_lost(reason)
                assert questions.ask(then, _server(server), WIRE)

            nowhere.lost = lost  # type: ignore[method-assign]
            assert questions.ask(nowhere, Server("255.255.255.255", 53, Protocol.UDP), WIRE)
            query, sender = await trio.to_thread.run_sync(server.recvfrom, 4096)
            server.sendto(_reply(query), sender)
            await then.done.wait()
            assert nowhere.reasons == ["Permission denied"]
            assert len(then.replies) == 1

        _play(steps)


def test_what_is_given_up_before_it_is_sent_is_not_sent() -> None:
    with _bound(socket.AF_INET) as server:

        async def steps(questions: UdpQuestions) -> None:
            given_up, other = Asked(), Asked()
            questions.ask(given_up, _server(server), WIRE)
            questions.ask(other, _server(server), WIRE)
            questions.close(given_up)
            assert len(questions) == 1
            query, _ = await trio.to_thread.run_sync(server.recvfrom, 4096)
            assert query[:2] == other.message_id
            server.settimeout(0.1)
            with pytest.raises(TimeoutError):
                await trio.to_thread.run_sync(server.recvfrom, 4096)

        _play(steps)
