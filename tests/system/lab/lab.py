"""The lab itself.

    pods 10.244.1.11, .12, .13 ── node (10.244.1.1) ── cluster 10.244.9.11, .12 ── outside 192.0.2.53
    and the same in fd00:244::/32, 2001:db8::/32; the Service address is 10.96.0.10, fd00:10:96::a

Three namespaces and three pods, joined by veths. The node forwards with conntrack on, and translates the Service address
as kube-proxy does, in its nftables or its iptables mode: round robin over the two servers, by random choice.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, ExitStack, suppress
from pathlib import Path
from typing import Any, IO

import psutil
import pytest

from tests.support.netns import Namespace, namespace, needs_netns
from tests.support.process import Kdns, wait_until

LOCAL = {4: "169.254.20.10", 6: "fd00:a9fe:20::10"}
SERVICE = {4: "10.96.0.10", 6: "fd00:10:96::a"}
ALL = [*LOCAL.values(), *SERVICE.values()]
SERVERS = {4: ("10.244.9.11", "10.244.9.12"), 6: ("fd00:244:9::11", "fd00:244:9::12")}
PODS = 3

WHO = "who.lab.test"
"""Answered by a static record of whoever is asked: the last octets say by whom."""
STALE = "stale.lab.test 1 A 203.0.113.8"
WARM = "warm.lab.test 3600 A 203.0.113.9"
BY_NODE, BY_CLUSTER = "203.0.113.1", "203.0.113.2"

needs_lab = [
    needs_netns,
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs Debian's package nftables"),
    pytest.mark.root,
    pytest.mark.system,
]

KUBE_PROXY = """
table inet kube-proxy {
	chain services {
		ip daddr 10.96.0.10 meta l4proto { tcp, udp } th dport 53 dnat ip to numgen random mod 2 map { 0 : 10.244.9.11, 1 : 10.244.9.12 }
		ip6 daddr fd00:10:96::a meta l4proto { tcp, udp } th dport 53 dnat ip6 to numgen random mod 2 map { 0 : fd00:244:9::11, 1 : fd00:244:9::12 }
	}
	chain prerouting { type nat hook prerouting priority dstnat; jump services; }
	chain output { type nat hook output priority -100; jump services; }
	chain postrouting {
		type nat hook postrouting priority srcnat;
		ct status dnat oifname != "pod*" ip saddr != 10.244.1.0/24 masquerade
	}
}
"""


def iptables_rules(family: int) -> str:
    """Return what kube-proxy's iptables mode has in the nat table for the Service, for ``iptables-restore``."""
    service, servers, pods = SERVICE[family], SERVERS[family], {4: "10.244.1.0/24", 6: "fd00:244:1::/64"}[family]
    width = {4: 32, 6: 128}[family]
    lines = ["*nat"]
    lines += [f":{chain} - [0:0]" for chain in ("KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-MARK-MASQ")]
    lines += [
        '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
        "-A KUBE-POSTROUTING -j MASQUERADE",
    ]
    for protocol in ("udp", "tcp"):
        chain = f"KUBE-SVC-{protocol.upper()}"
        ends = [f"KUBE-SEP-{protocol.upper()}{number}" for number in range(len(servers))]
        lines += [f":{one} - [0:0]" for one in (chain, *ends)]
        lines += [
            f'-A KUBE-SERVICES -d {service}/{width} -p {protocol} -m comment --comment "kube-system/kube-dns" -m {protocol} --dport 53 -j {chain}',
            f"-A {chain} ! -s {pods} -d {service}/{width} -p {protocol} -m {protocol} --dport 53 -j KUBE-MARK-MASQ",
            f"-A {chain} -m statistic --mode random --probability 0.5 -j {ends[0]}",
            f"-A {chain} -j {ends[1]}",
        ]
        for end, server in zip(ends, servers, strict=True):
            to = f"[{server}]:53" if family == 6 else f"{server}:53"
            lines += [
                f"-A {end} -s {server}/{width} -j KUBE-MARK-MASQ",
                f"-A {end} -p {protocol} -m {protocol} -j DNAT --to-destination {to}",
            ]
    return "\n".join([*lines, "COMMIT", ""])


class Lab:
    """The namespaces, and what runs in them. *kube_proxy*: nftables, or iptables-nft, or iptables-legacy."""

    def __init__(self, stack: ExitStack, folder: Path, kube_proxy: str = "nftables") -> None:
        self._stack = stack
        self._kube_proxy = kube_proxy
        self.folder = folder
        self.node = stack.enter_context(namespace())
        self.cluster = stack.enter_context(namespace())
        self.pods = [
            stack.enter_context(
                namespace(
                    f"nameserver {LOCAL[4]}\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
                )
            )
            for _ in range(PODS)
        ]
        self._join()

    def _join(self) -> None:
        node = self.node
        for key in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            _must(node.run("sysctl", "-q", "-w", key))
        for number, pod in enumerate(self.pods, 11):
            link = f"pod{number}"
            _must(node.run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", pod.name))
            for command in (
                f"address add 10.244.1.1/32 dev {link}", f"-6 address add fd00:244:1::1/128 dev {link} nodad",
                f"link set {link} up",
                f"route add 10.244.1.{number}/32 dev {link}", f"-6 route add fd00:244:1::{number}/128 dev {link}",
            ):  # fmt: skip
                _must(node.run("ip", *command.split()))
            for command in (
                f"address add 10.244.1.{number}/32 dev eth0", f"-6 address add fd00:244:1::{number}/128 dev eth0 nodad",
                "link set eth0 up",
                "route add 10.244.1.1 dev eth0", "route add default via 10.244.1.1 dev eth0",
                "-6 route add fd00:244:1::1 dev eth0", "-6 route add default via fd00:244:1::1 dev eth0",
            ):  # fmt: skip
                _must(pod.run("ip", *command.split()))
        _must(node.run("ip", "link", "add", "dns0", "type", "veth", "peer", "name", "eth0", "netns", self.cluster.name))
        for command in (
            "address add 10.244.9.1/24 dev dns0", "-6 address add fd00:244:9::1/64 dev dns0 nodad", "link set dns0 up",
        ):  # fmt: skip
            _must(node.run("ip", *command.split()))
        for command in (
            *(f"address add {address}/24 dev eth0" for address in SERVERS[4]),
            *(f"-6 address add {address}/64 dev eth0 nodad" for address in SERVERS[6]),
            "address add 192.0.2.53/32 dev eth0",
            "link set eth0 up",
            "route add default via 10.244.9.1", "-6 route add default via fd00:244:9::1",
        ):  # fmt: skip
            _must(self.cluster.run("ip", *command.split()))
        _must(node.run("ip", "route", "add", "192.0.2.53/32", "via", "10.244.9.11"))
        self.load_kube_proxy()
        for table in ("ip", "ip6"):  # conntrack is on where something asks for it
            _must(node.run("nft", f"add table {table} watch"))
            _must(node.run("nft", f"add chain {table} watch c {{ type filter hook forward priority 0; }}"))
            _must(node.run("nft", f"add rule {table} watch c ct state new accept"))

    def load_kube_proxy(self) -> None:
        """Load the stand-in for kube-proxy."""
        if self._kube_proxy == "nftables":
            loads = {"nft -f -": KUBE_PROXY}
        else:
            kind = self._kube_proxy.removeprefix("iptables-")
            loads = {f"{name}-{kind}-restore": iptables_rules(of) for name, of in (("iptables", 4), ("ip6tables", 6))}
        for command, rules in loads.items():
            subprocess.run([*self.node.prefix(), *command.split()], input=rules, text=True, check=True)

    def start(self, namespace: Namespace, *command: str) -> Kdns:
        """Start a program in a namespace; it is ended with the lab."""
        output = self._stack.enter_context(_temporary())
        process = subprocess.Popen(
            [*namespace.prefix(), *command], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._stack.callback(_end, process)
        return Kdns(process, output)

    def start_servers(self) -> list[Kdns]:
        """Start the two servers of the cluster's DNS, each on its addresses of both families."""
        manifests = self.folder / "cluster.yaml"
        manifests.write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n")
        servers = []
        for number in range(2):
            listens = [f"{SERVERS[4][number]}:53", f"[{SERVERS[6][number]}]:53"]
            if not number:
                listens.append("192.0.2.53:53")
            flags = [part for listen in listens for part in ("--listen", listen)]
            for record in (f"{WHO} 0 A {BY_CLUSTER}", f"who.cluster.local 0 A {BY_CLUSTER}", WARM, STALE):
                flags += ["--record", record]
            admin = f"127.0.0.1:{9100 + number}"
            command = [
                sys.executable,
                "-m",
                "kdns",
                "serve",
                "--manifests",
                str(manifests),
                "--admin",
                admin,
                "--lameduck",
                "0",
                *flags,
            ]
            servers.append(self.start(self.cluster, *command))
        for server in servers:
            server.wait_for("synced")
        return servers

    def nodelocal(self, *more: str, name: str = "run") -> Kdns:
        """Start nodelocal on the node."""
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return self.start(
            self.node, sys.executable, "-m", "nodelocal", "serve", "--setup-network",
            "--service-address", SERVICE[4], "--service-address", SERVICE[6],
            *([] if "--cluster" in more else ["--cluster", SERVERS[4][0], "--cluster", SERVERS[4][1]]),
            *([] if "--upstream" in more else ["--upstream", "192.0.2.53"]),
            "--admin", "127.0.0.1:9253", "--control", str(folder / "control.sock"), "--record", f"{WHO} 0 A {BY_NODE}", *more,
        )  # fmt: skip

    @contextmanager
    def running(self, *more: str) -> Iterator[Kdns]:
        """Run a nodelocal whose leases run; it is ended, its addresses and rules are gone afterwards."""
        server = self.nodelocal(*more)
        try:
            self.wait_for_leases()
            yield server
        finally:
            self.end(server)

    def end(self, *servers: Kdns) -> None:
        """End what is left of *servers*, and take down what they put up."""
        for server in servers:
            if server.process.poll() is None:
                os.kill(server.process.pid, signal.SIGCONT)
                server.process.kill()
                server.process.wait()
        _must(self.network("down"))
        self.node.run("conntrack", "-F")

    def network(self, what: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Run ``nodelocal network`` on the node."""
        flags = ["--service-address", SERVICE[4], "--service-address", SERVICE[6], *more]
        return self.node.run(sys.executable, "-m", "nodelocal", "network", what, *flags)

    def page(self, path: str) -> str:
        """Return a page of the admin port of the nodelocal there."""
        code = f"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9253{path}').read().decode())"
        return self.node.run(sys.executable, "-c", code).stdout

    def has_lease(self, address: str) -> bool:
        """Tell whether the lease of an address runs."""
        kind = "alive6" if ":" in address else "alive4"
        listed = self.node.run("nft", "-j", "list", "set", "inet", "nodelocal", kind)
        return not listed.returncode and address in listed.stdout

    def wait_for_leases(self) -> None:
        """Wait until the leases of all addresses run."""
        wait_until(lambda: all(map(self.has_lease, ALL)), lambda: "no lease")

    @contextmanager
    def asking(
        self, address: str, *, seconds: float, rate: float = 67, patience: float = 2.5, pods: Sequence[int] = (0, 1, 2),
        tcp: bool = False, on_node: bool = False, name: str = WHO,
    ) -> Iterator[Asked]:  # fmt: skip
        """Have pods, and perhaps the node itself, ask at a steady rate while the block runs; then wait for them."""
        command = [
            sys.executable,
            "-m",
            "tests.system.lab.asker",
            address,
            str(rate),
            str(seconds),
            str(patience),
            name,
        ]
        spaces = [self.pods[pod] for pod in pods] + [self.node] * on_node
        processes = [
            subprocess.Popen([*space.prefix(), *command, *(["tcp"] * tcp)], stdout=subprocess.PIPE, text=True)
            for space in spaces
        ]
        asked = Asked()
        try:
            time.sleep(0.7)  # until they have begun
            yield asked
            for process in processes:
                out, _ = process.communicate(timeout=seconds + patience + 30)
                asked.rows += json.loads(out)
        finally:
            for process in processes:
                _end(process)
        asked.rows.sort(key=lambda row: float(row["at"]))

    def conntrack(self) -> int:
        """Return how many connections the node tracks that have to do with port 53."""
        listed = self.node.run("conntrack", "-L")
        return sum("dport=53 " in line for line in listed.stdout.splitlines())


def kill_whole(nodelocal: Kdns) -> None:
    """Kill the supervisor and all it started."""
    others = psutil.Process(nodelocal.process.pid).children(recursive=True)
    for pid in (nodelocal.process.pid, *(other.pid for other in others)):
        os.kill(pid, signal.SIGKILL)


class Asked:
    """What became of each question."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    @property
    def lost(self) -> list[dict[str, Any]]:
        """The questions that were not answered."""
        return [row for row in self.rows if str(row["who"]).startswith("error")]

    def by(self, who: str) -> int:
        """Count the answers of one server."""
        return sum(row["who"] == who for row in self.rows)

    @property
    def longest(self) -> float:
        """The seconds that the slowest answer took."""
        return max((row["seconds"] for row in self.rows if row not in self.lost), default=0.0)


@contextmanager
def _temporary() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        yield file


def worker_of(nodelocal: Kdns) -> int:
    """Return the process that answers: the child of the one that forks, which is the supervisor's."""
    found: list[int] = []

    def there_is_one() -> bool:
        with suppress(psutil.NoSuchProcess):  # one that has just been killed
            ours = [one for child in psutil.Process(nodelocal.process.pid).children() for one in child.children()]
            found[:] = [one.pid for one in ours if one.status() != psutil.STATUS_ZOMBIE]
        return bool(found)

    wait_until(there_is_one, nodelocal.output)
    return found[0]


def _must(done: subprocess.CompletedProcess[str]) -> None:
    assert not done.returncode, f"{' '.join(done.args)}: {done.stderr}"


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process and what it started."""
    if process.poll() is None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(process.pid, signal.SIGCONT)
                process.send_signal(number)
                process.wait(8)
                break
            except (subprocess.TimeoutExpired, ProcessLookupError):
                continue


@contextmanager
def lab(kube_proxy: str = "nftables") -> Iterator[Lab]:
    """Make the lab; everything of it is gone afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"lab-{uuid.uuid4().hex[:6]}-")))
        yield Lab(stack, folder, kube_proxy)
