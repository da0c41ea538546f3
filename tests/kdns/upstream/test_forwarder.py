"""Questions on their way: what is given up for newer ones, and that the books are right afterwards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

from kdns.upstream.attempt import Attempt
from kdns.upstream.forwarder import Exchanges, Forwarder, NoReply
from kdns.upstream.question import Question
from kdns.upstream.servers import Server, ServerList
from zones.names import Name

MOST = 64


class Held:
    """What stands for the sockets: attempts, held."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []

    def ask(self, attempt: Attempt, server: Server, wire: bytes) -> bool:
        attempt.message_id = b"id"
        self.attempts.append(attempt)
        return True

    def close(self, attempt: Attempt) -> None:
        if attempt in self.attempts:
            self.attempts.remove(attempt)

    def reply_to_all(self) -> None:
        for attempt in list(self.attempts):
            self.attempts.remove(attempt)
            attempt.received(b"id\x81\x80\0\1\0\0\0\0\0\0" + attempt.section)


def question(name: str) -> Question:
    return Question(Name.from_text(name), 1)


def played(steps: Callable[[Forwarder[bytes], Held], None]) -> None:
    async def main() -> None:
        held, exchanges = Held(), Exchanges()
        exchanges.over_udp = exchanges.over_streams = held
        forwarder: Forwarder[bytes] = Forwarder(
            ServerList([Server("192.0.2.53")]), exchanges, lambda wire, asked, server: wire, max_questions=MOST
        )
        steps(forwarder, held)
        held.reply_to_all()
        assert len(forwarder) == 0
        assert forwarder._zones == {}

    trio.run(main)


def test_the_oldest_is_given_up_for_the_newest_and_of_a_crowded_zone_its_own() -> None:
    def steps(forwarder: Forwarder[bytes], held: Held) -> None:
        given_up: list[str] = []

        def take(name: str, reply: bytes | NoReply) -> None:
            if reply is NoReply.SHED:
                given_up.append(name)

        names = [f"www.n{number}.test" for number in range(MOST)]
        names += [f"x{number}.flood.test" for number in range(MOST)]
        for name in names:
            forwarder.ask(question(name), partial(take, name))
        assert given_up == names[: MOST // 2] + names[MOST : MOST + MOST // 2]
        assert len(forwarder) == len(held.attempts) == MOST

    played(steps)


def test_who_is_given_up_may_ask_at_once_for_what_takes_its_place() -> None:
    def steps(forwarder: Forwarder[bytes], held: Held) -> None:
        replies: list[bytes | NoReply] = []
        for number in range(MOST):
            forwarder.ask(
                question(f"www.n{number}.test"), lambda _: forwarder.ask(question("new.test"), replies.append)
            )
        forwarder.ask(question("new.test"), replies.append)
        assert len(forwarder) == len(held.attempts) == MOST
        held.reply_to_all()
        assert len(replies) > 1
        assert NoReply.SHED not in replies

    played(steps)
