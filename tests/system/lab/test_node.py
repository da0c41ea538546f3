"""nodelocal on a node: what becomes of lookups while it crashes, hangs, is replaced, is gone (raw clients, no retries)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.process import wait_until
from tests.system.lab.lab import (
    ALL,
    BY_CLUSTER,
    BY_NODE,
    kill_whole,
    Lab,
    LOCAL,
    needs_lab,
    SERVERS,
    SERVICE,
    worker_of,
)

pytestmark = needs_lab


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_alive_it_answers_at_all_addresses_and_nothing_is_tracked(node: Lab, tcp: bool) -> None:
    with node.running():
        node.node.run("conntrack", "-F")
        with node.asking(",".join(ALL), seconds=0.5, on_node=True, tcp=tcp) as asked:
            pass
        assert asked.by(BY_NODE) == len(asked.rows) > 100, asked.lost[:3]
        assert node.conntrack() == 0


@pytest.mark.parametrize(("address", "times"), [(LOCAL[4], 20), (SERVICE[6], 8)])
def test_a_worker_that_is_killed_again_and_again_costs_what_was_in_its_hands(
    node: Lab, address: str, times: int
) -> None:
    with node.running() as server:
        with node.asking(address, seconds=0.6 * times + 1) as asked:
            for _ in range(times):
                os.kill(worker_of(server), signal.SIGKILL)
                time.sleep(0.6)
        assert len(asked.lost) <= times, asked.lost[:5]
        assert asked.by(BY_NODE) + len(asked.lost) == len(asked.rows)
        assert server.output().count("the worker ended by signal 9; another takes its place") == times


def test_tcp_is_answered_again_after_a_kill(node: Lab) -> None:
    with node.running() as server:
        with node.asking(LOCAL[6], seconds=4, tcp=True) as asked:
            for _ in range(3):
                os.kill(worker_of(server), signal.SIGKILL)
                time.sleep(1)
        assert len(asked.lost) <= 9  # a connection open at that moment ends with the process
        assert asked.rows[-1]["who"] == BY_NODE


def test_a_worker_that_hangs_is_replaced_within_two_seconds(node: Lab) -> None:
    stops: list[float] = []
    with node.running() as server:
        with node.asking(SERVICE[4], seconds=14) as asked:
            for _ in range(5):
                worker = worker_of(server)
                stops.append(time.monotonic())
                os.kill(worker, signal.SIGSTOP)
                time.sleep(2.5)
        # What it had read and not yet answered is gone with it; what came after that waited in the socket.
        assert all(any(-0.1 < row["at"] - stop < 0.02 for stop in stops) for row in asked.lost), (stops, asked.lost)
        assert len(asked.lost) <= len(stops)
        assert asked.longest < 2.2
        assert "the worker has not answered for" in server.output()


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_five_hand_overs_lose_nothing_and_the_cache_comes_along(node: Lab, tcp: bool) -> None:
    with node.running() as first:
        servers = [first]
        warm = [sys.executable, "-m", "tests.system.lab.asker", LOCAL[4], "10", "0.3", "2", "warm.lab.test"]
        assert "203.0.113.9" in node.pods[0].run(*warm).stdout
        with node.asking(LOCAL[4], seconds=10, tcp=tcp) as asked:
            for _ in range(5):
                old, new = servers[-1], node.nodelocal()
                servers.append(new)
                new.wait_for("sockets taken over")
                new.wait_for("answering on")
                assert old.process.wait(10) == 0, old.output()
                assert "another nodelocal has taken the sockets over" in old.output()
        try:
            assert asked.lost == []
            assert asked.by(BY_NODE) == len(asked.rows)
            control = str(node.folder / "run" / "control.sock")
            dumped = node.node.run(sys.executable, "-m", "nodelocal", "dump", "warm.lab.test", "--control", control)
            assert "203.0.113.9" in dumped.stdout, dumped.stderr
        finally:
            node.end(*servers)


def test_an_orderly_stop_and_a_new_start_lose_nothing(node: Lab) -> None:
    with node.running() as server:
        with node.asking(LOCAL[4], seconds=11, on_node=True) as asked:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(15) == 0
            time.sleep(1)
            again = node.nodelocal()
            node.wait_for_leases()
        try:
            assert asked.lost == []
            assert asked.by(BY_CLUSTER) > 50
            assert asked.rows[-1]["who"] == BY_NODE
        finally:
            node.end(again)


@pytest.mark.parametrize("address", [LOCAL[4], SERVICE[6]])  # all four: beside iptables
def test_killed_whole_and_never_started_again_the_cluster_answers(node: Lab, address: str) -> None:
    with node.running() as server:
        with node.asking(address, seconds=3) as asked:
            kill_whole(server)
        times = [row["at"] for row in asked.lost]
        assert not times or max(times) - min(times) < 0.2, times  # what was in flight, and nothing after it
        assert asked.by(BY_CLUSTER) > 300
        time.sleep(1)
        for tcp in (False, True):
            with node.asking(address, seconds=0.5, on_node=True, tcp=tcp) as asked:
                pass
            assert asked.by(BY_CLUSTER) == len(asked.rows) > 100, asked.lost[:3]


def test_one_port_that_asks_at_both_addresses_is_answered_by_the_one_it_asked(node: Lab) -> None:
    with node.running() as server:
        server.process.kill()
        time.sleep(3.2)
        for space in (node.pods[0], node.node):
            for family in (4, 6):
                done = space.run(sys.executable, "-c", BOTH, LOCAL[family], SERVICE[family])
                assert done.stdout.split() == ["20"], done.stderr


BOTH = """
import socket, sys
from kdns.proto.message import make_question
from tests.system.lab.lab import WHO
from zones.names import Name
ends = sys.argv[1:]
sock = socket.socket(socket.AF_INET6 if ":" in ends[0] else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(2)
right = 0
for number in range(20):
    address = ends[number % 2]
    sock.sendto(make_question(number.to_bytes(2, "big"), Name.from_text(WHO), 1, edns=False), (address, 53))
    right += sock.recvfrom(4096)[1][0] == address
print(right)
"""


def test_hung_whole_the_cluster_answers_when_the_lease_has_run_out(node: Lab) -> None:
    with node.running() as server:
        pids = [server.process.pid, worker_of(server)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        wait_until(lambda: not any(map(node.has_lease, ALL)), lambda: "the lease")
        assert time.monotonic() - began < 8
        with node.asking(",".join(ALL), seconds=0.5, on_node=True) as asked:
            pass
        assert asked.by(BY_CLUSTER) == len(asked.rows), asked.lost[:3]
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        node.wait_for_leases()
        with node.asking(LOCAL[4], seconds=0.5) as asked:
            pass
        assert asked.by(BY_NODE) == len(asked.rows)


def test_rules_that_another_tool_flushes_are_repaired(node: Lab) -> None:
    with node.running() as server:
        with node.asking(LOCAL[4], seconds=6) as asked:
            node.node.run("nft", "flush", "ruleset")
            node.load_kube_proxy()
            began = time.monotonic()
            node.wait_for_leases()
            assert time.monotonic() - began < 10
        assert asked.lost == []
        node.node.run("ip", "address", "del", f"{SERVICE[4]}/32", "dev", "lo")
        server.wait_for("repaired", times=2)
        assert "nodelocal_network_repairs_total 2.0" in node.page("/metrics")


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_server_of_the_cluster_that_dies_delays_no_lookup_by_a_second(node: Lab, protocol: str) -> None:
    flags = [part for server in SERVERS[4] for part in ("--cluster", f"{protocol}://{server}")]
    with node.running(*flags):
        node.node.run("nft", "add table inet dead")
        node.node.run("nft", "add chain inet dead c { type filter hook output priority 0; }")
        with node.asking(LOCAL[4], seconds=4, name="who.cluster.local") as asked:
            done = node.node.run("nft", f"add rule inet dead c ip daddr {SERVERS[4][0]} drop")
            assert not done.returncode, done.stderr
        node.node.run("nft", "delete table inet dead")
        assert asked.lost == []
        assert asked.longest < 1


def test_all_upstreams_dead_cached_names_are_answered_and_nothing_grows(node: Lab) -> None:
    with node.running() as server:
        with node.asking(LOCAL[4], seconds=0.3, name="stale.lab.test"):
            pass
        worker = psutil.Process(worker_of(server))
        node.node.run("nft", "add table inet dead")
        node.node.run("nft", "add chain inet dead c { type filter hook output priority 0; }")
        try:
            for address in (*SERVERS[4], "192.0.2.53"):
                done = node.node.run("nft", f"add rule inet dead c ip daddr {address} drop")
                assert not done.returncode, done.stderr
            unknown = node.asking(
                LOCAL[4], seconds=DEAD_SECONDS, name="u#.default.svc.cluster.local", pods=(0,), patience=6
            )
            with (
                node.asking(LOCAL[4], seconds=DEAD_SECONDS, name="stale.lab.test", pods=(1, 2)) as known,
                unknown as no,
            ):
                time.sleep(DEAD_SECONDS / 3)
                files, memory = worker.num_fds(), worker.memory_info().rss
                told = (
                    node.pods[0]
                    .run("dig", "+tries=1", "+time=8", f"@{LOCAL[4]}", "another.default.svc.cluster.local")
                    .stdout
                )
                time.sleep(DEAD_SECONDS / 2)
                more_files, more_memory = worker.num_fds(), worker.memory_info().rss
        finally:
            node.node.run("nft", "delete", "table", "inet", "dead")
        assert known.by("203.0.113.8") == len(known.rows) > 900, known.lost[:3]
        assert no.by(SERVFAIL) == len(no.rows) > 450, no.lost[:3]
        assert "status: SERVFAIL" in told
        assert "EDE: 22 (No Reachable Authority)" in told or "EDE: 23 (Network Error)" in told, told
        assert more_files < files + 50
        assert more_memory < memory + 4_000_000
        with node.asking(LOCAL[4], seconds=1, name="back#.default.svc.cluster.local") as asked:
            pass
        assert not asked.by(SERVFAIL)


SERVFAIL = "0.1.0.1"
"""What the asker takes for an address: the end of a question that was given back."""
DEAD_SECONDS = int(os.environ.get("KDNS_TEST_DEAD_SECONDS", "9"))
"""How long all upstreams are dead in the test of that."""

FIREWALL = """
table inet host-firewall {{
	chain input {{ type filter hook input priority 0; policy drop; {ours} ct state established accept; icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept; }}
	chain output {{ type filter hook output priority 0; policy drop; {ours} ct state {{ new, established }} accept; icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept; }}
}}
"""
ACCEPT = "".join(
    f"ct state untracked {'ip6' if ':' in one else 'ip'} {side}addr {one} meta l4proto {{ tcp, udp }} th {side}port 53 accept; "
    for one in ALL
    for side in "ds"
)


@pytest.mark.parametrize("accept", [ACCEPT, ""], ids=["as documented", "forgotten"])
def test_a_firewall_of_the_host_that_drops_by_default(node: Lab, accept: str) -> None:
    """As docs/node.md has it: with the line nodelocal answers, without it the lease never starts and the cluster does."""
    done = node.node.run("nft", FIREWALL.format(ours=accept))
    assert not done.returncode, done.stderr
    server = node.nodelocal()
    try:
        server.wait_for("answering on")
        if accept:
            node.wait_for_leases()
        else:
            time.sleep(2.5)
        with node.asking(",".join(ALL), seconds=0.5) as asked:
            pass
        assert asked.by(BY_NODE if accept else BY_CLUSTER) == len(asked.rows), asked.lost[:3]
    finally:
        node.node.run("nft", "delete", "table", "inet", "host-firewall")
        node.end(server)


# -- bad input: a clear line, and the node left as it was found ----------------------------------------------------


def found(node: Lab) -> tuple[str, str]:
    listed = node.node.run("ip", "-o", "address").stdout.splitlines()
    own = [line for line in listed if " fe80:" not in line]  # those come and settle by themselves
    return node.node.run("nft", "list", "ruleset").stdout, "\n".join(own)


def test_up_check_and_down_do_what_they_say_any_number_of_times(node: Lab) -> None:
    before = found(node)
    assert node.network("check").returncode == 1
    assert "table inet nodelocal loaded" in node.network("up").stdout
    assert node.network("up").stdout == "nodelocal: everything is up already\n"
    assert node.network("check").stdout == "nodelocal: addresses and rules are as they should be\n"
    assert "replaced" in node.network("up", "--mark", "0x200000").stdout
    assert "address 10.96.0.10 removed" in node.network("down").stdout
    assert node.network("down").stdout == "nodelocal: there is nothing to take down\n"
    assert found(node) == before


def test_an_address_that_another_device_has(node: Lab) -> None:
    node.node.run("ip", "address", "add", f"{SERVICE[4]}/32", "dev", "pod11")
    try:
        before = found(node)
        done = node.network("up")
        assert done.returncode == 2
        assert "address 10.96.0.10: found it is on pod11 already" in done.stderr
        assert found(node) == before
    finally:
        node.node.run("ip", "address", "del", f"{SERVICE[4]}/32", "dev", "pod11")


def test_a_table_of_somebody_elses(node: Lab) -> None:
    node.node.run("nft", "add table inet nodelocal")
    try:
        before = found(node)
        for what in ("up", "down", "check"):
            done = node.network(what)
            assert done.returncode == 2
            assert "a table inet nodelocal that is somebody else's" in done.stderr
        assert found(node) == before
    finally:
        node.node.run("nft", "delete table inet nodelocal")


def test_without_the_capability(node: Lab) -> None:
    code = (
        "import sys; from kdns.privileges import give_up; give_up(); "
        "from nodelocal.cli import main; sys.argv = ['nodelocal', 'network', 'up']; main()"
    )
    before = found(node)
    done = node.node.run(sys.executable, "-c", code)
    assert done.returncode == 2
    assert "NET_ADMIN" in done.stderr
    assert found(node) == before


def test_a_hand_over_socket_that_speaks_something_else_or_is_another_users(node: Lab) -> None:
    path = node.folder / "run" / "handover.sock"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    before = found(node)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(1)
        server = node.nodelocal()
        conn, _ = sock.accept()
        with conn:
            conn.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            assert server.process.wait(20) == 2
        assert f"hand-over {path}: found an answer that is none" in server.output()
        os.chown(path, 65_534, 65_534)
        server = node.nodelocal()
        assert server.process.wait(20) == 2
        assert f"hand-over {path}: found something of user 65534" in server.output()
    path.unlink()
    assert found(node) == before


def test_down_leaves_what_is_not_its_own(node: Lab) -> None:
    """An address in a network of its own, a device that is no dummy: somebody else put them there."""
    node.node.run("ip", "address", "add", f"{LOCAL[4]}/16", "dev", "lo")
    node.node.run("ip", "link", "add", "mine", "type", "veth", "peer", "name", "mineb")
    try:
        before = found(node)
        assert not node.network("up", "--interface", "mine").returncode
        assert not node.network("down", "--interface", "mine").returncode
        after = found(node)
        assert f"{LOCAL[4]}/16" in after[1]
        assert after[0] == before[0]
        assert not node.node.run("ip", "link", "show", "mine").returncode
    finally:
        node.node.run("ip", "address", "del", f"{LOCAL[4]}/16", "dev", "lo")
        node.node.run("ip", "link", "delete", "mine")


def test_rules_that_cannot_be_loaded_leave_the_addresses_off(node: Lab, tmp_path: Path) -> None:
    """Here nft does everything but load."""
    fake = tmp_path / "nft"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *--file*) echo "Error: no" >&2; exit 1;; esac\nexec {shutil.which("nft")} "$@"\n'
    )
    fake.chmod(0o755)
    before = found(node)
    done = node.node.run(
        "env", f"PATH={tmp_path}:{os.environ['PATH']}", sys.executable, "-m", "nodelocal", "network", "up"
    )
    assert done.returncode == 2
    assert "nftables: found Error: no" in done.stderr
    assert found(node) == before
