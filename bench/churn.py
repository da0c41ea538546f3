"""Queries while the cluster changes: latency, wrong and missing answers, CPU an event.

Three kinds of change, from the stand-in API server over real HTTP: a headless Service of many endpoints rolled slice by
slice, hundreds of small headless Services rolled together, Services made and deleted. A client asks meanwhile at a
given rate and checks every answer: names that do not change must have their one answer; a Service that is rolled, only
addresses that it may have, and some; a name that never exists must be denied. In the end every changed Service is
asked once more and must have exactly the addresses that it has in the API.
"""

from __future__ import annotations

import random
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import dns.message
import dns.query

from bench.api import pool, Remote
from bench.peers import CLUSTER_PROBE
from bench.process import BenchError, free_port, Process
from bench.report import percentiles, progress, Report
from bench.scale import ready
from kdns.proto.message import make_question, read_message
from zones.names import Name
from zones.records import A, address_from_text

BURST_SECONDS: Final = 0.0005
SETTLE_SECONDS: Final = 20.0
COST_RATES: Final = (1000, 200)
"""Events a second, of as many seconds each."""
QUIET_SECONDS: Final = 1.0
MAX_WHOLE: Final = 4000
"""Addresses that one response over TCP has room for."""

Check = Callable[[bytes], bool]
"""Tells whether a reply is right."""


def run(
    report: Report,
    folder: Path,
    *,
    services: int,
    small: int,
    large: int,
    rate: int,
    queries: int,
    seconds: float,
    cost_events: int,
    flags: Sequence[str],
    seed: int,
) -> None:
    """Change *rate* objects a second, while *queries* a second are asked for *seconds*.

    There are *services* Services that stay, *small* headless ones of ten endpoints, and one of *large*.
    """
    rows: list[dict[str, Any]] = []
    costs: list[dict[str, Any]] = []
    with Remote() as api:
        progress("making the cluster …")
        api.ask("cluster", services=services, endpoints=3, headless=0, namespaces=10, seed=seed)
        api.ask("churned", count=small, size=10, name="small")
        for size in (100, 1000, large):
            api.ask("churned", count=1, size=size, name=f"large{size}x")
        port, admin = free_port(), free_port()
        command = [
            sys.executable, "-m", "kdns", "serve", "--api-server", api.url,
            "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", "--lameduck", "0", *flags,
        ]  # fmt: skip
        with Process("kdns", command, port, CLUSTER_PROBE) as server:
            deadline = time.monotonic() + 60
            while not ready(admin):
                server.check()
                if time.monotonic() > deadline:
                    raise BenchError("kdns was not ready within 60 s")
                time.sleep(0.05)
            asker = Asker(port, services=services, small=small, large=large, seed=seed)
            asker.ask(queries, 2.0)  # warm
            rows.append({"while": "nothing changes", **asker.ask(queries, seconds)})
            changes: Sequence[tuple[str, str, dict[str, Any]]] = (
                (f"rolling {small} Services", "roll", {"name": "small", "rate": rate}),
                (f"rolling one of {large:,} endpoints", "roll", {"name": f"large{large}x", "rate": max(1, rate // 10)}),
                ("making and deleting Services", "services", {"rate": rate}),
            )
            for title, ask, options in changes:
                progress(f"{title} …")
                events = int(options["rate"] * seconds)
                done: dict[str, float] = {}

                def change(ask: str = ask, events: int = events, options: dict[str, Any] = options) -> None:
                    done.update(api.ask(ask, events=events, **options))  # noqa: B023 - joined below

                changer = threading.Thread(target=change)
                changer.start()
                row = {"while": title, **asker.ask(queries, seconds)}
                changer.join()
                row["events_s"] = round(done["events"] / done["seconds"])
                rows.append(row)
            wrong = _settled(port, api.ask("truth"))
            for size in (100, 1000, large):
                progress(f"CPU of an event of {size:,} endpoints …")
                costs += _costs(api, server, f"a slice of a Service of {size:,}", f"large{size}x", cost_events)
            costs += _costs(api, server, "a slice of a Service of 10", "small", cost_events)
    columns = {
        "while": "while", "events_s": "events/s", "asked": "asked", "wrong": "wrong", "missing": "missing",
        "p50_ms": "p50 ms", "p99_ms": "p99 ms", "p99.9_ms": "p99.9 ms", "max_ms": "max ms",
    }  # fmt: skip
    report.table(f"{queries:,} queries a second", rows, columns=columns)
    report.table("CPU an event", costs)
    report.note(
        "in the end every changed Service has exactly the addresses that it has in the API"
        if not wrong
        else f"IN THE END {len(wrong)} SERVICES HAVE OTHER ADDRESSES THAN IN THE API: {', '.join(wrong[:5])}"
    )
    with report.figure("Latency while the cluster changes", "", "milliseconds", size=(9, 4.5)) as axes:
        for at, key in enumerate(("p50_ms", "p99_ms", "p99.9_ms", "max_ms")):
            axes.bar([x + at * 0.2 for x in range(len(rows))], [row[key] for row in rows], 0.2, label=columns[key])
        axes.set_yscale("log")
        axes.set_xticks([x + 0.3 for x in range(len(rows))], [str(row["while"]) for row in rows], fontsize=8)
        axes.legend()
    if wrong or any(row["wrong"] or row["missing"] for row in rows):
        raise BenchError("there were wrong or missing answers: see the table")


class Asker:
    """Asks at a rate from one socket, and checks what comes."""

    def __init__(self, port: int, *, services: int, small: int, large: int, seed: int) -> None:
        self._port = port
        self._source = random.Random(seed)
        source = random.Random(seed)
        self._questions: list[tuple[bytes, Check]] = []
        for number in source.sample(range(services), min(services, 500)):
            address = address_from_text(f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}")
            name = f"svc{number}.ns{number % 10}.svc.cluster.local"
            self._questions.append((_question(name), _is_just({address})))
        for number in range(small):
            allowed = frozenset(map(address_from_text, pool(number, 10)))
            self._questions.append((_question(f"small{number}.churn.svc.cluster.local"), _is_among(allowed)))
        allowed = frozenset(map(address_from_text, pool(0, large)))
        self._questions += [(_question(f"large{large}x0.churn.svc.cluster.local"), _is_among(allowed))] * 50
        for number in range(100):
            self._questions.append((_question(f"never{number}.churn.svc.cluster.local"), _is_denied))

    def ask(self, rate: int, seconds: float) -> dict[str, Any]:
        """Ask *rate* questions a second; return latencies, and counts of what was wrong or never came."""
        waiting: dict[int, tuple[float, Check]] = {}
        times: list[float] = []
        sent = wrong = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", self._port))
            sock.setblocking(False)
            began = time.perf_counter()
            while (passed := time.perf_counter() - began) < seconds + 2.0:
                while passed < seconds and sent < passed * rate:
                    question, check = self._source.choice(self._questions)
                    number = sent & 0xFFFF
                    waiting[number] = time.perf_counter(), check
                    sock.send(number.to_bytes(2, "big") + question)
                    sent += 1
                readable, _, _ = select.select([sock], [], [], BURST_SECONDS if passed < seconds else 0.1)
                while readable:
                    try:
                        reply = sock.recv(4096)
                    except BlockingIOError:
                        break
                    now = time.perf_counter()
                    at, check = waiting.pop(reply[0] << 8 | reply[1], (0.0, _is_denied))
                    if at:
                        times.append(now - at)
                        wrong += not check(reply)
                if passed >= seconds and not waiting:
                    break
        if not times:
            raise BenchError("kdns answered nothing")
        return {"asked": sent, "wrong": wrong, "missing": len(waiting), **percentiles(times, scale=1000)}


def _question(name: str) -> bytes:
    return make_question(b"\0\0", Name.from_text(name), A)[2:]


def _addresses(reply: bytes) -> set[bytes] | None:
    """Return the addresses of a reply, None where it is no NOERROR."""
    if reply[3] & 15:
        return None
    return {record.rdata for record in read_message(reply).answer if record.rtype == A}


def _is_just(wanted: set[bytes]) -> Check:
    return lambda reply: _addresses(reply) == wanted


def _is_among(allowed: frozenset[bytes]) -> Check:
    def check(reply: bytes) -> bool:
        found = _addresses(reply)
        return bool(found) and found is not None and found <= allowed

    return check


def _is_denied(reply: bytes) -> bool:
    return reply[3] & 15 == 3


def _settled(port: int, truth: dict[str, list[str]]) -> list[str]:
    """Return the Services whose answers are not what the API has, once they have had time to be."""
    deadline = time.monotonic() + SETTLE_SECONDS
    left = dict(truth)
    while left and time.monotonic() < deadline:
        for name, wanted in list(left.items()):
            owner = f"{name}.churn.svc.cluster.local."
            if len(wanted) > MAX_WHOLE:  # more than a message holds: each endpoint by its own name
                labels = [address.replace(".", "-") for address in wanted]
                is_right = all(
                    _asked(port, f"{label}.{owner}") == [at] for label, at in zip(labels, wanted, strict=True)
                )
            else:
                is_right = _asked(port, owner) == sorted(wanted)
            if is_right:
                del left[name]
    return list(left)


def _asked(port: int, name: str) -> list[str]:
    query = dns.message.make_query(name, "A")
    reply, _ = dns.query.udp_with_fallback(query, "127.0.0.1", port=port, timeout=5)
    return sorted(rdata.to_text() for rrset in reply.answer for rdata in rrset)


def _costs(api: Remote, server: Process, title: str, name: str, events: int) -> list[dict[str, Any]]:
    """Return the CPU of an event in a busy cluster, and in one where the server is woken up for each."""
    return [_cost(api, server, title, name, events * rate // min(COST_RATES), rate) for rate in COST_RATES]


def _cost(api: Remote, server: Process, title: str, name: str, events: int, rate: int) -> dict[str, Any]:
    """Return the CPU of an event without queries; what the server uses when nothing happens is taken off."""
    before = server.cpu_seconds()
    time.sleep(QUIET_SECONDS)
    idle = (server.cpu_seconds() - before) / QUIET_SECONDS
    before = server.cpu_seconds()
    done = api.ask("roll", name=name, rate=rate, events=events)
    time.sleep(0.2)
    spent = server.cpu_seconds() - before - idle * (done["seconds"] + 0.2)
    return {"event": title, "events": events, "events_s": rate, "cpu_us": round(spent / events * 1e6)}
