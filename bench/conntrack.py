"""What a node's connection tracking holds after lookups by glibc: pods straight to the cluster's DNS, behind a plain
node cache, behind nodelocal with expansion.

Everything runs in the lab of the tests: a node, its pods and the cluster's DNS in network namespaces, a stand-in for
kube-proxy in nftables. Each lookup is ``getaddrinfo`` with the standard search path, A and AAAA at once.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.process import BenchError
from bench.report import progress, Report
from tests.support.netns import Namespace
from tests.system.lab.lab import Lab, lab, LOCAL, SERVERS, SERVICE

THREADS: Final = 8
SEARCH: Final = "default.svc.cluster.local svc.cluster.local cluster.local"

LOOKUPS: Final = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
kind, count, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def ask(number):
    name = f"host{number}.example.com" if kind == "external" else f"service{number}"
    try:
        return bool(socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM))
    except OSError:
        return False
with ThreadPoolExecutor(threads) as pool:
    print(sum(pool.map(ask, range(count))))
"""


def run(report: Report, *, lookups: int) -> None:
    """Measure each way; report a table."""
    rows = []
    ways: list[tuple[str, str, list[str] | None]] = [
        ("pods to the cluster DNS", SERVICE[4], None),
        ("a plain node cache", LOCAL[4], ["--expand", "off"]),
        ("nodelocal", LOCAL[4], []),
        ("nodelocal, upstream over TCP", LOCAL[4], ["--upstream", "tcp://192.0.2.53"]),
    ]
    for title, nameserver, flags in ways:
        progress(f"{title} …")
        with lab() as made:
            rows.append({"way": title, **_measure(made, nameserver, flags, lookups)})
    report.table(
        f"Entries on the node after {lookups:,} external and {lookups:,} cluster lookups",
        rows,
        columns={
            "way": "way", "pods": "pods' side", "udp": "other, UDP", "tcp": "other, TCP",
            "insert_failed": "insert_failed", "failed": "lookups that failed",
        },
    )  # fmt: skip


def _measure(made: Lab, nameserver: str, flags: list[str] | None, lookups: int) -> dict[str, Any]:
    _start_servers(made, lookups)
    node, pod = made.node, made.pods[0]
    # Nothing may age out before it is counted.
    for key in ("udp_timeout", "udp_timeout_stream", "tcp_timeout_time_wait"):
        node.run("sysctl", "-q", "-w", f"net.netfilter.nf_conntrack_{key}=900")
    resolv = Path("/etc/netns") / pod.name / "resolv.conf"
    resolv.write_text(f"nameserver {nameserver}\nsearch {SEARCH}\noptions ndots:5\n")
    with ExitStack() as stack:
        if flags is not None:
            made.nodelocal(*flags)
            made.wait_for_leases()
        node.run("conntrack", "-F")
        before = _insert_failed(node)
        found = sum(_look_up(pod, kind, lookups) for kind in ("external", "cluster"))
        listed = [line for line in node.run("conntrack", "-L").stdout.splitlines() if "dport=53 " in line]
        stack.close()
    from_pods = [line for line in listed if re.search(r"src=10\.244\.1\.1[1-9] ", line.split("dport=")[0])]
    rest = [line for line in listed if line not in from_pods]
    return {
        "pods": len(from_pods),
        "udp": sum(line.startswith("udp") for line in rest),
        "tcp": sum(line.startswith("tcp") for line in rest),
        "insert_failed": _insert_failed(node) - before,
        "failed": 2 * lookups - found,
    }


def _look_up(pod: Namespace, kind: str, lookups: int) -> int:
    done = pod.run(sys.executable, "-c", LOOKUPS, kind, str(lookups), str(THREADS), timeout=600)
    if done.returncode:
        raise BenchError(f"the lookups ended with status {done.returncode}: {done.stderr[-300:]}")
    return int(done.stdout)


def _insert_failed(node: Namespace) -> int:
    return sum(map(int, re.findall(r"insert_failed=(\d+)", node.run("conntrack", "-S").stdout)))


def _start_servers(made: Lab, lookups: int) -> None:
    """Start the cluster's DNS, two servers that forward what they do not know, and a resolver outside."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    services = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"service{number}", "namespace": "default"},
            "spec": {"clusterIP": f"10.97.{number >> 8}.{number & 255}", "ports": [{"port": 80}]},
        }
        for number in range(lookups)
    ]
    manifests = made.folder / "cluster.json"
    manifests.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [namespace, *services]}))
    empty = made.folder / "outside.json"
    empty.write_text(json.dumps(namespace))
    hosts = made.folder / "hosts"
    hosts.write_text("".join(f"198.18.{n >> 8}.{n & 255} host{n}.example.com\n" for n in range(lookups)))
    outside = ["--manifests", str(empty), "--hosts", str(hosts), "--zone", "nothing.test"]
    inside = ["--manifests", str(manifests), "--upstream", "192.0.2.53"]
    servers = [
        made.start(
            made.cluster,
            *(sys.executable, "-m", "kdns", "serve", *what),
            *("--listen", f"{address}:53", "--admin", f"127.0.0.1:{9100 + number}"),
        )
        for number, (address, what) in enumerate((("192.0.2.53", outside), *((one, inside) for one in SERVERS[4])))
    ]
    for server in servers:
        server.wait_for("synced")
