"""Names seen once, by the hundred thousand: nothing grows without a bound, and what is asked for often stays quick."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import psutil
import pytest

from kdns.proto.message import make_question
from tests.support.client import addresses
from tests.support.process import Kdns, kdns
from zones.names import Name

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."
NAMES = 120_000


def flood(server: Kdns, start: int, count: int) -> int:
    """Ask for *count* names that do not exist, each once; return how many answers came."""
    answered = 0
    origin = Name.from_text("default.svc.cluster.local.")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(("127.0.0.1", server.port))
        for first in range(start, start + count, 100):
            for number in range(first, first + 100):
                sock.send(make_question(b"ab", origin.prefixed(b"x%d" % number), 1))
            for _ in range(100):
                assert sock.recv(4096)[3] & 15 == 3
                answered += 1
    return answered


def test_memory_comes_to_rest(manifests: Path) -> None:
    with kdns("--manifests", manifests) as server:
        server.wait_for("synced")
        for _ in range(4):
            addresses(server.port, WEB)
        process = psutil.Process(server.process.pid)
        assert flood(server, 0, NAMES // 2) == NAMES // 2
        half = process.memory_info().rss
        assert flood(server, NAMES // 2, NAMES // 2) == NAMES // 2
        assert process.memory_info().rss - half < 8 * 2**20
        page = server.page("/metrics")[1]
        stored = re.search(r'kdns_answers\{proto="udp"\} (\S+)', page)
        assert stored is not None
        assert float(stored[1]) < NAMES / 10  # they are noted, not stored
        assert addresses(server.port, WEB) == {"10.96.0.1"}
