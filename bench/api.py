"""The stand-in API server in a process of its own, so that neither its work nor its memory is in anybody's figures.

``python -m bench.api`` takes commands as JSON, a line each, on standard input, and answers each with a line.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from types import TracebackType
from typing import Any, Final
from uuid import NAMESPACE_DNS, uuid5

import msgspec

from bench.cluster import objects
from bench.process import BenchError, LOAD_CPU, pinned
from tests.support.api_server import ApiServer
from tests.support.kube import endpoint_slice, namespace, service

SLICE_ENDPOINTS: Final = 100


def pool(number: int, size: int) -> list[str]:
    """Return the addresses that endpoints of the churned Service *number* may have: *size* in use, and as many more."""
    return [f"10.{200 + number // 250}.{number % 250}.{at}" if size < 128 else _large(at) for at in range(2 * size)]


def _large(at: int) -> str:
    return f"10.{150 + (at >> 16)}.{at >> 8 & 255}.{at & 255}"


class Remote:
    """The server, asked from here. Use as a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Remote:
        self._process = subprocess.Popen(
            [*pinned(LOAD_CPU), sys.executable, "-m", "bench.api"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = self._line()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None  # entered before
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def ask(self, command: str, **options: Any) -> Any:
        """Send a command and wait for its answer. Raises BenchError."""
        self.send(command, **options)
        return self.answer()

    def send(self, command: str, **options: Any) -> None:
        """Send a command; ``answer`` waits for its end."""
        assert self._process is not None  # as above
        assert self._process.stdin is not None  # it is a pipe
        self._process.stdin.write(json.dumps({"command": command, **options}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to a command."""
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process is not None  # as above
        assert self._process.stdout is not None  # it is a pipe
        line = self._process.stdout.readline().strip()
        if not line:
            raise BenchError("the stand-in API server ended")
        return line


class Host:
    """What the process does: one method a command."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._source = random.Random(1)
        self._in_use: dict[str, list[list[str]]] = {}
        self._pools: dict[str, list[str]] = {}

    def cluster(self, services: int, endpoints: int, headless: int, namespaces: int, seed: int) -> int:
        """Make a cluster; return the octets of its objects as JSON."""
        some = list(objects(services, endpoints, headless=headless, namespaces=namespaces, seed=seed))
        self._api.put(*some)
        return sum(len(json.dumps(item)) for item in some)

    def relist(self) -> bool:
        """Restart the server with its history compacted, so that whoever watches has to list everything again."""
        self._api.stop()
        self._api.compact()
        self._api.start()
        return True

    def churned(self, count: int, size: int, name: str) -> bool:
        """Make *count* headless Services of *size* endpoints, to be changed: NAME0, NAME1, …"""
        self._api.put(namespace("churn"))
        for number in range(count):
            own = f"{name}{number}"
            self._pools[own] = pool(number, size)
            addresses = self._pools[own][:size]
            self._in_use[own] = [addresses[at : at + SLICE_ENDPOINTS] for at in range(0, size, SLICE_ENDPOINTS)]
            self._api.put(service(own, namespace="churn"))
            for at in range(len(self._in_use[own])):
                self._put_slice(own, at)
        return True

    def roll(self, name: str, rate: int, events: int) -> dict[str, float]:
        """Replace endpoints of the churned Services whose names begin with *name*, one an event, *rate* a second."""
        names = [own for own in self._in_use if own.startswith(name)]

        def event(number: int) -> None:
            own = names[number % len(names)]
            slices = self._in_use[own]
            at = (number // len(names)) % len(slices)
            free = self._source.choice(self._pools[own])
            if all(free not in some for some in slices):
                slices[at][self._source.randrange(len(slices[at]))] = free
            self._put_slice(own, at)

        return _paced(rate, events, event)

    def services(self, rate: int, events: int) -> dict[str, float]:
        """Make and delete Services in turn."""

        def event(number: int) -> None:
            if number % 2:
                self._api.delete("Service", f"new{number // 2}", "churn")
            else:
                address = f"10.99.{number >> 9 & 255}.{number >> 1 & 255}"
                self._api.put(service(f"new{number // 2}", address, namespace="churn"))

        return _paced(rate, events, event)

    def truth(self) -> dict[str, list[str]]:
        """Return the addresses that the churned Services have now."""
        return {own: sorted(address for some in slices for address in some) for own, slices in self._in_use.items()}

    def _put_slice(self, own: str, at: int) -> None:
        piece = endpoint_slice(own, *self._in_use[own][at], name=f"{own}-{at}", namespace="churn")
        for endpoint in piece["endpoints"]:
            endpoint |= _said_of_the_pod(endpoint["addresses"][0], own)
        self._api.put(piece)


@cache
def _said_of_the_pod(address: str, service: str) -> dict[str, Any]:
    """Return what the slice controller says of an endpoint beside its address."""
    known = address.replace(".", "-")
    pod = {"kind": "Pod", "namespace": "churn", "name": f"{service}-{known}", "uid": str(uuid5(NAMESPACE_DNS, known))}
    return {
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "targetRef": pod,
        "nodeName": f"node-{known.rpartition('-')[0]}",
        "zone": "zone-a",
    }


def _paced(rate: int, events: int, event: Callable[[int], None]) -> dict[str, float]:
    began = time.perf_counter()
    for number in range(events):
        wait = began + number / rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        event(number)
    return {"events": events, "seconds": time.perf_counter() - began}


def main(lines: Sequence[str] | Any = sys.stdin) -> None:
    """Serve until standard input ends."""
    sys.setswitchinterval(0.0005)
    os.nice(10)  # it shares a processor with whoever measures latencies, and must not be in them
    with ApiServer() as api:
        host = Host(api)
        print(api.url, flush=True)
        for line in lines:
            options = msgspec.json.decode(line)
            print(json.dumps(getattr(host, options.pop("command"))(**options)), flush=True)


if __name__ == "__main__":
    main()
