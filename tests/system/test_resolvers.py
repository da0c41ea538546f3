"""Real resolvers pointed at kdns: glibc through a resolv.conf in a network namespace, dig, musl, Node, Java."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netns import Namespace, namespace, needs_netns
from tests.support.process import Kdns, kdns

pytestmark = [pytest.mark.system, pytest.mark.root, needs_netns]

RESOLV_CONF = "nameserver 127.0.0.53\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5 timeout:2 attempts:1\n"


@pytest.fixture(scope="module")
def pod(manifests: Path) -> Iterator[tuple[Namespace, Kdns]]:
    with (
        namespace(RESOLV_CONF) as made,
        kdns(
            "--manifests", manifests, "--pods", "insecure", listen=["127.0.0.53:53"], prefix=made.prefix(), wait=False
        ) as server,
    ):
        server.wait_for("synced")
        yield made, server


def test_glibc_walks_its_search_path(pod: tuple[Namespace, Kdns]) -> None:
    made, _ = pod
    for name in (
        "web",
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
        "web.default.svc.cluster.local.",
    ):
        done = made.run("getent", "ahostsv4", name)
        assert done.returncode == 0, name
        assert done.stdout.split()[0] == "10.96.0.1"
    assert {line.split()[0] for line in made.run("getent", "ahostsv4", "db").stdout.splitlines()} == {
        "10.1.0.0",
        "10.1.0.1",
        "10.1.0.2",
    }
    assert made.run("getent", "hosts", "10.96.0.1").stdout.split()[1] == "web.default.svc.cluster.local"
    assert made.run("getent", "ahosts", "no-such-service").returncode == 2


def test_glibc_gets_large_answers_over_tcp(pod: tuple[Namespace, Kdns]) -> None:
    made, _ = pod
    assert len({line.split()[0] for line in made.run("getent", "ahostsv4", "big").stdout.splitlines()}) == 200


@pytest.mark.skipif(shutil.which("dig") is None, reason="needs Debian's package bind9-dnsutils")
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig(pod: tuple[Namespace, Kdns], transport: str) -> None:
    made, _ = pod

    def dig(*arguments: str) -> str:
        return made.run("dig", transport, "+nocookie", "@127.0.0.53", *arguments).stdout

    assert "10.96.0.1" in dig("+short", "web.default.svc.cluster.local")
    text = dig("_http._tcp.web.default.svc.cluster.local", "SRV")
    assert "status: NOERROR" in text
    assert "flags: qr aa rd;" in text
    assert "0 100 80 web.default.svc.cluster.local." in text
    assert "status: BADVERS" in dig("+edns=100", "+noednsneg", "web.default.svc.cluster.local")
    assert "status: NXDOMAIN" in dig("no.default.svc.cluster.local")
    complaints = [line for line in text.splitlines() if "WARNING" in line or "malformed" in line]
    assert [line for line in complaints if "recursion requested" not in line and "Multicast" not in line] == []


MUSL = r"""
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    char text[64];
    int code = getaddrinfo(argv[1], 0, &hints, &found);
    if (code) return puts(gai_strerror(code)), 1;
    for (; found; found = found->ai_next)
        puts(inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text));
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("musl-gcc") is None, reason="needs Debian's package musl-tools")
def test_musl(pod: tuple[Namespace, Kdns], tmp_path: Path) -> None:
    made, _ = pod
    (tmp_path / "look.c").write_text(MUSL)
    subprocess.run(["musl-gcc", "-static", "-o", str(tmp_path / "look"), str(tmp_path / "look.c")], check=True)
    assert made.run(str(tmp_path / "look"), "web").stdout == "10.96.0.1\n"
    assert sorted(made.run(str(tmp_path / "look"), "db").stdout.split()) == ["10.1.0.0", "10.1.0.1", "10.1.0.2"]
    assert made.run(str(tmp_path / "look"), "no-such-service").returncode == 1


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_node(pod: tuple[Namespace, Kdns]) -> None:
    """Node's own resolver, c-ares, which asks for SRV as well."""
    made, _ = pod
    script = "require('dns').promises.resolveSrv('_http._tcp.web.default.svc.cluster.local').then(r => console.log(JSON.stringify(r)))"
    assert '"port":80' in made.run("node", "-e", script).stdout


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_java(pod: tuple[Namespace, Kdns], tmp_path: Path) -> None:
    """Java's DNS provider of JNDI: a resolver written in Java, over UDP."""
    made, _ = pod
    source = tmp_path / "Look.java"
    source.write_text(
        "public class Look { public static void main(String[] a) throws Exception {"
        " var env = new java.util.Hashtable<String, String>();"
        ' env.put("java.naming.factory.initial", "com.sun.jndi.dns.DnsContextFactory");'
        ' env.put("java.naming.provider.url", "dns://127.0.0.53");'
        " System.out.println(new javax.naming.directory.InitialDirContext(env).getAttributes(a[0], new String[] {a[1]})); } }"
    )
    assert "10.96.0.1" in made.run("java", str(source), "web.default.svc.cluster.local", "A", timeout=90).stdout
