"""The command line as its user meets it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import dns.rcode
import dns.zone
import psutil
import pytest

from tests.support.client import addresses, lookup, wait_for_addresses
from tests.support.kube import endpoint_slice, pod, service
from tests.support.process import kdns, run_kdns

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."


def test_every_problem_at_once(tmp_path: Path) -> None:
    path = tmp_path / "kdns.toml"
    path.write_text('ttl = 99999\nlisten = ["nowhere"]\nunknown = 1\npods = "maybe"\nupstream = "/no/such/file"\n')
    done = run_kdns(
        "serve",
        "--config",
        path,
        "--namespace-labels",
        "a b",
        "--reverse",
        "10.0.0.1/8",
        "--zone",
        "a..b",
        "--lameduck",
        "x",
    )
    assert done.returncode == 2
    told = done.stderr
    assert f"{path}: ttl: found 99999" in told
    assert f"{path}: listen[0]: found 'nowhere'" in told
    assert f"{path}: unknown: found an unknown key" in told
    assert f"{path}: pods: found 'maybe'; expected disabled, insecure or verified" in told
    assert f"{path}: upstream[0]: found '/no/such/file'" in told
    assert "--namespace-labels: found 'a b'" in told
    assert "--reverse: found '10.0.0.1/8'" in told
    assert "--zone: found 'a..b'" in told
    assert "--lameduck: found 'x'" in told
    assert "source: found none; expected --manifests" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--no-such-flag"], "No such option"),
        (["--manifests", "/no/such/folder"], "--manifests: found '/no/such/folder' (no such file or folder)"),
        (["--kubeconfig", "/no/such/file"], "--kubeconfig: found '/no/such/file' (No such file or directory)"),
        (["--api-server", "nonsense"], "--api-server: found 'nonsense'"),
        (["--zone", "cluster.local in-addr.arpa"], "--zone: found 'cluster.local in-addr.arpa' (' ' is in no name"),
        (
            ["--zone", "bücher.example"],
            "--zone: found 'bücher.example' ('ü' is in no name that is asked for: xn--… is)",
        ),
        (["--rewrite", "a.example==b.example"], "--rewrite: found 'a.example==b.example' ('=' is in no name"),
        (
            ["--api-server", "http://x", "--manifests", "."],
            "source: found --manifests and --api-server; expected one of",
        ),
        (["--context", "x", "--api-server", "http://127.0.0.1:1"], "--context: found no --kubeconfig"),
        (
            ["--manifests", ".", "--listen", "127.0.0.1:53", "--admin", "127.0.0.1:53"],
            "--admin: found 127.0.0.1:53, which --listen has, too; expected an address of its own",
        ),
        (["--config", "/no/such.toml", "--manifests", "."], "--config /no/such.toml: found No such file"),
        (["--namespace", "a", "--namespace-labels", "b", "--manifests", "."], "expected one of the two"),
        (["--upstream", "1.2.3", "--manifests", "."], "--upstream: found '1.2.3'"),
        (["--listen", "127.0.0.1:99999", "--manifests", "."], "--listen: found '127.0.0.1:99999'"),
        (["--listen", "192.0.2.1:5300", "--manifests", "."], "no interface of this machine has the address"),
    ],
)
def test_bad_flags(arguments: list[str], told: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kdns", "serve", "--admin=127.0.0.1:0", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "text",
    ["not yaml: [", "apiVersion: v1\nkind: Config\n", "{}", "apiVersion: v1\ncontexts: []\ncurrent-context: x\n"],
)
def test_bad_kubeconfigs(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    done = run_kdns("serve", "--kubeconfig", path, "--listen=127.0.0.1:0", "--admin=127.0.0.1:0")
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_ports_in_use(manifests: Path) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
    ):
        udp.bind(("127.0.0.1", 0))
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        one, two = udp.getsockname()[1], tcp.getsockname()[1]
        done = run_kdns("serve", "--manifests", manifests, f"--listen=127.0.0.1:{one}", f"--admin=127.0.0.1:{two}")
    assert done.returncode == 2
    assert (
        f"--listen 127.0.0.1:{one} (UDP): found the port is in use by another program; expected a free port"
        in done.stderr
    )
    assert f"--admin 127.0.0.1:{two} (TCP): found the port is in use" in done.stderr


def test_ctrl_c_ends_the_demo(tmp_path: Path) -> None:
    """During the tour and after it, without a traceback, and nothing is left behind."""
    for wanted in ("answering on", "Ctrl-C ends it"):
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "kdns", "demo", "--keep"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        try:
            assert process.stdout is not None
            text = ""
            while wanted not in text:
                line = process.stdout.readline()
                assert line, text
                text += line
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
            assert process.wait(10) == 0
            assert "Traceback" not in rest
            assert not list(tmp_path.iterdir())
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def test_what_the_program_prints_of_a_fault(tmp_path: Path) -> None:
    done = run_kdns("serve", "--manifests", tmp_path, "--endpoints", "none", "--ignore-empty-service")
    assert (done.returncode, "one of the two" in done.stderr) == (2, True)
    (tmp_path / "a.json").write_text(
        json.dumps(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": "80"}]}}
        )
    )
    done = run_kdns("check", "--manifests", tmp_path)
    assert (
        f"kdns: {tmp_path}/a.json: Service default/web: spec.ports[0].port: found a string; expected a whole number"
        in done.stderr
    )
    assert len(done.stderr.splitlines()) == 1
    (tmp_path / "a.json").write_text(json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}))
    done = run_kdns("check", "--manifests", tmp_path)
    assert done.returncode == 0
    assert "Service default/web: no clusterIP, so its name has no address" in done.stderr
    done = run_kdns("check", "--manifests", tmp_path, "--listen", "127.0.0.1:5399", "--upstream", "127.0.0.1:5399")
    assert (done.returncode, "this server itself" in done.stderr) == (2, True)
    conf = tmp_path / "kdns.toml"
    conf.write_text("log_queries = true\n")
    assert "log_queries: found an unknown key; expected log-queries?" in run_kdns("check", "--config", conf).stderr


def test_a_zone_that_cannot_be_written(manifests: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kdns", "zone", "--manifests", str(manifests)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_help_and_version() -> None:
    for command in ([], ["serve"], ["zone"], ["check"], ["demo"]):
        done = run_kdns(*command, "--help")
        assert done.returncode == 0
        assert "Usage: kdns" in done.stdout
    assert "[default: [::]:53]" in run_kdns("serve", "--help").stdout
    assert run_kdns("--version").stdout.startswith("kdns, version ")
    nodelocal = subprocess.run(
        [str(Path(sys.executable).with_name("nodelocal")), "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "Usage: nodelocal" in nodelocal.stdout


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.json").write_text(json.dumps(service("web", "10.96.0.1")))
    conf = tmp_path / "kdns.toml"
    conf.write_text(
        f'manifests = ["{tmp_path / "m"}"]\nttl = 30\nzone = ["a.example", "b.example"]\npods = "insecure"\nignore-empty-service = false\n'
    )
    with kdns("--config", conf, "--zone", "cluster.local") as server:
        server.wait_for("synced")
        assert lookup(server.port, WEB).answer[0].ttl == 30
        assert lookup(server.port, "web.default.svc.a.example.").rcode() == dns.rcode.REFUSED
        assert addresses(server.port, "10-1-2-3.default.pod.cluster.local.") == {"10.1.2.3"}


def test_sigterm_is_a_lame_duck(manifests: Path) -> None:
    with kdns("--manifests", manifests, lameduck=2) as server:
        server.wait_for("synced")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("SIGTERM: unready, answering for 2 s more")
        assert server.page("/ready") == (503, "shutting down")
        assert server.page("/health") == (200, "OK")
        while time.monotonic() - began < 1.5:
            assert addresses(server.port, WEB) == {"10.96.0.1"}
            time.sleep(0.05)
        assert server.process.wait(10) == 0
        assert time.monotonic() - began >= 2
        assert server.output().endswith("kdns: stopped\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_at_once_without_a_lame_duck(manifests: Path, number: int) -> None:
    with kdns("--manifests", manifests) as server:
        server.wait_for("synced")
        began = time.monotonic()
        assert server.stop(number) == 0
        assert time.monotonic() - began < 10
        assert "Traceback" not in server.output()


@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
def test_sighup_without_a_file_ends_nothing(manifests: Path, flags: tuple[str, ...]) -> None:
    with kdns("--manifests", manifests, *flags) as server:
        server.wait_for("synced")
        own = psutil.Process(server.process.pid)
        for process in (*own.children(recursive=True), own):
            process.send_signal(signal.SIGHUP)
        server.wait_for("SIGHUP: without --config there is nothing to read again")
        assert server.page("/ready") == (200, "OK")
        assert server.stop() == 0


def test_a_second_signal_ends_the_lame_duck(manifests: Path) -> None:
    with kdns("--manifests", manifests, lameduck=60) as server:
        server.wait_for("synced")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("SIGTERM")
        assert server.stop(signal.SIGTERM) == 0


def test_query_log(manifests: Path) -> None:
    with kdns("--manifests", manifests, "--log-queries") as server:
        server.wait_for("synced")
        for _ in range(5):
            assert addresses(server.port, WEB) == {"10.96.0.1"}
        line = rf'\[INFO\] 127.0.0.1:\d+ - \d+ "A IN {WEB} udp 58 false 1232" NOERROR qr,aa,rd 74 0\.\d+s'
        server.wait_for(line, times=5)
        lookup(server.port, "a\\010b.default.svc.cluster.local.", tcp=True)
        server.wait_for(r'"A IN a\\010b.default.svc.cluster.local. tcp ')
    with kdns("--manifests", manifests, "--log-queries", "--log-format", "json") as server:
        server.wait_for("synced")
        lookup(server.port, "no.default.svc.cluster.local.")
        text = server.wait_for(r'\{.*"no\.default.*\}')[0]
        row = json.loads(text)
        assert (row["name"], row["type"], row["rcode"], row["proto"]) == (
            "no.default.svc.cluster.local.",
            "A",
            "NXDOMAIN",
            "udp",
        )


def test_metrics(manifests: Path) -> None:
    with kdns("--manifests", manifests) as server:
        server.wait_for("synced")
        for _ in range(6):
            addresses(server.port, WEB)
            lookup(server.port, "no.default.svc.cluster.local.", "AAAA", tcp=True)
        lookup(server.port, "example.org.")
        for _ in range(4):
            lookup(server.port, "huge.default.svc.cluster.local.", tcp=True)
        page = server.page("/metrics")[1]
        label = r'server="dns://127.0.0.1:\d+",'
        kube = 'view="",zone="cluster.local."'
        assert re.search(rf'coredns_dns_requests_total{{family="1",proto="udp",{label}type="A",{kube}}} 6.0', page)
        assert re.search(rf'coredns_dns_requests_total{{family="1",proto="tcp",{label}type="AAAA",{kube}}} 6.0', page)
        assert re.search(
            rf'coredns_dns_responses_total{{plugin="kubernetes",rcode="NXDOMAIN",{label}{kube}}} 6.0', page
        )
        assert re.search(
            rf'coredns_dns_responses_total{{plugin="",rcode="REFUSED",{label}view="",zone="dropped"}} 1.0', page
        )
        assert re.search(rf"coredns_dns_request_duration_seconds_count{{{label}{kube}}} 16.0", page)
        assert re.search(rf'coredns_dns_request_size_bytes_bucket{{le="100.0",proto="udp",{label}{kube}}} 6.0', page)
        assert 'kdns_truncated_responses_total{proto="tcp"} 4.0' in page
        for name in (
            "coredns_build_info",
            "coredns_panics_total 0.0",
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
            "kdns_objects",
        ):
            assert name in page
        assert server.page("/other")[0] == 404


def zone_text(*arguments: str | Path) -> str:
    done = run_kdns("zone", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything that a zone can hold."""
    folder = tmp_path_factory.mktemp("rich")
    dual = service("dual", "10.96.0.2")
    dual["spec"]["clusterIPs"] = ["10.96.0.2", "fd00::2"]
    items = [
        service("web", "10.96.0.1"),
        dual,
        service("db"),
        endpoint_slice("db", "10.1.0.1", "10.1.0.2"),
        endpoint_slice("db", "fd00::1", name="db-6"),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "ext"},
            "spec": {"type": "ExternalName", "externalName": "www.example.com"},
        },
        pod("p", "10.1.0.9"),
    ]
    (folder / "all.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    return folder


@pytest.mark.parametrize("origin", ["cluster.local", "in-addr.arpa", "ip6.arpa"])
def test_a_zone_is_a_master_file(rich: Path, origin: str, tmp_path: Path) -> None:
    text = zone_text(origin, "--manifests", rich, "--pods", "verified")
    zone = dns.zone.from_text(text, origin)
    assert zone.get_soa().minimum == 5
    if origin == "cluster.local":
        assert {rdata.address for rdata in zone.find_rdataset("db.default.svc", "A")} == {"10.1.0.1", "10.1.0.2"}
        assert zone.find_rdataset("10-1-0-9.default.pod", "A")
        assert len(zone.find_rdataset("_http._tcp.db.default.svc", "SRV")) == 3
    else:
        assert len([1 for _, rdataset in zone.iterate_rdatasets("PTR")]) == (5 if origin == "in-addr.arpa" else 2) - (
            1 if origin == "in-addr.arpa" else 0
        )
    path = tmp_path / "zone"
    path.write_text(text)
    if (tool := shutil.which("named-checkzone") or shutil.which("/usr/sbin/named-checkzone")) is not None:
        done = subprocess.run([tool, origin, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    if (tool := shutil.which("nsd-checkzone") or shutil.which("/usr/sbin/nsd-checkzone")) is not None:
        done = subprocess.run([tool, origin, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_record_of_a_zone_is_what_the_server_answers(rich: Path) -> None:
    with kdns("--manifests", rich, "--pods", "verified") as server:
        server.wait_for("synced")
        for origin in ("cluster.local", "in-addr.arpa", "ip6.arpa"):
            zone = dns.zone.from_text(
                zone_text(origin, "--manifests", rich, "--pods", "verified"), origin, relativize=False
            )
            for name, rdataset in zone.iterate_rdatasets():
                if rdataset.rdtype in (2, 6) or name.to_text().startswith("ns.dns"):
                    continue  # these name the listener's addresses and the time
                reply = lookup(server.port, name.to_text(), dns.rdatatype.to_text(rdataset.rdtype))
                assert set(reply.answer[0]) == set(rdataset), name


def test_a_zone_that_is_not_served(rich: Path) -> None:
    done = run_kdns("zone", "example.com", "--manifests", rich)
    assert done.returncode == 2
    assert (
        "ORIGIN: found example.com.; expected a zone that is served: cluster.local., in-addr.arpa., ip6.arpa."
        in done.stderr
    )


def test_the_demo_ends_with_0_and_shows_its_answers(tmp_path: Path) -> None:
    done = run_kdns("demo", env={"TMPDIR": str(tmp_path)})
    for answer in ("10.245.0.7", "203.0.113.80", "192.0.2.7"):
        assert answer in done.stdout
    assert done.returncode == 0, done.stderr
    assert "10.96.0.80" in done.stdout
    assert re.search(r"the answer followed \d+ ms after", done.stdout)
    assert "The tour is over." in done.stdout
    assert not done.stderr
    assert not list(tmp_path.iterdir())


def test_the_serial_moves_with_what_is_visible_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(service("web", "10.96.0.1")))

    def serial(port: int) -> int:
        return int(lookup(port, "cluster.local.", "SOA").answer[0][0].serial)

    with kdns("--manifests", tmp_path) as server:
        server.wait_for("synced")
        time.sleep(2.1)
        before = serial(server.port)
        path.write_text(json.dumps(service("web", "10.96.0.1", labels={"new": "label"})))
        time.sleep(1.5)
        assert serial(server.port) == before
        for _ in range(4):
            serial(server.port)
        path.write_text(json.dumps(service("web", "10.96.0.2")))
        wait_for_addresses(server.port, WEB, {"10.96.0.2"})
        server.wait_until(lambda: serial(server.port) > before)
        assert abs(serial(server.port) - time.time()) < 3
