"""``nodelocal demo``: both programs on loopback; one lookup through a plain forwarder and through expansion, counted.

The client here walks its search path as glibc does; the queries of each side are counted where they arrive.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import click
import msgspec
import trio

from kdns.admin.stats import QueryStats
from kdns.demo import Example, example_cluster
from kdns.net.addresses import bind, Listen
from kdns.net.udp import UdpListener
from kdns.proto.message import Message
from kdns.proto.query import NOERROR
from kdns.proto.text import message_to_text
from kdns.upstream.once import ask_once
from kdns.upstream.question import Question
from kdns.upstream.servers import Server as Upstream
from nodelocal import config
from nodelocal.demo.outside import Outside
from nodelocal.serve import Server
from zones.names import Name
from zones.records import A, AAAA

NAMESPACE: Final = "default"
HOST_DOMAIN: Final = "corp.example"
SEARCH: Final = (f"{NAMESPACE}.svc.cluster.local", "svc.cluster.local", "cluster.local", HOST_DOMAIN)

LOOKUPS: Final = (
    ("www.example.com", "A name of the outside world: the whole search path is in vain."),
    ("web.bakery", "A Service of another namespace: the second step has it."),
    ("kubernetes", "A Service of the pod's own namespace: the first step has it, so there is nothing to save."),
    (
        "git",
        "A host of the company's own domain, last in the path. Names without a dot are expanded with --node alone.",
    ),
)


class Counts(msgspec.Struct, frozen=True):
    """Queries that arrived: at nodelocal from the client, at kdns, outside."""

    client: int
    cluster: int
    outside: int


class Lookup(msgspec.Struct):
    """One lookup by a client: what it found, and what it cost."""

    found: list[Message]
    counts: Counts


class Stage:
    """The cast of the demo: a cluster, the world outside, and two forwarders, of which one expands."""

    def __init__(self, example: Example, outside: Outside, plain: Server, expanding: Server) -> None:
        self.example = example
        self.outside = outside
        self.plain = plain
        self.expanding = expanding

    async def look_up(self, server: Server, name: str) -> Lookup:
        """Look *name* up as glibc does behind *server*, with nothing in its cache, and count."""
        server.resolver.cache.flush()
        server.expander.forget()
        server.front.finished.forget()
        before = self._counts(server)
        found = await walk(Upstream(*server.addresses[0]), name)
        after = self._counts(server)
        return Lookup(
            found,
            Counts(after.client - before.client, after.cluster - before.cluster, after.outside - before.outside),
        )

    def _counts(self, server: Server) -> Counts:
        return Counts(
            _questions(server.stats),
            _questions(self.example.server.answers.stats),
            sum(self.outside.asked.values()),
        )


def _questions(stats: QueryStats) -> int:
    """Return how many queries were counted, but for the probes by which nodelocal looks for loops."""
    stats.flush()
    return sum(count for (_, _, _, kind), count in stats.requests.items() if kind != "other")


async def walk(server: Upstream, name: str) -> list[Message]:
    """Ask for A and AAAA at each step of the search path until one has something, as glibc does."""
    dots = name.count(".")
    steps = [f"{name}.{domain}" for domain in SEARCH] + ([name] if dots else [])
    replies: list[Message] = []
    for step in steps:
        replies = [await ask_once(server, Question(Name.from_text(step), rtype)) for rtype in (A, AAAA)]
        if any(reply.rcode == NOERROR and any(r.rtype in (A, AAAA) for r in reply.answer) for reply in replies):
            break
    return replies


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Set everything up on loopback until the block ends."""
    outside = Outside()
    (_, sock), *_ = bind(Listen("127.0.0.1", 0), socket.SOCK_DGRAM, "the demo's outside world")
    with sock, tempfile.TemporaryDirectory(prefix="demo-") as folder:
        async with example_cluster() as example, trio.open_nursery() as nursery:
            await nursery.start(UdpListener(sock, outside).serve)
            upstream = str(Listen(*sock.getsockname()[:2]))
            servers = []
            for mode in ("off", "transparent"):
                flags = {
                    "listen": ["127.0.0.1:0"],
                    "admin": ["127.0.0.1:0"],
                    "control": str(Path(folder) / mode[:3]),  # short: a socket's path has 107 octets at most
                    "cluster": [str(example.address)],
                    "upstream": [upstream],
                    "search": [HOST_DOMAIN],
                    "expand": mode,
                    "lameduck": "0",
                }
                server = Server(config.load(flags, None), announce=lambda line: None)
                server.bind()

                async def run(
                    server: Server = server, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
                ) -> None:
                    await server.run(task_status=task_status)
                    nursery.cancel_scope.cancel()  # a signal ended it: the demo ends with it

                await nursery.start(run)
                servers.append(server)
            yield Stage(example, outside, *servers)
            nursery.cancel_scope.cancel()


async def run_demo(keep: bool) -> None:
    """Show kdns's tour, then the lookups; with *keep* stay up after it until interrupted."""
    async with stage() as cast:
        await cast.example.tour()
        click.echo("\n" + "-" * 78)
        click.echo("nodelocal: the caching forwarder of a node, in front of that cluster and of the world")
        click.echo(f"outside. A pod in namespace {NAMESPACE} looks names up with this resolv.conf:\n")
        click.echo(f"    search {' '.join(SEARCH)}")
        click.echo("    options ndots:5")
        for name, why in LOOKUPS:
            await _compare(cast, name, why)
        click.echo(f"\nWhat the outside world was asked, in all: {sum(cast.outside.asked.values())} questions:")
        for question, count in cast.outside.asked.most_common():
            click.echo(f"    {count:3} × {question}")
        if keep:
            for title, server in (("plain", cast.plain), ("expanding", cast.expanding)):
                address, port = server.addresses[0]
                click.echo(
                    f"\nStill answering ({title}): dig @{address} -p {port} www.example.com.default.svc.cluster.local"
                )
                click.echo(
                    f"    nodelocal explain --control {server.config.control} www.example.com.default.svc.cluster.local"
                )
            click.echo("Ctrl-C ends it.")
            await trio.sleep_forever()
    click.echo("\nThe demo is over.")


async def _compare(cast: Stage, name: str, why: str) -> None:
    plain = await cast.look_up(cast.plain, name)
    expanded = await cast.look_up(cast.expanding, name)
    click.echo(f"\n{name}")
    click.echo(f"  {why}")
    click.echo(f"    {'queries':24} {'plain forwarder':>16} {'with expansion':>16}")
    for title, field in (
        ("client to nodelocal", "client"),
        ("nodelocal to kdns", "cluster"),
        ("nodelocal to outside", "outside"),
    ):
        click.echo(f"    {title:24} {getattr(plain.counts, field):>16} {getattr(expanded.counts, field):>16}")
    for reply in expanded.found[:1]:
        for line in message_to_text(reply):
            click.echo(f"    {line}")
