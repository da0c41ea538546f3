"""kdns beside NSD and Knot with the same zones, nodelocal beside Unbound with the same upstream: what differs, and why.

KDNS_TEST_DIFFERENTIAL says how many queries are asked (100000 for a long run), KDNS_TEST_SEED which (or random).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import dns.exception
import dns.query
import dns.zone
import pytest
import yaml

from bench.peers import UNBOUND_CONF
from tests.fuzz.differential import compare, FORWARDED, queries, Result, RULES
from tests.fuzz.packets import QUERIES
from tests.support.client import lookup
from tests.support.process import kdns, nodelocal, wait_until
from tests.support.secondary import free_port, knot, needs_knot, needs_nsd, nsd, running
from tests.support.seed import SEED
from tests.system.test_transfer import OBJECTS

pytestmark = [pytest.mark.system, pytest.mark.peer]

COUNT = int(os.environ.get("KDNS_TEST_DIFFERENTIAL", "0"))

ZONES = ("cluster.local", "in-addr.arpa", "ip6.arpa")
UNBOUND = shutil.which("unbound") or shutil.which("/usr/sbin/unbound")


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all(OBJECTS))
    return path


def names_of(port: int) -> list[str]:
    names = ["www.example.com."]
    for zone in ZONES:
        transfer = dns.query.xfr("127.0.0.1", zone, port=port, relativize=False)
        names += [name.to_text() for name in dns.zone.from_xfr(transfer, relativize=False).nodes]
    return names


def answers(port: int, names: Sequence[str]) -> bool:
    try:
        return all(not lookup(port, f"{name}.", "SOA").rcode() for name in names)
    except (OSError, dns.exception.DNSException):
        return False


def told(result: Result, at_least: float, count: int) -> None:
    print(f"seed {SEED}\n{result.table()}")
    assert not result.unexplained, f"seed {SEED}: " + "\n".join(result.unexplained[:5])
    assert result.same > at_least * count, "most of it is the same"


@pytest.mark.parametrize(
    ("peer", "count"),
    [pytest.param(nsd, 2000, id="NSD", marks=needs_nsd), pytest.param(knot, 1000, id="Knot", marks=needs_knot)],
)
def test_an_authority_with_the_same_zones(
    manifests: Path, peer: Callable[[int, int, Sequence[str]], AbstractContextManager[None]], count: int
) -> None:
    port = free_port()
    with kdns("--manifests", manifests, "--transfer-to=127.0.0.0/8") as server:
        server.wait_for("synced")
        with peer(port, server.port, ZONES):
            wait_until(lambda: answers(port, ZONES))
            wires = queries(names_of(server.port), QUERIES, COUNT or count, SEED)
            told(compare(server.port, port, wires, RULES), 0.8, COUNT or count)
            assert server.process.poll() is None
            assert "Traceback" not in server.output()


@pytest.mark.skipif(UNBOUND is None, reason="needs Debian's package unbound")
def test_a_forwarder_with_the_same_upstream(manifests: Path, tmp_path: Path) -> None:
    port = free_port()
    outside = ["www.example.com. 60 A 192.0.2.1", "www.example.com. 60 AAAA 2001:db8::1", "a.example.com. 60 TXT x"]
    outside.append("alias.example.com. 60 CNAME www.example.com.")
    records = [part for record in outside for part in ("--record", record)]
    with kdns("--manifests", manifests, "--transfer-to=127.0.0.0/8", *records) as server:
        server.wait_for("synced")
        conf = tmp_path / "unbound.conf"
        text = UNBOUND_CONF.format(port=port, upstream=server.port, folder=tmp_path)
        own = "".join(f"  local-zone: {zone}. nodefault\n" for zone in ("10.in-addr.arpa", "d.f.ip6.arpa", "test"))
        conf.write_text(text.replace("remote-control:", f"{own}remote-control:"))
        here = f"127.0.0.1:{server.port}"
        flags = ("--cluster", f"udp://{here}", "--upstream", here, "--expand", "off")
        with running([str(UNBOUND), "-d", "-c", str(conf)]), nodelocal(*flags) as ours:
            wait_until(lambda: answers(port, ZONES[:1]))
            names = [*names_of(server.port), "a.example.com.", "alias.example.com."]
            wires = queries(names, QUERIES, COUNT or 1500, SEED)
            told(compare(ours.port, port, wires, FORWARDED), 0.3, COUNT or 1500)
            assert ours.process.poll() is None
            assert "Traceback" not in ours.output()
