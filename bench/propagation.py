"""From an event of the API server to the answer: how long a change takes to be seen by clients.

The stand-in API server of the tests sends each event over real HTTP. Each name is asked for before it exists, often
enough to be in the answer table as NXDOMAIN; the clock runs from just before the object is created to the first
answer that has it.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from bench.process import BenchError, free_port, Process
from bench.report import percentiles, progress
from kdns.proto.message import make_question
from tests.support.api_server import ApiServer
from tests.support.kube import endpoint_slice, namespace, service
from zones.names import Name

WAIT_SECONDS: Final = 40.0


def run(events: int) -> dict[str, list[float]]:
    """Return milliseconds from event to answer, for new Services and for new endpoints."""
    sys.setswitchinterval(0.0002)  # the API server's threads share this process with the clock
    results: dict[str, list[float]] = {"new Service": [], "new endpoint of 1,000": []}
    with ApiServer() as api:
        many = [f"10.1.{number >> 8}.{number & 255}" for number in range(1000)]
        api.put(namespace(), service("probe", "10.96.255.1"), service("db"))
        api.put(*(endpoint_slice("db", *many[at : at + 100], name=f"db-{at}") for at in range(0, 1000, 100)))
        port = free_port()
        command = [sys.executable, "-m", "kdns", "serve", "--api-server", api.url, "--listen", f"127.0.0.1:{port}"]
        probe = Name.from_text("probe.default.svc.cluster.local")
        with Process("kdns", [*command, "--admin", "127.0.0.1:0"], port, probe):
            for number in range(events):
                if number % 100 == 0:
                    progress(f"{number} of {events} events …")
                name = Name.from_text(f"new{number}.default.svc.cluster.local")
                new = service(f"new{number}", f"10.97.{number >> 8}.{number & 255}")
                results["new Service"].append(appears(port, name, partial(api.put, new)))
                address = f"10.2.{number >> 8}.{number & 255}"
                label = Name.from_text(f"{address.replace('.', '-')}.db.default.svc.cluster.local")
                piece = endpoint_slice("db", *many[:99], address, name="db-0")
                results["new endpoint of 1,000"].append(appears(port, label, partial(api.put, piece)))
    return results


def appears(port: int, name: Name, change: Callable[[], None], *, pause: float = 0.0) -> float:
    """Return the milliseconds from *change*, *pause* seconds after *name* was denied, until it has an address."""
    question = make_question(b"kd", name, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.settimeout(1)

        def exists() -> bool:
            sock.send(question)
            reply = sock.recv(4096)
            return reply[3] & 15 == 0 and reply[7] > 0

        for _ in range(4):
            if exists():
                raise BenchError(f"{name} exists before it was made")
        time.sleep(pause)
        began = time.perf_counter()
        change()
        while not exists():
            if time.perf_counter() - began > WAIT_SECONDS:
                raise BenchError(f"{name} did not come to exist within {WAIT_SECONDS:g} s")
        return (time.perf_counter() - began) * 1000


def rows_of(results: dict[str, list[float]]) -> list[dict[str, object]]:
    """Return a row for each kind of event: percentiles in milliseconds."""
    return [{"event": kind, "count": len(some), **percentiles(some)} for kind, some in results.items()]
