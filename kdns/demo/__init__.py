"""``kdns demo``: the real server on an example cluster, asked a tour of questions over real sockets.

The manifests beside this file are copied to a folder of the demo's own, so that one of them can be changed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Final

import click
import msgspec
import trio

from kdns import config
from kdns.proto.message import Message
from kdns.proto.text import message_to_text
from kdns.serve import Server
from kdns.upstream.once import ask_once
from kdns.upstream.question import Question
from kdns.upstream.servers import Protocol
from kdns.upstream.servers import Server as Upstream
from zones.names import Name
from zones.records import rrtype_from_text

POLL_SECONDS: Final = 0.001
CHANGE_SECONDS: Final = 10.0
"""After this long without the change showing, something is wrong with file watching here, and the demo says so."""


class Stop(msgspec.Struct, frozen=True):
    """One stop of the tour: what is asked, and why the answer is what it is."""

    name: str
    rrtype: str
    why: str
    over_tcp: bool = False


TOUR: Final[Sequence[Stop]] = (
    Stop("web.bakery.svc.cluster.local", "A", "A Service with a cluster IP: its address, whatever its pods do."),
    Stop("web.bakery.svc.cluster.local", "AAAA", "It is dual-stack, so it has an IPv6 address too."),
    Stop(
        "kubernetes.default.svc.cluster.local",
        "AAAA",
        "This one is IPv4 only: the name exists without such a record, so NOERROR and no answer (NODATA).",
    ),
    Stop(
        "_http._tcp.web.bakery.svc.cluster.local",
        "SRV",
        "A named port: its number, and the name to connect to.",
    ),
    Stop(
        "db.bakery.svc.cluster.local",
        "A",
        "A headless Service: the addresses of its ready pods, from all of its EndpointSlices. db-2 is not ready.",
    ),
    Stop("db-0.db.bakery.svc.cluster.local", "AAAA", "A pod with a hostname has a name of its own, in both families."),
    Stop(
        "_postgres._tcp.db.bakery.svc.cluster.local",
        "SRV",
        "The same port of every ready pod. Asked over TCP: the answer is the same.",
        over_tcp=True,
    ),
    Stop(
        "payments.bakery.svc.cluster.local",
        "A",
        "An ExternalName Service is a CNAME. Its target is not ours; with --upstream it would be resolved as well.",
    ),
    Stop(
        "store.bakery.svc.cluster.local",
        "A",
        "This one points back into the cluster, so it is followed here.",
    ),
    Stop("80.0.96.10.in-addr.arpa", "PTR", "An address back to the Service that has it."),
    Stop("10-244-1-10.bakery.pod.cluster.local", "A", "A pod's address as a name; --pods verified knows that it runs."),
    Stop("10-244-3-99.bakery.pod.cluster.local", "A", "That pod has ended, so the name does not exist."),
    Stop(
        "nothing.bakery.svc.cluster.local",
        "A",
        "No such Service: NXDOMAIN, with the SOA that says how long to believe it.",
    ),
    Stop("svc.cluster.local", "A", "Nothing is there itself, but names are below it: NODATA, not NXDOMAIN."),
    Stop("dns-version.cluster.local", "TXT", "The version of the Kubernetes DNS specification that is met."),
    Stop(
        "stock-0.north.stock.bakery.svc.clusterset.local",
        "A",
        "An endpoint of a Service that another cluster exports: --clusterset-zone clusterset.local.",
    ),
    Stop(
        "shop.bakery.example",
        "A",
        "The hostname of an HTTPRoute, with its Gateway's address: --external-zone bakery.example.",
    ),
    Stop("oven.corp.example", "A", "A static record: --record 'oven.corp.example 60 A 192.0.2.7'."),
    Stop("www.example.com", "A", "Not ours, and no --upstream: REFUSED."),
)


class Example:
    """The example cluster as it runs: *server* answers for it, *folder* holds its manifests."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder

    @property
    def address(self) -> Upstream:
        """Where it answers."""
        return Upstream(*self.server.addresses[0])

    async def tour(self) -> None:
        """Ask everything, and change something."""
        for stop in TOUR:
            await _ask(self.address, stop)
        await _change(self.address, self.folder / "bakery.yaml")


@asynccontextmanager
async def example_cluster() -> AsyncIterator[Example]:
    """Serve the example cluster on loopback, from manifests in a folder of its own, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="kdns-demo-"))
    try:
        for item in resources.files("kdns.demo").joinpath("manifests").iterdir():
            (folder / item.name).write_bytes(item.read_bytes())
        click.echo(f"An example cluster, from manifests in {folder}")
        flags = {
            "manifests": [str(folder)],
            "listen": ["127.0.0.1:0"],
            "admin": ["127.0.0.1:0"],
            "pods": "verified",
            "clusterset-zone": ["clusterset.local"],
            "external-zone": ["bakery.example"],
            "record": ["oven.corp.example 60 A 192.0.2.7"],
            "push": "tcp",
            "lameduck": "0",
        }
        server = Server(config.load(flags, None), announce=click.echo)
        server.bind()
        server.cluster.load()
        async with trio.open_nursery() as nursery:

            async def run_server(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
                await server.run(task_status=task_status)
                nursery.cancel_scope.cancel()  # a signal ended it: the tour ends with it

            await nursery.start(run_server)
            await server.cluster.synced.wait()
            yield Example(server, folder)
            nursery.cancel_scope.cancel()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def run_demo(keep: bool) -> None:
    """Run the tour, and with *keep* stay up after it until interrupted."""
    async with example_cluster() as example:
        await example.tour()
        if keep:
            where = example.address
            click.echo(f"\nStill answering: dig @{where.address} -p {where.port} web.bakery.svc.cluster.local")
            click.echo("Ctrl-C ends it.")
            await trio.sleep_forever()
    click.echo("\nThe tour is over.")


async def _ask(upstream: Upstream, stop: Stop) -> None:
    message = await _reply(upstream, stop.name, stop.rrtype, over_tcp=stop.over_tcp)
    click.echo(f"\n{stop.name} {stop.rrtype}{' (over TCP)' if stop.over_tcp else ''}")
    click.echo(f"  {stop.why}")
    for line in message_to_text(message):
        click.echo(f"    {line}")


async def _change(upstream: Upstream, manifest: Path) -> None:
    """Change the cluster IP of a Service and tell when the answer follows."""
    name, before, after = "web.bakery.svc.cluster.local", "10.96.0.80", "10.96.0.81"
    click.echo(f"\nA change: the cluster IP of Service web becomes {after}")
    await _reply(upstream, name, "A")
    _replace(manifest, before, after)
    began = trio.current_time()
    wanted = bytes(map(int, after.split(".")))
    while wanted not in [record.rdata for record in (await _reply(upstream, name, "A")).answer]:
        if trio.current_time() - began > CHANGE_SECONDS:
            raise click.ClickException(
                f"the answer did not follow within {CHANGE_SECONDS:g} s: is file watching possible here?"
            )
        await trio.sleep(POLL_SECONDS)
    milliseconds = (trio.current_time() - began) * 1000
    click.echo(f"  the answer followed {milliseconds:.0f} ms after the file was written")
    for line in message_to_text(await _reply(upstream, name, "A")):
        click.echo(f"    {line}")


def _replace(manifest: Path, before: str, after: str) -> None:
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")


async def _reply(upstream: Upstream, name: str, rrtype: str, *, over_tcp: bool = False) -> Message:
    if over_tcp:
        upstream = Upstream(upstream.address, upstream.port, Protocol.TCP)
    return await ask_once(upstream, Question(Name.from_text(name), rrtype_from_text(rrtype)))
