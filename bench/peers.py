"""The servers that are measured side by side: ours, and every peer that is found on the machine or named by a user."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from bench.process import BenchError, free_port, Process, SERVER_CPU
from bench.report import package_version, progress, version_of
from zones.names import Name

HERE: Final = Path(__file__).parent
BASE: Final = "socket API (C)"
"""The program that does nothing but the socket calls: what all others are compared with."""

KDNS: Final = "kdns"
NODELOCAL: Final = "nodelocal"

CLUSTER_PROBE: Final = Name.from_text("svc1.ns1.svc.cluster.local")
OUTSIDE_PROBE: Final = Name.from_text("probe.example.com")


class Contestant(msgspec.Struct, frozen=True):
    """A server that can be started: its name, what starts it, and its version."""

    name: str
    start: Callable[[], Process]
    version: str


class Peer(msgspec.Struct, frozen=True):
    """A server that a user named: ``NAME=COMMAND``.

    The command has places for ``{port}``, ``{zone}`` and ``{reverse}`` (master files), ``{upstream}`` (a port) and
    ``{folder}``. One with ``{zone}`` is an authority, one with ``{upstream}`` a forwarder.
    """

    name: str
    command: str

    @classmethod
    def from_text(cls, text: str) -> Peer:
        """Read ``NAME=COMMAND``. Raises BenchError."""
        name, equals, command = text.partition("=")
        if not (name and equals and command.strip()):
            raise BenchError(f"--peer {text!r}: expected NAME=COMMAND")
        if "{port}" not in command:
            raise BenchError(f"--peer {name}: its command must say where {{port}} goes")
        if ("{zone}" in command) is ("{upstream}" in command):
            raise BenchError(f"--peer {name}: its command must say where {{zone}} goes, or {{upstream}}")
        return cls(name, command)

    def start(self, probe: Name, *, folder: Path, zone: Path | None = None, upstream: int = 0) -> Process:
        """Return it as a server. Raises BenchError."""
        port = free_port()
        try:
            places = {"port": port, "zone": zone or "", "upstream": upstream, "folder": folder}
            text = self.command.format(**places, reverse=reverse_of(zone) if zone is not None else "")
        except (KeyError, IndexError, ValueError) as exc:
            raise BenchError(f"--peer {self.name}: {exc} is no place that is filled in") from exc
        return Process(self.name, shlex.split(text), port, probe, cwd=folder)


def reverse_of(zone: Path) -> Path:
    """Return where the master file of the reverse zone lies, beside that of the cluster's."""
    return zone.with_name("in-addr.arpa.zone")


def find_program(name: str) -> str | None:
    """Return the path of a program on PATH or in /usr/sbin, which users' PATHs lack."""
    return shutil.which(name) or shutil.which(f"/usr/sbin/{name}")


def compiled_reflector(folder: Path) -> Path | None:
    """Compile the program that does nothing but the socket calls; None, and a line, where that is not possible."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        progress("no C compiler: no figure for the bare socket API, and no ratios (Debian's package gcc)")
        return None
    binary = folder / "reflector"
    if not binary.exists():
        subprocess.run([compiler, "-O2", "-o", str(binary), str(HERE / "reflector.c")], check=True)
    return binary


def reflector(binary: Path, probe: Name, *, name: str = BASE, cpu: int = SERVER_CPU) -> Process:
    """Return it as a server."""
    port = free_port()
    return Process(name, [str(binary), str(port)], port, probe, cpu=cpu)


def kdns_command(*arguments: str) -> tuple[list[str], int]:
    """Return the command of a kdns on loopback, and its port."""
    port = free_port()
    command = [sys.executable, "-m", "kdns", "serve", "--listen", f"127.0.0.1:{port}"]
    command += ["--admin", "127.0.0.1:0", "--lameduck", "0"]
    return [*command, *arguments], port


def authorities(folder: Path, manifests: Path, *, workers: Sequence[int], peers: Sequence[Peer]) -> list[Contestant]:
    """Return the servers of the cluster's zone that can be started; those that cannot are named with what they lack.

    kdns is there once for each number of *workers*.
    """
    found: list[Contestant] = []
    if (binary := compiled_reflector(folder)) is not None:
        found.append(Contestant(BASE, partial(reflector, binary, CLUSTER_PROBE), ""))

    def ours(count: int, name: str) -> Process:
        command, port = kdns_command("--manifests", str(manifests), "--workers", str(count))
        return Process(name, command, port, CLUSTER_PROBE)

    for count in workers:
        name = KDNS if count == 1 else f"{KDNS}, {count} workers"
        found.append(Contestant(name, partial(ours, count, name), package_version("kdns")))
    zone = folder / "cluster.local.zone"
    for master, origin in ((zone, "cluster.local"), (reverse_of(zone), "in-addr.arpa")):
        with master.open("w") as out:
            command = [sys.executable, "-m", "kdns", "zone", origin, "--manifests", str(manifests)]
            subprocess.run(command, stdout=out, check=True)
    for title, program, package, make, flags in (
        ("NSD", "nsd", "nsd", _nsd, ("-v",)),
        ("Knot", "knotd", "knot", _knot, ("-V",)),
        ("CoreDNS", "coredns", "", _coredns_file, ("-version",)),
    ):
        path = find_program(program)
        if path is None:
            _missing(title, program, package)
        else:
            found.append(Contestant(title, partial(make, path, folder, zone), version_of([path, *flags])))
    found += [
        Contestant(peer.name, partial(peer.start, CLUSTER_PROBE, folder=folder, zone=zone), "")
        for peer in peers
        if "{zone}" in peer.command
    ]
    return found


def forwarders(folder: Path, upstream: int, *, peers: Sequence[Peer]) -> list[Contestant]:
    """Return the caching forwarders to *upstream*, a port of loopback, that can be started here."""
    found: list[Contestant] = []
    if (binary := compiled_reflector(folder)) is not None:
        found.append(Contestant(BASE, partial(reflector, binary, OUTSIDE_PROBE), ""))

    def ours() -> Process:
        port = free_port()
        return Process(NODELOCAL, nodelocal_command(folder, port, upstream), port, OUTSIDE_PROBE)

    found.append(Contestant(NODELOCAL, ours, package_version("kdns")))
    for title, program, package, make, flags in (
        ("Unbound", "unbound", "unbound", _unbound, ("-V",)),
        ("dnsmasq", "dnsmasq", "dnsmasq-base", _dnsmasq, ("--version",)),
        ("NodeLocal DNSCache", "node-cache", "", _coredns_cache, ("-version",)),
        ("CoreDNS, cache", "coredns", "", _coredns_cache, ("-version",)),
    ):
        path = find_program(program)
        if path is None:
            _missing(title, program, package)
        else:
            found.append(Contestant(title, partial(make, path, folder, upstream), version_of([path, *flags])))
    found += [
        Contestant(peer.name, partial(peer.start, OUTSIDE_PROBE, folder=folder, upstream=upstream), "")
        for peer in peers
        if "{upstream}" in peer.command
    ]
    return found


def _missing(title: str, program: str, package: str) -> None:
    where = (
        f"Debian's package {package} has it" if package else f"put its binary {program} on PATH, or name it by --peer"
    )
    progress(f"no {title} here: {where}")


# -- authorities ----------------------------------------------------------------------------------------------------

NSD_CONF: Final = """\
server:
  ip-address: 127.0.0.1@{port}
  username: ""
  chroot: ""
  zonesdir: {folder}
  database: ""
  pidfile: {folder}/nsd.pid
  xfrdfile: {folder}/nsd.xfrd
  zonelistfile: {folder}/nsd.list
  xfrdir: {folder}
  server-count: 1
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: cluster.local
  zonefile: {zone}
zone:
  name: in-addr.arpa
  zonefile: {reverse}
"""

KNOT_CONF: Final = """\
server:
  listen: 127.0.0.1@{port}
  rundir: {folder}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: {folder}
log:
  - target: stderr
    any: warning
zone:
  - domain: cluster.local
    storage: {folder}
    file: {zone}
    zonefile-load: whole
    journal-content: none
  - domain: in-addr.arpa
    storage: {folder}
    file: {reverse}
    zonefile-load: whole
    journal-content: none
"""

COREFILE_ZONE: Final = """\
cluster.local:{port} {{
  bind 127.0.0.1
  file {zone}
}}
in-addr.arpa:{port} {{
  bind 127.0.0.1
  file {reverse}
}}
"""


def _nsd(path: str, folder: Path, zone: Path) -> Process:
    port = free_port()
    conf = folder / "nsd.conf"
    conf.write_text(NSD_CONF.format(port=port, folder=folder, zone=zone, reverse=reverse_of(zone)))
    return Process("NSD", [path, "-d", "-c", str(conf)], port, CLUSTER_PROBE, cwd=folder)


def _knot(path: str, folder: Path, zone: Path) -> Process:
    port = free_port()
    conf = folder / "knot.conf"
    conf.write_text(KNOT_CONF.format(port=port, folder=folder, zone=zone, reverse=reverse_of(zone)))
    return Process("Knot", [path, "-c", str(conf)], port, CLUSTER_PROBE, cwd=folder)


def _coredns_file(path: str, folder: Path, zone: Path) -> Process:
    port = free_port()
    conf = folder / "Corefile.zone"
    conf.write_text(COREFILE_ZONE.format(port=port, zone=zone, reverse=reverse_of(zone)))
    return Process("CoreDNS", [path, "-conf", str(conf)], port, CLUSTER_PROBE, cwd=folder)


# -- forwarders -----------------------------------------------------------------------------------------------------

UNBOUND_CONF: Final = """\
server:
  interface: 127.0.0.1@{port}
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  num-threads: 1
  module-config: "iterator"
  do-not-query-localhost: no
  outgoing-range: 4096
  num-queries-per-thread: 2048
  so-rcvbuf: 4m
  prefetch: yes
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@{upstream}
"""

COREFILE_CACHE: Final = """\
.:{port} {{
  bind 127.0.0.1
  cache 30
  forward . 127.0.0.1:{upstream}
}}
"""


def nodelocal_command(folder: Path, port: int, upstream: int, *more: str) -> list[str]:
    """Return the command of a nodelocal on loopback that asks *upstream* for everything."""
    return [
        sys.executable, "-m", "nodelocal", "serve", "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0",
        "--cluster", f"udp://127.0.0.1:{upstream}", "--upstream", f"127.0.0.1:{upstream}",
        "--control", str(folder / f"control-{port}.sock"), "--lameduck", "0", *more,
    ]  # fmt: skip


def _unbound(path: str, folder: Path, upstream: int) -> Process:
    port = free_port()
    conf = folder / "unbound.conf"
    conf.write_text(UNBOUND_CONF.format(port=port, upstream=upstream, folder=folder))
    return Process("Unbound", [path, "-d", "-c", str(conf)], port, OUTSIDE_PROBE)


def _dnsmasq(path: str, folder: Path, upstream: int) -> Process:
    port = free_port()
    return Process(
        "dnsmasq",
        [
            path, "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root",
            f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", f"--server=127.0.0.1#{upstream}",
            "--cache-size=10000", "--dns-forward-max=4096", "--pid-file=",
        ],
        port,
        OUTSIDE_PROBE,
    )  # fmt: skip


def _coredns_cache(path: str, folder: Path, upstream: int) -> Process:
    port = free_port()
    name = "NodeLocal DNSCache" if path.endswith("node-cache") else "CoreDNS, cache"
    conf = folder / f"Corefile.{port}"
    conf.write_text(COREFILE_CACHE.format(port=port, upstream=upstream))
    more = ["-localip", "127.0.0.1", "-setupinterface=false", "-setupiptables=false"] if "node-cache" in path else []
    return Process(name, [path, "-conf", str(conf), *more], port, OUTSIDE_PROBE, cwd=folder)
