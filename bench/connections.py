"""What idle TCP connections cost: memory of kdns while thousands are open, and whether it answers beside them."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dns.message
import dns.query

from bench.cluster import write_manifests
from bench.peers import CLUSTER_PROBE, kdns_command
from bench.process import answers, BenchError, Process
from bench.report import progress

A_CLIENT = 200
"""Connections of one client address, below what a server lets one have."""


def run(folder: Path, *, connections: int) -> list[dict[str, Any]]:
    """Open *connections*, from as many addresses of loopback as it takes; return a row."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < connections + 100:
        raise BenchError(
            f"{hard} file descriptors are allowed here: too few for {connections} connections (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    manifests = folder / "cluster.json"
    write_manifests(manifests, 10, 1)
    command, port = kdns_command("--manifests", str(manifests))
    question = dns.message.make_query(str(CLUSTER_PROBE), "A").to_wire()
    framed = len(question).to_bytes(2, "big") + question
    with Process("kdns", command, port, CLUSTER_PROBE) as server, ExitStack() as stack:
        dns.query.tcp(dns.message.make_query(str(CLUSTER_PROBE), "A"), "127.0.0.1", port=port, timeout=5)
        before = server.proportional_octets()
        progress(f"opening {connections:,} connections …")
        began = time.monotonic()
        socks = []
        for number in range(connections):
            source = f"127.{1 + number // A_CLIENT // 250}.{1 + number // A_CLIENT % 250}.1"
            sock = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))
            socks.append(stack.enter_context(sock))
            sock.sendall(framed)  # each has asked once and then is quiet
        for sock in socks:
            if not sock.recv(1024):
                raise BenchError("the server closed a connection that had just asked")
        seconds = time.monotonic() - began
        octets = server.proportional_octets() - before
        alive = sum(_is_open(sock) for sock in socks)
        if alive < connections:
            raise BenchError(f"only {alive:,} of {connections:,} connections are open: no figure of them")
        return [
            {
                "connections": connections,
                "opened_s": round(seconds, 2),
                "kb_each": round(octets / connections / 1000, 2),
                "mb_in_all": round(octets / 2**20, 1),
                "answers_over_udp": answers(port, CLUSTER_PROBE),
            }
        ]


def _is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return bool(sock.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False
