"""UDP listeners with a handler of the test's own: both ways of receiving, silence and late answers among others."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import pytest
import trio

from kdns.net.addresses import bind, Listen
from kdns.net.batch import is_available, SLOTS
from kdns.net.handler import Client, Deliver, Later
from kdns.net.udp import UdpListener
from kdns.proto.table import AnswerTable, Entry

pytestmark = pytest.mark.system

WAYS = [
    pytest.param(True, id="batches", marks=pytest.mark.skipif(not is_available(), reason="no recvmmsg here")),
    pytest.param(False, id="singly"),
]


class Echo:
    """Answers ``tail`` with ``TAIL``; what begins with ``silent`` not at all, with ``later`` after a while."""

    def __init__(self) -> None:
        self.table = AnswerTable()
        self.table.store(b"stored", (b"one", b"two"), ())
        self.find: Callable[[bytes], Entry | None] = self.table.find
        self.counted = 0
        self.clients: set[str] = set()
        self.waiting: list[tuple[float, Deliver, bytes]] = []

    def respond(self, wire: bytes, client: Client) -> bytes | Later | None:
        self.clients.add(client()[0])
        if wire[2:].startswith(b"silent"):
            return None
        if wire[2:].startswith(b"later"):
            return lambda deliver: self.waiting.append((trio.current_time() + 0.05, deliver, wire[2:].upper()))
        return wire[2:].upper()

    async def answer_late(self) -> None:
        while True:
            await trio.sleep(0.01)
            now = trio.current_time()
            due = [some for some in self.waiting if some[0] <= now]
            self.waiting = [some for some in self.waiting if some[0] > now]
            for _, deliver, tail in due:
                deliver(tail)

    def count(self, hits: Sequence[Entry], seconds: float) -> None:
        assert seconds >= 0
        self.counted += len(hits)


def exchange(port: int, host: str, messages: list[bytes], expected: int) -> list[bytes]:
    """Send all *messages* at once and return that many replies."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((host, port))
        for message in messages:
            sock.send(message)
        return [sock.recv(4096) for _ in range(expected)]


def serve(batched: bool, address: str, talk: Callable[[int], None]) -> Echo:
    """Run a listener on *address* while *talk*, which is given its port, runs in a thread."""
    handler = Echo()

    async def main() -> None:
        (_, sock), *_ = bind(Listen(address, 0), socket.SOCK_DGRAM, "test")
        with sock:
            listener = UdpListener(sock, handler, batched=batched)
            async with trio.open_nursery() as nursery:
                await nursery.start(listener.serve)
                nursery.start_soon(handler.answer_late)
                await trio.to_thread.run_sync(talk, sock.getsockname()[1])
                with trio.fail_after(5):
                    await listener.drained()
                nursery.cancel_scope.cancel()

    trio.run(main)
    return handler


@pytest.mark.parametrize("batched", WAYS)
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_silence_and_late_answers_do_not_mix_up_the_others(batched: bool, address: str) -> None:
    kinds = [b"plain", b"silent", b"later", b"stored"]
    messages = [b"%02d" % (number % 100) + kinds[number % 4] for number in range(2 * SLOTS)]

    def talk(port: int) -> None:
        replies = exchange(port, "127.0.0.1", messages, 2 * SLOTS * 3 // 4)
        answered = {reply[2:] for reply in replies}
        assert answered == {b"PLAIN", b"LATER", b"one", b"two"}
        by_kind = {kind: {message[:2] for message in messages if message[2:] == kind} for kind in kinds}
        assert {reply[:2] for reply in replies if reply[2:] == b"LATER"} == by_kind[b"later"]
        assert {reply[:2] for reply in replies if reply[2:] == b"PLAIN"} == by_kind[b"plain"]

    handler = serve(batched, address, talk)
    assert handler.counted == 2 * SLOTS // 4
    assert handler.clients == {"127.0.0.1"}


@pytest.mark.parametrize("batched", WAYS)
def test_replies_leave_from_the_address_asked(batched: bool) -> None:
    def talk(port: int) -> None:
        for host in ("127.0.0.2", "127.9.9.9"):
            assert exchange(port, host, [b"aaplain", b"bblater"], 2) == [b"aaPLAIN", b"bbLATER"]

    serve(batched, "0.0.0.0", talk)


@pytest.mark.parametrize("batched", WAYS)
def test_empty_and_long_datagrams(batched: bool) -> None:
    def talk(port: int) -> None:
        replies = exchange(port, "127.0.0.1", [b"", b"x", b"aa" + b"y" * 9000, b"bbplain"], 4)
        assert replies[-1] == b"bbPLAIN"

    serve(batched, "127.0.0.1", talk)
