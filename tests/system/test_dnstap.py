"""``--dnstap``: what comes and goes, as BIND's and farsight's own tools read it; a collector that is no help harms nobody."""

from __future__ import annotations

import datetime
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.query
import pytest
import yaml

from kdns.proto.dnstap import Control, control_frame
from tests.support.client import ask_udp
from tests.support.kube import namespace, service
from tests.support.process import Kdns, kdns, nodelocal, run_kdns
from tests.support.secondary import free_port

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."
OUTSIDE = "a.lab."

needs_tools = pytest.mark.skipif(
    shutil.which("fstrm_capture") is None or shutil.which("dnstap-read") is None,
    reason="no fstrm_capture or no dnstap-read here (packages fstrm-bin, bind9-utils)",
)


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    path = tmp_path / "objects.yaml"
    path.write_text(yaml.safe_dump_all([namespace(), service("web", "10.96.0.1")]))
    return path


@contextmanager
def captured(file: Path, *where: str) -> Iterator[None]:
    """Have fstrm_capture collect into *file*."""
    command = ["fstrm_capture", "-t", "protobuf:dnstap.Dnstap", *where, "-w", str(file)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def lines(file: Path) -> list[str]:
    """Return what BIND's tool makes of a capture: time, sort, addresses, what it came over, octets, question."""
    done = subprocess.run(["dnstap-read", str(file)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return [line.split(maxsplit=2)[2] for line in done.stdout.splitlines()]


def metric(server: Kdns, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", server.page("/metrics")[1], re.M)
    assert found, name
    return float(found[1])


def stop(server: Kdns, count: int) -> None:
    """End it once the collector has taken so many messages: while there is none there is nobody to say good-bye to."""
    server.wait_until(lambda: metric(server, "kdns_dnstap_sent_total") >= count)
    assert server.stop() == 0


def ask(server: Kdns, name: str, *, over_tcp: bool = False) -> dns.message.Message:
    send = dns.query.tcp if over_tcp else dns.query.udp
    return send(dns.message.make_query(name, "A"), "127.0.0.1", port=server.port, timeout=5)


@needs_tools
@pytest.mark.parametrize("workers", [1, 2])
def test_what_comes_and_goes_by_a_unix_socket(manifests: Path, tmp_path: Path, workers: int) -> None:
    outside = ("--manifests", manifests, "--record", f"{OUTSIDE} 60 A 192.0.2.9", "--external-zone", "lab")
    with captured(tmp_path / "tap", "-u", str(tmp_path / "s")), kdns(*outside) as upstream:
        time.sleep(0.3)
        with kdns(
            "--manifests", manifests, "--upstream", f"127.0.0.1:{upstream.port}", "--workers", str(workers),
            "--dnstap", f"unix:{tmp_path / 's'}",
        ) as server:  # fmt: skip
            server.wait_for("synced after")
            for _ in range(10):
                ask(server, WEB)
            ask(server, WEB, over_tcp=True)
            assert ask(server, OUTSIDE).answer
            ask_udp(server.port, b"\1\2\3", quiet=True)  # no answer
            stop(server, 27)
    counts = Counter((line.split()[0], line.split()[-1]) for line in lines(tmp_path / "tap"))
    web, outside_name = f"{WEB.rstrip('.')}/IN/A", f"{OUTSIDE.rstrip('.')}/IN/A"
    assert counts["CQ", web] == counts["CR", web] >= 11  # the last question of all may be a wait of the test's
    assert counts["CQ", outside_name] == counts["CR", outside_name] == 1
    assert counts["FQ", outside_name] == counts["FR", outside_name] == 1
    found = lines(tmp_path / "tap")
    assert sum(" TCP " in line and line.startswith("CR") for line in found) == 1
    asked = next(line for line in found if line.startswith("FQ"))
    assert f"-> 127.0.0.1:{upstream.port} UDP" in asked


@needs_tools
def test_every_field_of_a_response(manifests: Path, tmp_path: Path) -> None:
    began = time.time()
    port = free_port()
    with captured(tmp_path / "tap", "-a", "127.0.0.1", "-p", str(port)):
        time.sleep(0.3)
        with kdns("--manifests", manifests, "--dnstap", f"tcp://127.0.0.1:{port}") as server:
            query = dns.message.make_query(WEB, "A", id=4711)
            reply = dns.query.udp(query, "127.0.0.1", port=server.port, source_port=(source := free_port()))
            stop(server, 2)
    done = subprocess.run(["dnstap-read", "-y", str(tmp_path / "tap")], capture_output=True, text=True, timeout=30)
    (message,) = [
        one
        for one in yaml.safe_load_all(done.stdout)
        if one and one["message"].get("response_message_data", {}).get("id") == 4711
    ]
    body = message["message"]
    assert message["type"] == "MESSAGE"
    assert message["identity"] == socket.gethostname()
    assert message["version"].startswith("kdns ")
    assert (body["type"], body["socket_family"], body["socket_protocol"]) == ("CLIENT_RESPONSE", "INET", "UDP")
    assert (body["query_address"], body["query_port"]) == ("127.0.0.1", source)
    asked = next(
        one["message"] for one in yaml.safe_load_all(done.stdout) if one and one["message"]["type"] == "CLIENT_QUERY"
    )
    times = [at.replace(tzinfo=datetime.UTC).timestamp() for at in (asked["query_time"], body["response_time"])]
    assert int(began) <= times[0] <= times[1] < time.time(), "in whole seconds, as the tool shows them"
    assert body["response_message_data"]["ANSWER_SECTION"] == [reply.answer[0].to_text()]


@needs_tools
def test_nodelocal_tells_of_clients_and_upstreams(manifests: Path, tmp_path: Path) -> None:
    with captured(tmp_path / "tap", "-u", str(tmp_path / "s")), kdns("--manifests", manifests) as cluster:
        time.sleep(0.3)
        with nodelocal("--cluster", f"127.0.0.1:{cluster.port}", "--dnstap", f"unix:{tmp_path / 's'}") as server:
            for _ in range(3):
                ask(server, WEB)
            stop(server, 8)
    counts = Counter(line.split()[0] for line in lines(tmp_path / "tap") if line.endswith(f"{WEB.rstrip('.')}/IN/A"))
    assert counts["CQ"] == counts["CR"] == 3
    assert counts["FQ"] == counts["FR"] >= 1, "asked once, then cached (and perhaps once more by a subscription)"
    assert any(line.startswith("FR") and " TCP " in line for line in lines(tmp_path / "tap"))


@needs_tools
def test_a_collector_may_come_late_and_go(manifests: Path, tmp_path: Path) -> None:
    with kdns("--manifests", manifests, "--dnstap", f"unix:{tmp_path / 's'}") as server:
        server.wait_for(r"dnstap: unix:\S+: .*No such file.*; trying again")
        assert ask(server, WEB).answer
        assert "dnstap" in server.page("/ready")[1]
        assert server.page("/ready")[0] == 200
        with captured(tmp_path / "one", "-u", str(tmp_path / "s")):
            server.wait_for("takes messages again")
            server.wait_until(lambda: metric(server, "kdns_dnstap_sent_total") >= 2)
        server.wait_until(lambda: "dnstap" in server.page("/ready")[1])
        sent = metric(server, "kdns_dnstap_sent_total")
        with captured(tmp_path / "two", "-u", str(tmp_path / "s")):
            server.wait_for("takes messages again", times=2)
            ask(server, WEB)
            server.wait_until(lambda: metric(server, "kdns_dnstap_sent_total") >= sent + 2)
            server.stop()
    assert lines(tmp_path / "one")
    assert lines(tmp_path / "two")


@contextmanager
def collector(path: Path, say: Sequence[bytes], *, reads: bool = False) -> Iterator[None]:
    """Listen at *path*, say that to whoever comes, and then do nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        kept = []

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                kept.append(sock)
                for octets in say:
                    sock.sendall(octets)
                if not say:
                    sock.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for sock in kept:
                sock.close()


def test_a_collector_that_never_reads_costs_a_bounded_buffer_and_no_answer(
    manifests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        collector(tmp_path / "s", [control_frame(Control.ACCEPT)]),
        kdns("--manifests", manifests, "--dnstap", f"unix:{tmp_path / 's'}") as server,
    ):
        wire = dns.message.make_query(WEB, "A", payload=1232).to_wire()
        padded = wire[:-2] + (900).to_bytes(2, "big") + b"\0\x0c" + (896).to_bytes(2, "big") + bytes(896)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", server.port))
            sock.settimeout(5)
            for _ in range(10_000):  # some 11 MB of messages
                sock.send(padded)
                assert sock.recv(4096)[3] & 15 == 0
        assert metric(server, "kdns_dnstap_dropped_total") > 0
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "said",
    [
        [],
        [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        [control_frame(Control.FINISH)],
        [control_frame(Control.ACCEPT).replace(b"dnstap.Dnstap", b"other.Message")],
        [bytes(4) + (2**31).to_bytes(4, "big")],
        [bytes(4) + (4).to_bytes(4, "big") + (77).to_bytes(4, "big")],
        [control_frame(Control.ACCEPT), b"and more"],
    ],
)
def test_a_collector_that_says_nonsense(manifests: Path, tmp_path: Path, said: list[bytes]) -> None:
    with collector(tmp_path / "s", said), kdns("--manifests", manifests, "--dnstap", str(tmp_path / "s")) as server:
        server.wait_for("dnstap: .*; trying again")
        assert ask(server, WEB).answer
        assert "Traceback" not in server.output()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("s", "no absolute path"),
        ("tcp://", "no address"),
        ("tcp://host:1", ""),
        ("tcp://127.0.0.1:0", "port 0"),
        ("unix:", "no absolute"),
    ],
)
def test_what_is_no_collector(manifests: Path, value: str, why: str) -> None:
    done = run_kdns("check", "--manifests", manifests, "--dnstap", value)
    assert done.returncode == 2
    assert f"--dnstap: found {value!r}" in done.stderr
    assert why in done.stderr
    assert "expected unix: and an absolute path, or tcp://ADDR:PORT" in done.stderr
