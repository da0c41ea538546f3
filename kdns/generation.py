"""One generation of ``kdns serve --config``, seen from within: on sockets of the keeper's, until it is succeeded.

| from the keeper (``kdns.keeper``)   | meaning                                                      |
|-------------------------------------|--------------------------------------------------------------|
| ``{"hold": true}``                  | another one answers; finish what has begun, and end          |
| ``{"end": seconds}``                | be unready and answer for that long, then end; again: now    |
| ``{"reloads": {…}}``                | what came of reading the file, for the metrics and /ready    |

What it says in turn, once each: ``{"fit": true}`` when it has all that it answers from, and ``{"serving": true}`` when
it answers on all sockets.
"""

from __future__ import annotations

import socket
from functools import partial

import trio

from kdns.lines import encode, lines
from kdns.serve import Server
from kdns.workers.controller import Controller


async def run_generation(server: Server | Controller, link: socket.socket, *, succeeds: bool) -> None:
    """Run *server*, whose sockets are adopted and whose files are read; if it *succeeds* another, once it is synced."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(link))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_follow, server, stream)

        async def fit() -> None:
            await server.synced.wait()
            await stream.send_all(encode({"fit": True}))

        async with trio.open_nursery() as serving:
            await serving.start(partial(server.run, fit=fit if succeeds else None, heeds_signals=False))
            if not server.program.is_stopping:
                await stream.send_all(encode({"serving": True}))
        nursery.cancel_scope.cancel()


async def _follow(server: Server | Controller, stream: trio.SocketStream) -> None:
    async for said in lines(stream):
        match said:
            case {"hold": _}:
                server.program.hold()
            case {"end": seconds}:
                server.program.stop(seconds)
            case {"reloads": reloads}:
                server.reloads.take(reloads)
