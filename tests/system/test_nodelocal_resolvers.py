"""Real resolvers behind nodelocal: glibc, musl, Node, Java, through a pod's resolv.conf, with every query counted."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netns import Namespace, namespace, needs_netns
from tests.support.process import Kdns, kdns, nodelocal, run_kdns
from tests.system.test_resolvers import MUSL

pytestmark = [pytest.mark.system, pytest.mark.root, pytest.mark.peer, needs_netns]

RESOLV_CONF = """\
nameserver 127.0.0.53
search default.svc.cluster.local svc.cluster.local cluster.local corp.test
options ndots:5 timeout:2 attempts:1
"""

UNBOUND = """\
server:
  interface: 127.0.0.2@53
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
  local-data: "four.example.com. 60 IN A 192.0.2.4"
  local-zone: "corp.test." static
  local-data: "corp.test. 60 IN SOA ns.corp.test. h.corp.test. 1 3600 600 86400 60"
  local-data: "git.corp.test. 60 IN A 192.0.2.9"
remote-control:
  control-enable: no
"""


class Pod:
    """A namespace with a pod's resolv.conf, kdns, nodelocal in front of it, and a real Unbound outside."""

    def __init__(self, net: Namespace, cluster: Kdns, server: Kdns, log: Path) -> None:
        self.net = net
        self.cluster = cluster
        self.server = server
        self._log = log

    def forget(self) -> None:
        """Empty the cache."""
        arguments = self.server.process.args
        assert isinstance(arguments, list)
        done = run_kdns("flush", "--control", arguments[arguments.index("--control") + 1], program="nodelocal")
        assert done.returncode == 0, done.stderr

    def counts(self) -> tuple[int, int, list[str]]:
        """Return the queries that nodelocal got, that kdns got, and those that Unbound got."""
        outside = re.findall(r"info: 127\.0\.0\.\d+ (\S+) (\S+) IN", self._log.read_text())
        lines = [f"{name} {kind}" for name, kind in outside if kind != "HINFO"]
        return len(self._queries(self.server)), len(self._queries(self.cluster)), lines

    @staticmethod
    def _queries(process: Kdns) -> list[str]:
        return [
            line
            for line in re.findall(r'"(\S+ IN \S+) udp|"(\S+ IN \S+) tcp', process.output())
            if "HINFO" not in str(line)
        ]


@pytest.fixture(scope="module")
def pod(manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    unbound = shutil.which("unbound") or shutil.which("/usr/sbin/unbound")
    if unbound is None:
        pytest.skip("needs Debian's package unbound")
    folder = tmp_path_factory.mktemp("unbound")
    (folder / "unbound.conf").write_text(UNBOUND.format(folder=folder))
    (folder / "unbound.log").touch()
    with namespace(RESOLV_CONF) as net:
        peer = subprocess.Popen([*net.prefix(), unbound, "-d", "-c", str(folder / "unbound.conf")])
        try:
            with (
                kdns("--manifests", manifests, "--log-queries", listen=["127.0.0.10:53"], prefix=net.prefix(), wait=False) as cluster,
                nodelocal(
                    "--cluster", "127.0.0.10", "--upstream", "127.0.0.2", "--search", "corp.test", "--log-queries",
                    listen=["127.0.0.53:53"], prefix=net.prefix(), wait=False,
                ) as server,
            ):  # fmt: skip
                cluster.wait_for("synced")
                server.wait_for("answering")
                made = Pod(net, cluster, server, folder / "unbound.log")
                server.wait_until(lambda: net.run("getent", "ahostsv4", "web").returncode == 0)
                server.wait_until(lambda: net.run("getent", "ahostsv4", "www.example.com").returncode == 0)
                yield made
                assert "Traceback" not in server.output()
        finally:
            peer.terminate()
            peer.wait(10)


def lines(text: str) -> set[str]:
    return {line.split()[0] for line in text.splitlines() if line}


def test_glibc_asks_two_queries_for_an_outside_name_instead_of_ten(pod: Pod) -> None:
    """A and AAAA from the client; outside at most one denial of the host's domain, then A and AAAA; two to kdns."""
    pod.forget()
    client, cluster, outside = pod.counts()
    found = pod.net.run("getent", "ahosts", "www.example.com")
    assert lines(found.stdout) == {"192.0.2.1", "2001:db8::1"}
    after_client, after_cluster, after_outside = pod.counts()
    assert after_client - client == 2
    assert after_cluster - cluster <= 2
    new = after_outside[len(outside) :]
    assert sorted(new) == sorted(["www.example.com.corp.test. A", "www.example.com. A", "www.example.com. AAAA"]) or (
        sorted(new) == sorted(["www.example.com.corp.test. AAAA", "www.example.com. A", "www.example.com. AAAA"])
    )
    again = pod.net.run("getent", "ahosts", "www.example.com")
    assert lines(again.stdout) == {"192.0.2.1", "2001:db8::1"}
    assert pod.counts()[2] == after_outside, "once per TTL"


def test_the_same_without_expansion_takes_ten(pod: Pod) -> None:
    """What the walk costs where nobody walks it for the client."""
    client, _, _ = pod.counts()
    conf = Path("/etc/netns") / pod.net.name / "resolv.conf"
    usual = conf.read_text()
    conf.write_text(usual.replace("127.0.0.53", "127.0.0.10"))
    try:
        before = pod.counts()[1]
        pod.net.run("getent", "ahosts", "www.example.com")
        assert pod.counts()[1] - before >= 8, "kdns alone: every step of the search path, twice"
    finally:
        conf.write_text(usual)
    assert pod.counts()[0] == client


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("web", {"10.96.0.1"}),
        ("web.default", {"10.96.0.1"}),
        ("web.default.svc", {"10.96.0.1"}),
        ("web.default.svc.cluster.local", {"10.96.0.1"}),
        ("web.default.svc.cluster.local.", {"10.96.0.1"}),
        ("db", {"10.1.0.0", "10.1.0.1", "10.1.0.2"}),
        ("git", {"192.0.2.9"}),
        ("git.corp.test", {"192.0.2.9"}),
        ("four.example.com", {"192.0.2.4"}),
        ("www.example.com.", {"192.0.2.1"}),
        ("ext", {"192.0.2.1"}),  # an ExternalName of the cluster, resolved outside
    ],
)
def test_glibc_finds_what_it_should(pod: Pod, name: str, addresses: set[str]) -> None:
    found = pod.net.run("getent", "ahostsv4", name)
    assert lines(found.stdout) == addresses
    assert found.returncode == 0


@pytest.mark.parametrize("name", ["no", "no.default", "no.example.com", "no.corp.test", "a.b.c.d.e.f.example.com"])
def test_glibc_does_not_find_what_is_not_there(pod: Pod, name: str) -> None:
    assert pod.net.run("getent", "ahosts", name).returncode == 2


def test_a_name_of_one_family_is_found_without_waiting(pod: Pod) -> None:
    """glibc asks for A and AAAA at once: NODATA for one must not hide the other."""
    pod.forget()
    found = pod.net.run("getent", "ahosts", "four.example.com")
    assert lines(found.stdout) == {"192.0.2.4"}


@pytest.mark.skipif(shutil.which("musl-gcc") is None, reason="needs Debian's package musl-tools")
def test_musl(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "look.c").write_text(MUSL)
    subprocess.run(["musl-gcc", "-static", "-o", str(tmp_path / "look"), str(tmp_path / "look.c")], check=True)
    for name, addresses in (
        ("web", ["10.96.0.1"]),
        ("db", ["10.1.0.0", "10.1.0.1", "10.1.0.2"]),
        ("www.example.com", ["192.0.2.1"]),
        ("git", ["192.0.2.9"]),
    ):
        pod.forget()
        client, _, _ = pod.counts()
        assert sorted(pod.net.run(str(tmp_path / "look"), name).stdout.split()) == addresses
        if name == "www.example.com":
            assert pod.counts()[0] - client == 1, "musl asks for A alone here, once"
    assert pod.net.run(str(tmp_path / "look"), "no.example.com").returncode == 1


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_node(pod: Pod) -> None:
    """Node's lookup is glibc's; its resolver is c-ares, which walks search paths in its own way."""
    script = (
        "const dns = require('dns').promises;"
        "(async () => { console.log(JSON.stringify([await dns.lookup('www.example.com', {family: 4}),"
        " await dns.resolve4('web.default.svc.cluster.local'), await dns.resolve6('www.example.com')])) })()"
    )
    found, inside, six = json.loads(pod.net.run("node", "-e", script).stdout)
    assert found["address"] == "192.0.2.1"
    assert inside == ["10.96.0.1"]
    assert six == ["2001:db8::1"]


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_java(pod: Pod, tmp_path: Path) -> None:
    source = tmp_path / "Look.java"
    source.write_text(
        "public class Look { public static void main(String[] a) throws Exception {"
        " for (String name : a) for (var found : java.net.InetAddress.getAllByName(name))"
        " System.out.println(name + ' ' + found.getHostAddress()); } }".replace("' '", '" "')
    )
    done = pod.net.run("java", str(source), "web", "www.example.com", timeout=90)
    assert "web 10.96.0.1" in done.stdout, done.stderr
    assert "www.example.com 192.0.2.1" in done.stdout
