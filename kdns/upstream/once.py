"""One question to one server, awaited: for tools and tours, which have no table of questions on their way."""

from __future__ import annotations

import trio

from kdns.errors import UpstreamError
from kdns.proto.message import Message, read_message
from kdns.upstream.forwarder import Exchanges, Forwarder, NoReply
from kdns.upstream.question import Question
from kdns.upstream.servers import Server, ServerList


async def ask_once(server: Server, question: Question) -> Message:
    """Return the reply. Raises UpstreamError when none comes in time."""
    replies: list[Message | NoReply] = []
    there = trio.Event()

    def take(reply: Message | NoReply) -> None:
        replies.append(reply)
        there.set()

    async with trio.open_nursery() as nursery:
        exchanges = Exchanges()
        await nursery.start(exchanges.run)
        Forwarder(ServerList([server]), exchanges, lambda wire, asked, by: read_message(wire)).ask(question, take)
        await there.wait()
        nursery.cancel_scope.cancel()
    if isinstance(reply := replies[0], NoReply):
        raise UpstreamError(f"{server}: no reply for {question.qname}")
    return reply
