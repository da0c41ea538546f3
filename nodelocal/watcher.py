"""The process that watches the node's pods and writes what it learns to standard output, a JSON object a line.

It is a process of its own so that the one that reads packets from the network has neither credentials nor the
Kubernetes client in it. It ends when its standard input does, which is when the process that started it is gone.

| line                                                          | meaning                                         |
|---------------------------------------------------------------|-------------------------------------------------|
| ``{"put": [namespace, name, [address, …], search path]}``     | a pod is there, or changed                      |
| ``{"delete": [namespace, name]}``                             | a pod is gone                                   |
| ``{"all": [[namespace, name], …]}``                           | these and no others are there                   |
| ``{"trouble": text}``, ``{"trouble": null}``                  | what is wrong with the API server, or no more   |
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import trio

from kdns.admin import logs
from kdns.control.client import Access, ApiServer
from kdns.control.cluster import paths_of, RUNNING_PODS
from kdns.control.reflector import Reflector, Resource
from kdns.control.sink import StoreSink
from zones.decode import Decoder
from zones.objects import Kind, Object, ObjectKey, Pod
from zones.records import address_to_text
from zones.store import Change, Store


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

    def trouble(self, where: str, message: str | None, *, sort: str = "") -> None:
        """Note and tell what is wrong."""
        super().trouble(where, message, sort=sort)
        write(trouble=None if message is None else f"{where}: {message}")


@click.command()
@click.option("--node", required=True)
@click.option("--kubeconfig", type=click.Path(path_type=Path))
@click.option("--context")
@click.option("--api-server")
@click.option("--log-json", is_flag=True)
def main(node: str, kubeconfig: Path | None, context: str | None, api_server: str | None, log_json: bool) -> None:
    """Watch the pods of one node; nodelocal starts this by itself."""
    logs.set_up(as_json=log_json)
    trio.run(_main, node, Access(url=api_server, kubeconfig=kubeconfig, context=context))


async def _main(node: str, access: Access) -> None:
    store = PodFeed()

    def synced() -> None:
        write(all=[[key.namespace.decode(), key.name.decode()] for key in store.keys(Kind.POD)])

    sink = TellingSink(store, {Kind.POD}, on_change=lambda change: None, on_synced=synced)
    selector = f"spec.nodeName={node},{RUNNING_PODS}"
    resource = Resource(Kind.POD, paths_of(Kind.POD), field_selector=selector)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Reflector(ApiServer(access), resource, sink, Decoder()).run)
        await _until_input_ends()
        nursery.cancel_scope.cancel()


async def _until_input_ends() -> None:
    stream = trio.lowlevel.FdStream(0)
    while await stream.receive_some(1024):
        pass


if __name__ == "__main__":
    main()
