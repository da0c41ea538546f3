"""CPU a query of a caching forwarder: cached names and forwarded misses, beside the bare socket API and its peers."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from bench.dnsperf import drive, Run, write_queries
from bench.process import BenchError, free_port, LOAD_CPU, Process
from bench.udp import compiled_reflector, reflector
from zones.names import Name

CACHED: Final = "cached names"
MISSES: Final = "forwarded misses"
OURS: Final = "nodelocal"
PROBE: Final = Name.from_text("probe.example.com")
NAMES: Final = 1000

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


def servers(folder: Path, upstream: int) -> list[Callable[[], Process]]:
    """Return the forwarders to *upstream*, a port of loopback, that can be started here."""

    def ours() -> Process:
        port = free_port()
        return Process(OURS, nodelocal_command(folder, port, upstream), port, PROBE)

    found: list[Callable[[], Process]] = [ours]
    for name, program, package, make in (
        ("Unbound", "unbound", "unbound", _unbound),
        ("dnsmasq", "dnsmasq", "dnsmasq-base", _dnsmasq),
    ):
        path = shutil.which(program) or shutil.which(f"/usr/sbin/{program}")
        if path is None:
            print(f"no {name} here: Debian's package {package} has it")
        else:
            found.append(partial(make, path, folder, upstream))
    return found


def nodelocal_command(folder: Path, port: int, upstream: int, *more: str) -> list[str]:
    """Return the command of a nodelocal on loopback that asks *upstream* for everything."""
    return [
        sys.executable, "-m", "nodelocal", "serve", "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0",
        "--cluster", f"udp://127.0.0.1:{upstream}", "--upstream", f"127.0.0.1:{upstream}",
        "--control", str(folder / f"control-{port}.sock"), *more,
    ]  # fmt: skip


def _unbound(path: str, folder: Path, upstream: int) -> Process:
    port = free_port()
    conf = folder / "unbound.conf"
    conf.write_text(UNBOUND_CONF.format(port=port, upstream=upstream, folder=folder))
    return Process("Unbound", [path, "-d", "-c", str(conf)], port, PROBE)


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
        PROBE,
    )  # fmt: skip


def queries_cached() -> list[tuple[str, str]]:
    """Return names that are asked for over and over."""
    return [(f"name{number}.example.com", "A") for number in range(NAMES)]


def queries_missed(seed: int, count: int) -> list[tuple[str, str]]:
    """Return names that are each asked for once; another *seed*, other names."""
    source = random.Random(seed)
    return [(f"x{source.getrandbits(48):012x}.example.com", "A") for _ in range(count)]


def run(folder: Path, *, seconds: float, rounds: int) -> dict[str, dict[str, list[Run]]]:
    """Measure every forwarder on both mixes, in turn, *rounds* times; return the runs by mix and server."""
    results: dict[str, dict[str, list[Run]]] = {CACHED: {}, MISSES: {}}
    binary = compiled_reflector(folder)
    if binary is None:
        raise BenchError("the upstream that answers the misses is a C program: Debian's package gcc compiles it")
    cached, missed = folder / "cached.txt", folder / "missed.txt"
    write_queries(cached, queries_cached())
    with reflector(binary, PROBE, name="upstream", cpu=LOAD_CPU) as upstream:
        makers: list[Callable[[], Process]] = [partial(reflector, binary, PROBE), *servers(folder, upstream.port)]
        for number, start in enumerate(makers):
            with start() as server:
                drive(server, cached, seconds=2)
                for turn in range(rounds):
                    print(f"  {number + 1}/{len(makers)} {server.name}: {CACHED} …", flush=True)
                    results[CACHED].setdefault(server.name, []).append(drive(server, cached, seconds=seconds))
                    print(f"  {number + 1}/{len(makers)} {server.name}: {MISSES} …", flush=True)
                    write_queries(missed, queries_missed(turn, int(120_000 * seconds)))
                    results[MISSES].setdefault(server.name, []).append(drive(server, missed, seconds=seconds))
    return results
