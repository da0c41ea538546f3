"""CPU a query over UDP: kdns beside the bare socket API, and beside other servers of the same zone."""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from bench.cluster import write_manifests
from bench.dnsperf import drive, Run, write_queries
from bench.process import free_port, Process, SERVER_CPU
from zones.names import Name

SEED: Final = 1
HERE: Final = Path(__file__).parent
MISSING: Final = "names that do not exist"
BASE: Final = "socket API (C)"


def queries_hot(services: int) -> list[tuple[str, str]]:
    """Return the names of 1,000 Services, asked for over and over."""
    return [(f"svc{number}.ns{number % 10}.svc.cluster.local", "A") for number in range(min(services, 1000))]


def queries_mixed(services: int) -> list[tuple[str, str]]:
    """Return four kinds of question over all Services."""
    rows = []
    for number in range(services):
        name = f"svc{number}.ns{number % 10}.svc.cluster.local"
        rows += [
            (name, "A"),
            (name, "AAAA"),
            (f"_http._tcp.{name}", "SRV"),
            (f"{number & 255}.{number >> 8 & 255}.96.10.in-addr.arpa", "PTR"),
        ]
    random.Random(SEED).shuffle(rows)
    return rows


def queries_missing(seed: int, count: int = 1_000_000) -> list[tuple[str, str]]:
    """Return names that do not exist, each once; another *seed*, other names."""
    source = random.Random(seed)
    return [(f"x{source.getrandbits(48):012x}.ns{number % 10}.svc.cluster.local", "A") for number in range(count)]


def servers(folder: Path, services: int) -> list[Callable[[], Process]]:
    """Return the servers that can be started here; those that cannot are named with what they lack."""
    probe = Name.from_text("svc1.ns1.svc.cluster.local")
    manifests = folder / "cluster.json"
    write_manifests(manifests, services, 0)
    kdns = [sys.executable, "-m", "kdns", "serve", "--manifests", str(manifests), "--admin", "127.0.0.1:0"]
    found: list[Callable[[], Process]] = []
    if (binary := compiled_reflector(folder)) is not None:
        found.append(partial(reflector, binary, probe))

    def ours() -> Process:
        port = free_port()
        return Process("kdns", [*kdns, "--listen", f"127.0.0.1:{port}"], port, probe)

    found.append(ours)
    zone = folder / "cluster.local.zone"
    with zone.open("w") as out:
        subprocess.run([sys.executable, "-m", "kdns", "zone", "--manifests", str(manifests)], stdout=out, check=True)
    peers = (("NSD", "nsd", "nsd", _nsd), ("Knot", "knotd", "knot", _knot))
    for name, program, package, make in peers:
        path = shutil.which(program) or shutil.which(f"/usr/sbin/{program}")
        if path is None:
            print(f"no {name} here: Debian's package {package} has it")
        else:
            found.append(partial(make, path, folder, zone, probe))
    return found


def compiled_reflector(folder: Path) -> Path | None:
    """Compile the program that does nothing but the socket calls; None, and a line, where that is not possible."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        print("no C compiler: no figure for the bare socket API, and no ratios (Debian's package gcc)")
        return None
    binary = folder / "reflector"
    subprocess.run([compiler, "-O2", "-o", str(binary), str(HERE / "reflector.c")], check=True)
    return binary


def reflector(binary: Path, probe: Name, *, name: str = BASE, cpu: int = SERVER_CPU) -> Process:
    """Return it as a server."""
    port = free_port()
    return Process(name, [str(binary), str(port)], port, probe, cpu=cpu)


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
"""


def _nsd(path: str, folder: Path, zone: Path, probe: Name) -> Process:
    port = free_port()
    conf = folder / "nsd.conf"
    conf.write_text(NSD_CONF.format(port=port, folder=folder, zone=zone))
    return Process("NSD", [path, "-d", "-c", str(conf)], port, probe, cwd=folder)


def _knot(path: str, folder: Path, zone: Path, probe: Name) -> Process:
    port = free_port()
    conf = folder / "knot.conf"
    conf.write_text(KNOT_CONF.format(port=port, folder=folder, zone=zone))
    return Process("Knot", [path, "-c", str(conf)], port, probe, cwd=folder)


def run(folder: Path, *, seconds: float, rounds: int, services: int) -> dict[str, dict[str, list[Run]]]:
    """Measure every server on every mix, in turn, *rounds* times; return the runs by mix and server."""
    mixes = {
        "hot names": queries_hot(services),
        "four kinds of question": queries_mixed(services),
    }
    results: dict[str, dict[str, list[Run]]] = {mix: {} for mix in (*mixes, MISSING)}
    files = {}
    for mix, queries in mixes.items():
        files[mix] = folder / f"{mix.replace(' ', '-')}.txt"
        write_queries(files[mix], queries)
    for number, start in enumerate(makers := servers(folder, services)):
        with start() as server:
            for mix, path in files.items():
                drive(server, path, seconds=max(2.0, seconds))  # warm: every name is asked for at least twice
                for _ in range(rounds):
                    print(f"  {number + 1}/{len(makers)} {server.name}: {mix} …", flush=True)
                    results[mix].setdefault(server.name, []).append(drive(server, path, seconds=seconds))
            unique = folder / "missing.txt"
            for seed in range(rounds):
                write_queries(unique, queries_missing(SEED + seed))
                print(f"  {number + 1}/{len(makers)} {server.name}: {MISSING} …", flush=True)
                results[MISSING].setdefault(server.name, []).append(drive(server, unique, seconds=seconds))
    return results


def report(results: dict[str, dict[str, list[Run]]], base: str = BASE) -> list[dict[str, object]]:
    """Print the table, and return its rows."""
    rows: list[dict[str, object]] = []
    for mix, by_server in results.items():
        floor = statistics.median(run.cpu_us for run in by_server[base]) if base in by_server else None
        for name, runs in by_server.items():
            cpu = sorted(run.cpu_us for run in runs)
            median = statistics.median(cpu)
            lost = sum(run.lost for run in runs) / sum(run.answered + run.lost for run in runs)
            rows.append(
                {
                    "mix": mix,
                    "server": name,
                    "cpu_us": round(median, 2),
                    "cpu_us_min": round(cpu[0], 2),
                    "cpu_us_max": round(cpu[-1], 2),
                    "ratio": round(median / floor, 2) if floor else None,
                    "rate": round(statistics.median(run.rate for run in runs)),
                    "lost": round(lost, 5),
                }
            )
    return rows


def table(rows: Sequence[dict[str, object]]) -> None:
    """Print *rows* for a person."""
    titles = ("mix", "server", "µs CPU a query", "(min – max)", "× socket API", "queries/s", "lost")
    print("\n{:26} {:16} {:>15} {:>16} {:>13} {:>10} {:>8}".format(*titles))
    for row in rows:
        print(
            f"{row['mix']:26} {row['server']:16} {row['cpu_us']:>15} "
            f"{row['cpu_us_min']:>7} – {row['cpu_us_max']:<6} "
            f"{row['ratio'] or '-':>13} {row['rate']:>10} {row['lost']:>8}"
        )
