"""--client-rate and --client-slip: what a flood in somebody else's name brings upon them."""

from __future__ import annotations

import select
import socket
import time
from pathlib import Path

import dns.flags
import dns.message
import pytest

from tests.support.client import addresses, ask_tcp, ask_udp
from tests.support.process import Kdns, kdns, nodelocal

pytestmark = pytest.mark.system

RECORD = ("--record", "www.lab.test 60 A 192.0.2.1")
NAME = "www.lab.test."


def flood(server: Kdns, host: str, count: int) -> list[bytes]:
    """Ask as fast as it goes from one address; return what came back.

    So that neither side's buffer overflows, another address asks after every fifty: its answer comes behind theirs.
    """
    query = dns.message.make_query(NAME, "A").to_wire()
    replies: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.connect(("127.0.0.1", server.port))
        sock.setblocking(False)
        for number in range(count):
            sock.send(query)
            if number % 50 == 49:
                addresses(server.port, NAME)
                while select.select([sock], [], [], 0)[0]:
                    replies.append(sock.recv(4096))
        while select.select([sock], [], [], 0.5)[0]:
            replies.append(sock.recv(4096))
    return replies


@pytest.mark.parametrize("program", ["kdns", "nodelocal"])
def test_a_flood_is_answered_up_to_the_rate_and_then_slips(program: str, tmp_path: Path) -> None:
    flags = ("--client-rate", "50", "--client-slip", "4", *RECORD)
    if program == "kdns":
        (tmp_path / "none.yaml").write_text("")
        start = kdns("--manifests", tmp_path, *flags)
    else:
        start = nodelocal("--cluster", "192.0.2.98", "--upstream", "192.0.2.99", *flags)
    with start as server:
        began = time.monotonic()
        replies = flood(server, "127.0.0.9", 1_000)
        seconds = time.monotonic() - began
        truncated = [reply for reply in replies if reply[2] & 0x02]
        assert 100 <= len(replies) - len(truncated) <= 100 + 50 * seconds + 1
        assert abs(len(truncated) - (1_000 - (len(replies) - len(truncated))) / 4) <= 1
        assert max(map(len, truncated)) == len(dns.message.make_query(NAME, "A").to_wire()), "no octet more than asked"
        # The true owner of the address comes over TCP, others are not touched.
        with socket.create_connection(("127.0.0.1", server.port), 5, ("127.0.0.9", 0)) as sock:
            wire = dns.message.make_query(NAME, "A").to_wire()
            sock.sendall(len(wire).to_bytes(2, "big") + wire)
            assert sock.recv(4096)[2:][-4:] == socket.inet_aton("192.0.2.1")
        assert addresses(server.port, NAME) == {"192.0.2.1"}
        assert ask_tcp(server.port, wire)
        metrics = server.page("/metrics")[1]
        dropped = next(
            float(line.split()[1])
            for line in metrics.splitlines()
            if line.startswith(f"{program}_clients_dropped_total ")
        )
        assert dropped == 1_000 - len(replies)


def test_without_a_rate_nobody_is_limited(tmp_path: Path) -> None:
    (tmp_path / "none.yaml").write_text("")
    with kdns("--manifests", tmp_path, *RECORD) as server:
        for _ in range(4):  # as many as wait in a socket where the server has to wait for a processor
            assert len(flood(server, "127.0.0.9", 200)) == 200
        reply = ask_udp(server.port, dns.message.make_query(NAME, "A").to_wire())
        assert reply is not None
        assert not dns.message.from_wire(reply).flags & dns.flags.TC
