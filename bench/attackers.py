"""Clients that do a DNS server harm over TCP: python -m bench.attackers KIND HOST PORT SECONDS [COUNT].

| kind    | what they do                                                                                    |
|---------|-------------------------------------------------------------------------------------------------|
| slow    | COUNT connections, each sends an octet of a message a second, and another when it is closed      |
| deaf    | COUNT connections, each asks for large answers as fast as it can and reads none                  |
| short   | COUNT connections a second, each with one question                                               |
"""

from __future__ import annotations

import random
import select
import socket
import sys
import time
from contextlib import suppress
from typing import Final

from kdns.proto.message import make_question
from zones.names import Name

FROM: Final = [f"127.0.1.{number}" for number in range(1, 41)]
"""Many, so that ports do not run out."""
_IP_BIND_ADDRESS_NO_PORT: Final = 24


def main() -> None:
    """Do harm for some seconds; print how much."""
    kind, host, port, seconds, count = sys.argv[1:]
    name = "svc1.ns1.svc.cluster.local" if kind != "deaf" else "svc0.ns0.svc.cluster.local"
    wire = make_question(b"\0\1", Name.from_text(name), 1, edns=False)
    end = time.monotonic() + float(seconds)
    {"slow": _slow, "deaf": _deaf, "short": _short}[kind](
        (host, int(port)), int(count), end, len(wire).to_bytes(2, "big") + wire
    )


def _connect(to: tuple[str, int]) -> socket.socket | None:
    sock = socket.socket()
    sock.setblocking(False)
    try:
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((random.choice(FROM), 0))
        sock.connect(to)
    except BlockingIOError:
        return sock
    except OSError:
        sock.close()
        return None
    return sock


def _slow(to: tuple[str, int], count: int, end: float, wire: bytes) -> None:
    open_ones: dict[socket.socket, int] = {}
    opened = 0
    while time.monotonic() < end:
        while len(open_ones) < count and (sock := _connect(to)) is not None:
            open_ones[sock] = 0
            opened += 1
            if opened % 50 == 0:
                time.sleep(0.005)
        began = time.monotonic()
        some = list(open_ones.items())
        for number, (sock, at) in enumerate(some):
            if not number % 10:  # each at its own time of the second
                time.sleep(max(0.0, began + number / len(some) - time.monotonic()))
            try:
                sock.send(wire[at % len(wire) : at % len(wire) + 1])
                open_ones[sock] = at + 1
            except BlockingIOError:
                continue
            except OSError:
                sock.close()
                del open_ones[sock]
    print(f"{opened} connections")


def _deaf(to: tuple[str, int], count: int, end: float, wire: bytes) -> None:
    poller = select.poll()
    open_ones: dict[int, socket.socket] = {}
    opened = sent = 0
    while time.monotonic() < end:
        while len(open_ones) < count and (sock := _connect(to)) is not None:
            open_ones[sock.fileno()] = sock
            poller.register(sock, select.POLLOUT)
            opened += 1
        for fd, event in poller.poll(100):
            sock = open_ones[fd]
            try:
                if event & ~select.POLLOUT:
                    raise OSError
                sent += sock.send(wire * 50)
            except BlockingIOError:
                continue
            except OSError:
                poller.unregister(fd)
                sock.close()
                del open_ones[fd]
        time.sleep(0.005)
    print(f"{opened} connections, {sent // len(wire)} questions")


def _short(to: tuple[str, int], rate: int, end: float, wire: bytes) -> None:
    poller = select.poll()
    waiting: dict[int, tuple[socket.socket, float]] = {}
    began, opened, answered = time.monotonic(), 0, 0
    while (now := time.monotonic()) < end:
        while opened < (now - began) * rate and len(waiting) < 2_000:
            if (sock := _connect(to)) is None:
                break
            waiting[sock.fileno()] = sock, now
            poller.register(sock, select.POLLOUT)
            opened += 1
        for fd, event in poller.poll(1):
            sock, _ = waiting[fd]
            if event & select.POLLOUT and not event & select.POLLERR:
                with suppress(OSError):
                    sock.send(wire)
                poller.modify(fd, select.POLLIN)
                continue
            with suppress(OSError):
                answered += bool(sock.recv(4096))
            poller.unregister(fd)
            sock.close()
            del waiting[fd]
        for fd in [fd for fd, (_, at) in waiting.items() if now - at > 2]:
            poller.unregister(fd)
            waiting.pop(fd)[0].close()
    print(f"{opened} connections, {answered} answered")


if __name__ == "__main__":
    main()
