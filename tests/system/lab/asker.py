"""Run in a pod: ask at a steady rate, each question once, from a fresh port each; report every one of them as JSON.

ADDRESS may be several with commas between them, asked in turns; a ``#`` in NAME stands for the question's number. ``at`` is on the monotonic clock, which all namespaces
of a machine share.

python -m tests.system.lab.asker ADDRESS RATE SECONDS TIMEOUT NAME [tcp]
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from typing import Any

from kdns.proto.message import make_question
from zones.names import Name


def main() -> None:
    address, rate, seconds, patience, name, *rest = sys.argv[1:]
    is_tcp = "tcp" in rest
    addresses = address.split(",")
    kind = socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM
    poller = select.poll()
    waiting: dict[int, tuple[socket.socket, float, bytes]] = {}
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    sent, wanted = 0, int(float(rate) * float(seconds))

    def done(fd: int, now: float, who: str) -> None:
        sock, at, _ = waiting.pop(fd)
        poller.unregister(fd)
        sock.close()
        rows.append({"at": round(at, 4), "seconds": round(now - at, 4), "who": who})

    while sent < wanted or waiting:
        now = time.monotonic()
        while sent < wanted and sent < (now - began) * float(rate):
            wire = make_question(
                (sent & 0xFFFF).to_bytes(2, "big"), Name.from_text(name.replace("#", str(sent))), 1, edns=False
            )
            address = addresses[sent % len(addresses)]
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
            sock.setblocking(False)
            try:
                sock.connect((address, 53))
            except BlockingIOError:
                pass
            except OSError as exc:
                rows.append({"at": round(now, 4), "seconds": 0.0, "who": f"error {exc.strerror}"})
                sock.close()
                sent += 1
                continue
            if is_tcp:
                wire = len(wire).to_bytes(2, "big") + wire
                poller.register(sock, select.POLLOUT)
            else:
                sock.send(wire)
                poller.register(sock, select.POLLIN)
            waiting[sock.fileno()] = sock, now, wire
            sent += 1
        for fd, event in poller.poll(2):
            sock, _, wire = waiting[fd]
            now = time.monotonic()
            try:
                if event & select.POLLOUT:
                    sock.send(wire)
                    poller.modify(fd, select.POLLIN)
                    continue
                reply = sock.recv(4096)
                done(fd, now, socket.inet_ntoa(reply[-4:]) if len(reply) > 4 else "error closed")
            except OSError as exc:
                done(fd, now, f"error {exc.strerror}")
        now = time.monotonic()
        for fd in [fd for fd, (_, at, _) in waiting.items() if now - at > float(patience)]:
            done(fd, now, "error timeout")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
