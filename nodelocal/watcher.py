"""The process that watches the node's pods, and the slices of the cluster DNS Service, and writes what it learns to
standard output, a JSON object a line.

It is a process of its own so that the one that reads packets from the network has neither credentials nor the
Kubernetes client in it. It ends when its standard input does, which is when the process that started it is gone.

| line                                                          | meaning                                         |
|---------------------------------------------------------------|-------------------------------------------------|
| ``{"put": [namespace, name, [address, …], search path]}``     | a pod is there, or changed                      |
| ``{"delete": [namespace, name]}``                             | a pod is gone                                   |
| ``{"all": [[namespace, name], …]}``                           | these and no others are there                   |
| ``{"servers": [[address, port], …]}``                         | the ready endpoints of the cluster's DNS        |
| ``{"servers_trouble": text}``, or null                        | what is wrong with watching those               |
| ``{"trouble": text}``, ``{"trouble": null}``                  | what is wrong with the API server, or no more   |
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import click
import trio

from kdns.admin import logs
from kdns.control.client import Access, ApiServer
from kdns.control.cluster import paths_of, RUNNING_PODS
from kdns.control.reflector import Reflector
from kdns.control.resource import Resource
from kdns.control.sink import StoreSink
from kdns.privileges import give_up
from nodelocal.cluster import servers_of, SLICE_LABEL
from zones.change import Change
from zones.decode import Decoder
from zones.objects import EndpointSlice, Kind, Object, ObjectKey, Pod
from zones.records import address_to_text
from zones.store import Store


def write(**line: object) -> None:
    """Write one line; a reader that is gone ends this process."""
    try:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    except OSError:
        sys.stdout = None
        sys.exit(0)


class PodFeed(Store):
    """A store that tells what it is given."""

    def put(self, new: Object) -> Change:
        """Keep and tell a pod."""
        if isinstance(new, Pod):
            addresses = [address_to_text(address) for address in new.addresses]
            write(put=[new.namespace.decode(), new.name.decode(), addresses, new.search_path.value])
        return super().put(new)

    def delete(self, kind: Kind, key: ObjectKey) -> Change:
        """Forget and tell."""
        write(delete=[key.namespace.decode(), key.name.decode()])
        return super().delete(kind, key)


class TellingSink(StoreSink):
    """A sink that tells troubles, too."""

    def trouble(self, where: str, message: str | None, *, sort: str = "", is_final: bool = False) -> None:
        """Note and tell what is wrong."""
        super().trouble(where, message, sort=sort, is_final=is_final)
        write(trouble=None if message is None else f"{where}: {message}")


class ServerFeed(StoreSink):
    """A sink for the slices of one Service, which tells of its ready endpoints whenever those are others."""

    def __init__(self, zone: bytes) -> None:
        super().__init__(Store(), {Kind.ENDPOINT_SLICE}, on_change=lambda change: None, on_synced=self._tell)
        self._zone = zone
        self._slices: dict[ObjectKey, EndpointSlice] = {}
        self._last: list[tuple[str, int]] | None = None

    def apply(
        self, puts: Iterable[Object], deletes: Iterable[tuple[Kind, ObjectKey]] = (), *, is_first: bool = False
    ) -> None:
        """Put and delete in one step."""
        for _, key in deletes:
            self._slices.pop(key, None)
        self._slices |= {piece.key: piece for piece in puts if isinstance(piece, EndpointSlice)}
        if self.is_synced:
            self._tell()

    def keys(self, kind: Kind) -> list[ObjectKey]:
        """List the slices."""
        return list(self._slices)

    def trouble(self, where: str, message: str | None, *, sort: str = "", is_final: bool = False) -> None:
        """Note and tell what is wrong."""
        super().trouble(where, message, sort=sort, is_final=is_final)
        write(servers_trouble=None if message is None else f"{where}: {message}")

    def _tell(self) -> None:
        servers = servers_of(self._slices.values(), self._zone)
        if servers != self._last:
            self._last = servers
            write(servers=servers)


@click.command()
@click.option("--node")
@click.option("--service", help="NAMESPACE/NAME of the Service of the cluster's DNS.")
@click.option("--zone", default="")
@click.option("--kubeconfig", type=click.Path(path_type=Path))
@click.option("--context")
@click.option("--api-server")
@click.option("--log-json", is_flag=True)
@click.option("--unprivileged", is_flag=True, help="Give up all capabilities first.")
def main(
    node: str | None,
    service: str | None,
    zone: str,
    kubeconfig: Path | None,
    context: str | None,
    api_server: str | None,
    log_json: bool,
    unprivileged: bool,
) -> None:
    """Watch the pods of one node, the servers of a Service, or both; nodelocal starts this by itself."""
    logs.set_up(as_json=log_json)
    if unprivileged:
        give_up()
    trio.run(_main, node, service, zone, Access(url=api_server, kubeconfig=kubeconfig, context=context))


async def _main(node: str | None, service: str | None, zone: str, access: Access) -> None:
    server = ApiServer(access)
    async with trio.open_nursery() as nursery:
        if node is not None:
            nursery.start_soon(_pods(node, server).run)
        if service is not None:
            nursery.start_soon(_servers(service, zone, server).run)
        await _until_input_ends()
        nursery.cancel_scope.cancel()


def _pods(node: str, server: ApiServer) -> Reflector:
    store = PodFeed()

    def synced() -> None:
        write(all=[[key.namespace.decode(), key.name.decode()] for key in store.keys(Kind.POD)])

    sink = TellingSink(store, {Kind.POD}, on_change=lambda change: None, on_synced=synced)
    selector = f"spec.nodeName={node},{RUNNING_PODS}"
    return Reflector(server, Resource(Kind.POD, paths_of(Kind.POD), field_selector=selector), sink, Decoder())


def _servers(service: str, zone: str, server: ApiServer) -> Reflector:
    namespace, _, name = service.partition("/")
    version, _, plural = paths_of(Kind.ENDPOINT_SLICE)[0].rpartition("/")
    paths = (f"{version}/namespaces/{namespace}/{plural}",)
    resource = Resource(Kind.ENDPOINT_SLICE, paths, label_selector=f"{SLICE_LABEL}={name}")
    return Reflector(server, resource, ServerFeed(zone.lower().encode()), Decoder(topology_zones=True))


async def _until_input_ends() -> None:
    stream = trio.lowlevel.FdStream(0)
    while await stream.receive_some(1024):
        pass


if __name__ == "__main__":
    main()
