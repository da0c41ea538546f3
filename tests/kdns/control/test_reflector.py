"""The reflector against the stand-in, at a pace that lets silence be waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import trio

from kdns.control.client import Access, ApiServer
from kdns.control.cluster import ApiSource
from kdns.control.resource import Pace
from kdns.control.sink import Sink, StoreSink
from tests.support import api_server
from tests.support.kube import namespace, service
from zones.decode import Decoder
from zones.objects import Kind
from zones.selectors import Scope
from zones.store import Store

pytestmark = pytest.mark.system

PACE = Pace(silence_seconds=0.4, first_backoff=0.01, max_backoff=0.1)


def reflect(api: api_server.ApiServer, script: Callable[[Store, Sink, Callable[[str], None]], None]) -> Sink:
    """Run reflectors of namespaces and Services while *script* runs in a thread.

    The script is given the store, the sink, and a function that waits until a Service is in the store.
    """
    store = Store()
    synced = trio.Event()
    sink = StoreSink(store, {Kind.NAMESPACE, Kind.SERVICE}, on_change=lambda change: None, on_synced=synced.set)

    async def wait_for(name: str) -> None:
        with trio.fail_after(15):
            while store.service(b"default", name.encode()) is None:  # noqa: ASYNC110 - the store tells nobody
                await trio.sleep(0.01)

    async def main() -> None:
        source = ApiSource(ApiServer(Access(url=api.url)), sink, Decoder(), Scope(), pace=PACE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.run)
            with trio.fail_after(15):
                await synced.wait()
            await trio.to_thread.run_sync(script, store, sink, lambda name: trio.from_thread.run(wait_for, name))
            nursery.cancel_scope.cancel()

    trio.run(main)
    return sink


def test_a_silent_watch_is_noticed_and_renewed() -> None:
    with api_server.ApiServer() as api:
        api.put(namespace(), service("web", "10.96.0.1"))

        def script(store: Store, sink: Sink, wait_for: Callable[[str], None]) -> None:
            api.silent = True
            before = api.count("/services?watch")
            api.put(service("missed", "10.96.0.2"))
            trio.from_thread.run(trio.sleep, 1.5)
            assert api.count("/services?watch") > before
            assert store.service(b"default", b"missed") is None
            api.silent = False
            wait_for("missed")
            assert store.service(b"default", b"web") is not None

        reflect(api, script)


def test_a_version_of_the_future_is_left_for_a_new_list() -> None:
    """A server restored from a backup: the version watched from lies ahead of it, and a watch stays silent for ever."""
    with api_server.ApiServer() as api:
        api.put(namespace(), *(service(f"s{number}", f"10.96.1.{number}") for number in range(1, 50)))

        def script(store: Store, sink: Sink, wait_for: Callable[[str], None]) -> None:
            api.restore(50)
            api.put(service("after", "10.96.0.2"))
            wait_for("after")

        reflect(api, script)


def test_cancellation_ends_with_watches_open() -> None:
    with api_server.ApiServer() as api:
        api.put(namespace())
        began = time.monotonic()
        reflect(api, lambda store, sink, wait_for: None)
        assert time.monotonic() - began < 10
