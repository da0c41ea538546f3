"""The change feed: how soon a node's cache follows, and what subscriptions cost the server that tells."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.process import BenchError, free_port, Process
from bench.propagation import appears
from bench.report import progress
from kdns.proto import dso
from tests.support.api_server import ApiServer
from tests.support.kube import namespace, service
from zones.names import Name

WAIT_SECONDS: Final = 40.0
PROBE: Final = Name.from_text("probe.default.svc.cluster.local")
ANY: Final = 255


# -- a node -----------------------------------------------------------------------------------------------------------


def run_node(events: int) -> list[dict[str, Any]]:
    """Measure from the creation of a Service to its first answer, through a cache that has just denied it."""
    sys.setswitchinterval(0.0002)  # the API server's threads share this process with the clock
    rows = []
    with ApiServer() as api, tempfile.TemporaryDirectory() as folder:
        api.put(namespace(), service("probe", "10.96.255.1"))
        for title, flags, count in (
            ("subscribed, TTL 30 s", ["--ttl", "30"], events),
            ("--subscribe off, TTL 5 s", ["--ttl", "5"], max(3, events // 200)),
        ):
            port, node = free_port(), free_port()
            kdns = _command("kdns", port, "--api-server", api.url, "--push", "tcp", *flags)
            more = ["--subscribe", "off"] if "off" in title else []
            ours = _command(
                "nodelocal", node, "--cluster", f"127.0.0.1:{port}", "--upstream", "127.0.0.1:9",
                "--control", str(Path(folder) / "control.sock"), *more,
            )  # fmt: skip
            with Process("kdns", kdns, port, PROBE), Process("nodelocal", ours, node, PROBE):
                some = []
                for number in range(count):
                    if number % 100 == 0:
                        progress(f"{title}: {number} of {count} …")
                    name = f"{'s' if more else 'n'}{number}"
                    new = service(name, f"10.97.{number >> 8}.{number & 255}")
                    owner = Name.from_text(f"{name}.default.svc.cluster.local")
                    # a client was just denied, and the subscription is on its way
                    some.append(appears(node, owner, partial(api.put, new), pause=0.03))
            rows.append({"what": f"new Service, {title}", **_percentiles(some)})
    return rows


# -- a server ---------------------------------------------------------------------------------------------------------


def run_server(subscriptions: int, connections: int, each: int, events: int) -> list[dict[str, Any]]:
    """Measure many subscriptions on one connection, and a few on each of many connections."""
    rows = []
    with ApiServer() as api:
        api.put(namespace(), service("probe", "10.96.255.1"))
        for title, count, per in (
            (f"1 connection, {subscriptions:,} subscriptions", 1, subscriptions),
            (f"{connections:,} connections, {each} subscriptions each", connections, each),
        ):
            port = free_port()
            command = _command("kdns", port, "--api-server", api.url, "--push", "tcp")
            progress(f"{title} …")
            with Process("kdns", command, port, PROBE) as server:
                rows.append({"what": title, **_subscribed(api, server, count, per, events)})
    return rows


def _subscribed(api: ApiServer, server: Process, connections: int, each: int, events: int) -> dict[str, Any]:
    memory, cpu = server.proportional_octets(), server.cpu_seconds()
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(_connect(server.port, number)) for number in range(connections)]
        names = ["told", *(f"name{number}" for number in range(each - 1))]
        for sock in socks:
            wires = [
                dso.make_dso(at, dso.subscribe(Name.from_text(f"{name}.default.svc.cluster.local"), ANY))
                for at, name in enumerate(names, start=1)
            ]
            for at in range(0, len(wires), 500):
                sock.sendall(b"".join(struct.pack("!H", len(wire)) + wire for wire in wires[at : at + 500]))
                _read(sock, len(wires[at : at + 500]))
        seconds = time.perf_counter() - began
        row: dict[str, Any] = {
            "subscribe_s": round(seconds, 2),
            "subscribe_us_cpu": round((server.cpu_seconds() - cpu) / (connections * each) * 1e6, 1),
            "kb_a_subscription": round((server.proportional_octets() - memory) / 1024 / (connections * each), 2),
            "kb_a_connection": round((server.proportional_octets() - memory) / 1024 / connections, 1),
        }
        cpu, first, last = server.cpu_seconds(), [], []
        for number in range(events):
            began = time.perf_counter()
            api.put(service("told", f"10.98.{number >> 8}.{number & 255}"))
            times = [moment - began for moment in _all_told(socks)]
            first.append(times[0] * 1000)
            last.append(times[-1] * 1000)
        row["event_us_cpu"] = round((server.cpu_seconds() - cpu) / events * 1e6)
        row |= {f"first_{key}": value for key, value in _percentiles(first).items() if key != "count"}
        row |= {f"last_{key}": value for key, value in _percentiles(last).items()}
        return row


def _connect(port: int, number: int) -> socket.socket:
    source = f"127.0.{1 + (number >> 8)}.{1 + (number & 127) + (number >> 7 & 1) * 64}"
    return socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))


def _read(sock: socket.socket, messages: int) -> None:
    """Read so many messages."""
    data = b""
    while messages:
        chunk = sock.recv(65_536)
        if not chunk:
            raise BenchError("the server closed a session")
        data += chunk
        while messages and len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2], "big"):
            data = data[2 + int.from_bytes(data[:2], "big") :]
            messages -= 1


def _all_told(socks: Sequence[socket.socket]) -> list[float]:
    """Wait until every connection has been told; return when, in order."""
    moments: list[float] = []
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
        deadline = time.perf_counter() + WAIT_SECONDS
        while len(moments) < len(socks):
            if time.perf_counter() > deadline:
                raise BenchError(f"{len(socks) - len(moments)} connections were not told")
            for key, _ in selector.select(1.0):
                told = key.fileobj
                assert isinstance(told, socket.socket)  # what was registered
                if not told.recv(65_536):
                    raise BenchError("the server closed a session")
                moments.append(time.perf_counter())
                selector.unregister(told)
    return moments


def _command(program: str, port: int, *more: str) -> list[str]:
    command = [sys.executable, "-m", program, "serve", "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0"]
    return [*command, *more]


def _percentiles(some: list[float]) -> dict[str, Any]:
    ordered = sorted(some)
    row: dict[str, Any] = {"count": len(ordered)}
    for title, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0)):
        row[title] = round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)
    return row
