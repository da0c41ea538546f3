"""Queries that one lookup costs real resolvers, without and with nodelocal's search-path expansion.

Everything runs in one network namespace, made here and removed whatever happens: a pod's resolv.conf, nodelocal, kdns
as the cluster's DNS, Unbound as the world outside. Queries are counted where they arrive, in the logs of the three
servers; that each lookup ends as it should is checked, since one that failed early would look cheap.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from bench.process import BenchError
from bench.report import progress, Report, Row, version_of
from nodelocal.control import request
from tests.support.kube import namespace, service
from tests.support.process import Kdns, kdns, nodelocal

NODE: Final = "127.0.0.53"
CLUSTER: Final = "127.0.0.10"
OUTSIDE: Final = "127.0.0.2"
LOOKUP_SECONDS: Final = 30.0
START_SECONDS: Final = 30.0
SETTLE_SECONDS: Final = 0.03
"""A count is taken when it stayed the same for so long; a query takes well below a millisecond here."""

USUAL: Final = "default.svc.cluster.local svc.cluster.local cluster.local"
EXPLICIT: Final = "search.default.cluster.local.ap.k8s.io"
RESOLV_CONF: Final = "nameserver {node}\nsearch {search}\noptions ndots:5\n"

UNBOUND_CONF: Final = """\
server:
  interface: {outside}@53
  access-control: 127.0.0.0/8 allow
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  module-config: "iterator"
  verbosity: 0
  log-queries: yes
  logfile: "{folder}/unbound.log"
  local-zone: "example.com." static
  local-data: "example.com. 60 IN SOA ns.example.com. h.example.com. 1 3600 600 86400 60"
  local-data: "www.example.com. 60 IN A 192.0.2.1"
  local-data: "www.example.com. 60 IN AAAA 2001:db8::1"
remote-control:
  control-enable: no
"""


class Setup(NamedTuple):
    """A mode of nodelocal's ``--expand``, and the search path that pods have with it."""

    mode: str
    search: str


class Kind(NamedTuple):
    """A kind of name that a program looks up."""

    title: str
    name: str
    exists: bool = True

    def is_right(self, found: int) -> bool:
        """Tell whether so many addresses are what there is."""
        return found > 0 if self.exists else found == 0


SETUPS: Final = (Setup("off", USUAL), Setup("transparent", USUAL), Setup("explicit", EXPLICIT))
KINDS: Final = (
    Kind("Service, short name", "web"),
    Kind("Service of another namespace", "web.other"),
    Kind("outside name", "www.example.com"),
    Kind("outside name, not there", "no.example.com", exists=False),
    Kind("full cluster name with its dot", "web.other.svc.cluster.local."),
)


# -- resolvers --------------------------------------------------------------------------------------------------------
# Each is a program that reads a name a line and prints the milliseconds of its lookup and the number of addresses
# found: 0 where the name does not exist, -1 where the lookup failed.

GLIBC: Final = """
import socket, sys, time
for line in sys.stdin:
    name = line.strip().encode()
    began = time.perf_counter()
    try:
        found = len(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
    except socket.gaierror as exc:
        found = 0 if exc.errno in (socket.EAI_NONAME, socket.EAI_NODATA) else -1
    print((time.perf_counter() - began) * 1000, found, flush=True)
"""

MUSL: Final = r"""
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
int main(void) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list, *one;
    struct timespec a, b;
    char name[256];
    while (fgets(name, sizeof name, stdin)) {
        name[strcspn(name, "\n")] = 0;
        clock_gettime(CLOCK_MONOTONIC, &a);
        int code = getaddrinfo(name, 0, &hints, &list), found = code == EAI_NONAME ? 0 : -1;
        clock_gettime(CLOCK_MONOTONIC, &b);
        for (one = code ? 0 : list, found += !code; one; one = one->ai_next) found++;
        printf("%f %d\n", (b.tv_sec - a.tv_sec) * 1e3 + (b.tv_nsec - a.tv_nsec) / 1e6, found);
        fflush(stdout);
    }
    return 0;
}
"""

NODE_JS: Final = """
const dns = require('dns').promises;
require('readline').createInterface({input: process.stdin}).on('line', async (name) => {
  const began = process.hrtime.bigint();
  const found = await dns.lookup(name, {all: true}).then((l) => l.length, (e) => e.code === 'ENOTFOUND' ? 0 : -1);
  console.log(Number(process.hrtime.bigint() - began) / 1e6, found);
});
"""

JAVA: Final = """
public class Look {
  public static void main(String[] none) throws Exception {
    for (var what : new String[] {"", "negative."})
      java.security.Security.setProperty("networkaddress.cache." + what + "ttl", "0");
    var lines = new java.io.BufferedReader(new java.io.InputStreamReader(System.in));
    for (String name; (name = lines.readLine()) != null; ) {
      long began = System.nanoTime();
      int found;
      try {
        found = java.net.InetAddress.getAllByName(name).length;
      } catch (java.net.UnknownHostException e) {
        found = e.getMessage().contains("emporary") ? -1 : 0;
      }
      System.out.println((System.nanoTime() - began) / 1e6 + " " + found);
    }
  }
}
"""


def resolvers(report: Report, folder: Path) -> dict[str, list[str]]:
    """Return the commands of the resolvers that are here; of the others tell where they are to be had."""
    found, look = {}, str(folder / "look")
    (folder / "look.c").write_text(MUSL)
    (folder / "Look.java").write_text(JAVA)
    for title, needs, package, make, command, version in (
        ("glibc", "getent", "libc-bin", [], [sys.executable, "-c", GLIBC], ["getent", "--version"]),
        ("musl", "musl-gcc", "musl-tools", ["musl-gcc", "-static", "-o", look, f"{look}.c"], [look],
         ["dpkg-query", "-W", "musl-dev"]),
        ("Node", "node", "nodejs", [], ["node", "-e", NODE_JS], ["node", "--version"]),
        ("Java", "javac", "default-jdk-headless", ["javac", "-d", str(folder), str(folder / "Look.java")],
         ["java", "-cp", str(folder), "Look"], ["java", "-version"]),
    ):  # fmt: skip
        if shutil.which(needs) is None or (title == "glibc" and platform.libc_ver()[0] != title):
            report.note(f"no {title} here: Debian's package {package} has it")
            continue
        if make:
            _run(*make)
        found[title] = command
        report.has_version(title, version_of(version))
    if not found:
        raise BenchError("no resolver to measure here: glibc, musl, Node or Java")
    return found


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise BenchError(f"{' '.join(command)}: {_one_line(done.stderr)}")
    return done.stdout


class Resolver:
    """A resolver at work, as a process of its own."""

    def __init__(self, title: str, command: Sequence[str]) -> None:
        self.title = title
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing, text=True)

    def __enter__(self) -> Resolver:
        return self

    def __exit__(self, *what: object) -> None:
        self._process.kill()
        self._process.communicate()

    def look_up(self, name: str) -> tuple[float, int]:
        """Return the milliseconds of a lookup, and how many addresses were found."""
        assert self._process.stdin is not None  # pipes both
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{name}\n")
            self._process.stdin.flush()
            if select.select([self._process.stdout], [], [], LOOKUP_SECONDS)[0]:
                milliseconds, _, found = self._process.stdout.readline().partition(" ")
                if found:
                    return float(milliseconds), int(found)
        raise BenchError(f"{self.title} did not look {name} up within {LOOKUP_SECONDS:g} s, or ended")


# -- the namespace ----------------------------------------------------------------------------------------------------


class Pod(NamedTuple):
    """A namespace by its *name*, with files of its own, in *etc*, over those of /etc."""

    name: str
    etc: Path

    def prefix(self) -> list[str]:
        """Return what to put before a command to run it there."""
        return ["ip", "netns", "exec", self.name]


@contextlib.contextmanager
def pod_network() -> Iterator[Pod]:
    """Make a namespace with loopback alone; in the end nothing is left of it, nor any process in it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise BenchError("a network namespace is needed: root, and ip of Debian's package iproute2")
    pod = Pod(name := f"kdns-bench-{uuid.uuid4().hex[:8]}", Path("/etc/netns") / name)
    old = {number: signal.signal(number, lambda *_: sys.exit(1)) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "-netns", name, "link", "set", "lo", "up")
        for address in ("192.0.2.2/32", "2001:db8::2/128"):  # AI_ADDRCONFIG wants one of each family beside loopback
            _run("ip", "-netns", name, "address", "add", address, "dev", "lo")
        pod.etc.mkdir(parents=True)
        (pod.etc / "resolv.conf").touch()
        if Path("/etc/nsswitch.conf").exists():  # systemd's resolver listens outside, at a Unix socket
            (pod.etc / "nsswitch.conf").write_text("hosts: files dns\n")
        yield pod
    finally:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *old})  # ip inherits it
        for pid in _run("ip", "netns", "pids", name, check=False).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        shutil.rmtree(pod.etc, ignore_errors=True)
        _run("ip", "netns", "delete", name, check=False)
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def outside(pod: Pod, folder: Path, report: Report) -> Iterator[Path]:
    """Run Unbound there, and give its log."""
    program = shutil.which("unbound") or shutil.which("/usr/sbin/unbound")
    if program is None:
        raise BenchError("the world outside is Unbound's: Debian's package unbound has it")
    report.has_version("unbound", version_of([program, "-V"]))
    conf, log = folder / "unbound.conf", folder / "unbound.log"
    conf.write_text(UNBOUND_CONF.format(outside=OUTSIDE, folder=folder))
    log.touch()
    process = subprocess.Popen([*pod.prefix(), program, "-d", "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        yield log
    finally:
        process.kill()
        process.wait()


# -- measuring --------------------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """What a lookup took: queries by the server that got them."""

    pod: int
    cluster: int
    outside: int
    ms: float

    @property
    def total(self) -> int:
        """All queries."""
        return self.pod + self.cluster + self.outside


Costs = Mapping[tuple[str, Kind, Setup], Sequence[Cost]]
Counts = tuple[int, int, int]


def _counts(node: Kdns, cluster: Kdns, log: Path) -> Counts:
    """Return the queries that each server logged; those for HINFO are nodelocal's probes for loops, not of a lookup."""
    ours, theirs = (len(re.findall(r'"\S+ IN (?!HINFO )\S+ (?:udp|tcp) ', one.output())) for one in (node, cluster))
    return ours, theirs, len(re.findall(r"info: 127\.\S+ \S+ (?!HINFO )\S+ IN", log.read_text()))


def _settled(counts: Callable[[], Counts]) -> Counts:
    last = counts()
    while True:
        time.sleep(SETTLE_SECONDS)
        if (now := counts()) == last:
            return now
        last = now


def _warm(resolver: Resolver) -> None:
    """Look every name up once, as often as it takes until the servers are all there."""
    deadline = time.monotonic() + START_SECONDS
    for kind in KINDS:
        while not kind.is_right(found := resolver.look_up(kind.name)[1]):
            if time.monotonic() > deadline:
                raise BenchError(f"{resolver.title} does not find what it should: {kind.name} has {found} addresses")
            time.sleep(0.05)


def _measure(resolver: Resolver, kind: Kind, control: Path, counts: Callable[[], Counts]) -> Cost:
    """Look a name up once with nothing in nodelocal's cache."""
    (reply,) = request(control, {"do": "flush", "name": None})
    if "error" in reply:
        raise BenchError(f"nodelocal: flush: {reply['error']}")
    before = _settled(counts)
    milliseconds, found = resolver.look_up(kind.name)
    pod, cluster, out = (after - old for after, old in zip(_settled(counts), before, strict=True))
    if not kind.is_right(found):
        raise BenchError(f"{kind.name}: {found} addresses found, which is not what is there")
    if not pod:
        raise BenchError(f"{kind.name} was looked up past nodelocal: is nscd running?")
    return Cost(pod, cluster, out, milliseconds)


def _measured(report: Report, repeats: int) -> Costs:
    costs: dict[tuple[str, Kind, Setup], list[Cost]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kdns-expansion-")))
        pod = stack.enter_context(pod_network())
        found = resolvers(report, folder)
        log = stack.enter_context(outside(pod, folder, report))
        objects = [namespace(), namespace("other"), service("web", "10.96.0.1")]
        objects.append(service("web", "10.96.0.2", namespace="other"))
        manifest = folder / "cluster.json"
        manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        cluster = stack.enter_context(
            kdns("--manifests", manifest, "--log-queries", listen=[f"{CLUSTER}:53"], prefix=pod.prefix(), wait=False)
        )
        cluster.wait_for("synced")
        for setup in SETUPS:
            (pod.etc / "resolv.conf").write_text(RESOLV_CONF.format(node=NODE, search=setup.search))
            control = folder / f"{setup.mode}.sock"
            with nodelocal(
                "--cluster", CLUSTER, "--upstream", OUTSIDE, "--expand", setup.mode, "--log-queries",
                control=control, listen=[f"{NODE}:53"], prefix=pod.prefix(), wait=False,
            ) as node:  # fmt: skip
                node.wait_for("answering")
                counts = partial(_counts, node, cluster, log)
                for title, command in found.items():
                    progress(f"expansion {setup.mode}: {title}, {len(KINDS)} names, {repeats} times each")
                    with Resolver(title, [*pod.prefix(), *command]) as resolver:
                        _warm(resolver)
                        for kind in KINDS:
                            measure = partial(_measure, resolver, kind, control, counts)
                            costs[title, kind, setup] = [measure() for _ in range(repeats)]
    return costs


# -- telling ----------------------------------------------------------------------------------------------------------


HOPS: Final = {"pod": ("from the pod", 1.0), "cluster": ("to the cluster DNS", 0.6), "outside": ("to the outside", 0.3)}
"""What is stacked in a bar: its title, and how dark it is."""

COLUMNS: Final = {
    "resolver": "resolver", "name": "name", "expand": "expand", "pod": "from the pod", "cluster": "to cluster DNS",
    "outside": "outside", "total": "in all", "ms": "ms",
}  # fmt: skip


def _usual(costs: Sequence[Cost]) -> Cost:
    """Return the lookup in the middle by its queries, with the median of all times."""
    middle = sorted(costs, key=lambda cost: cost.total)[len(costs) // 2]
    return middle._replace(ms=round(statistics.median(cost.ms for cost in costs), 2))


def _row(title: str, kind: Kind, setup: Setup, costs: Sequence[Cost]) -> Row:
    usual, totals = _usual(costs), [cost.total for cost in costs]
    return {
        "resolver": title, "kind": kind.title, "name": kind.name, "expand": setup.mode, "lookups": len(costs),
        **usual._asdict(), "total": usual.total, "total_min": min(totals), "total_max": max(totals),
        "ms_min": round(min(cost.ms for cost in costs), 2), "ms_max": round(max(cost.ms for cost in costs), 2),
    }  # fmt: skip


def _summary(costs: Costs, title: str, setup: Setup) -> Row:
    off, some = ([_usual(costs[title, kind, one]) for kind in KINDS] for one in (SETUPS[0], setup))
    pod_off, pod = (sum(cost.pod for cost in each) for each in (off, some))
    all_off, all_some = (sum(cost.total for cost in each) for each in (off, some))
    ratios = {"off ÷ this, from the pod": round(pod_off / pod, 2), "off ÷ this, in all": round(all_off / all_some, 2)}
    return {"resolver": title, "expand": setup.mode, "from the pod": pod, "in all": all_some, **ratios}


def _draw(report: Report, costs: Costs, title: str) -> None:
    width = 0.8 / len(SETUPS)
    with report.figure(f"Queries of one lookup by {title}, nothing cached", "", "queries", size=(10, 5)) as axes:
        for number, setup in enumerate(SETUPS):
            places = [at + (number - (len(SETUPS) - 1) / 2) * width for at in range(len(KINDS))]
            below = [0] * len(KINDS)
            for hop, (_, alpha) in HOPS.items():
                heights = [getattr(_usual(costs[title, kind, setup]), hop) for kind in KINDS]
                axes.bar(places, heights, width * 0.92, bottom=below, color=f"C{number}", alpha=alpha)
                below = [a + b for a, b in zip(below, heights, strict=True)]
            for place, height in zip(places, below, strict=True):
                axes.text(place, height, str(height), ha="center", va="bottom", fontsize=9)
            axes.bar([0], [0], color=f"C{number}", label=f"--expand {setup.mode}")
        for label, alpha in HOPS.values():
            axes.bar([0], [0], color="black", alpha=alpha, label=label)
        axes.set_xticks(range(len(KINDS)), [f"{kind.title}\n{kind.name}" for kind in KINDS], fontsize=8)
        axes.legend()


def run(report: Report, *, repeats: int) -> None:
    """Measure every resolver that is here on every kind of name, *repeats* lookups each, in all set-ups."""
    try:
        costs = _measured(report, repeats)
    except AssertionError as exc:  # a server that did not come up
        raise BenchError(_one_line(str(exc))) from exc
    titles = list(dict.fromkeys(title for title, _, _ in costs))
    report.note(
        f"{repeats} lookups each, with nodelocal's cache flushed before every one; counted in the logs of nodelocal,"
        " kdns and Unbound; ms: the median, as the program sees it, behind one uncounted lookup of every name"
    )
    report.note(f"off and transparent with a pod's usual resolv.conf; explicit with: search {EXPLICIT}")
    keys = [(title, kind, setup) for title in titles for kind in KINDS for setup in SETUPS]
    rows = [_row(*key, costs[key]) for key in keys]
    report.table("queries of one lookup", rows, columns=COLUMNS)
    for row in rows:
        if row["total_min"] != row["total_max"]:
            what = f"{row['resolver']}, {row['name']}, {row['expand']}: {row['total_min']} to {row['total_max']}"
            report.note(f"{what} queries in all; the lookup in the middle is shown")
    together = [_summary(costs, title, setup) for title in titles for setup in SETUPS]
    report.table(f"the {len(KINDS)} names together, one lookup each", together)
    _draw(report, costs, titles[0])


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]
