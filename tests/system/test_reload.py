"""``--config`` followed: a good file is swapped in without losing a question, a bad one changes nothing."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import psutil
import pytest
import trustme
import yaml

from tests.support.api_server import ApiServer
from tests.support.kube import namespace, service
from tests.support.process import Kdns, kdns, nodelocal, run_kdns, wait_until
from tests.support.secondary import free_port

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all([namespace(), service("web", "10.96.0.1")]))
    path = tmp_path / "kdns.toml"
    write(path, f'manifests = ["{tmp_path / "objects.yaml"}"]', "ttl = 5")
    return path


def write(path: Path, *lines: str) -> None:
    """Write a file as editors and kubelets do: another one in its place."""
    part = path.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n")
    part.replace(path)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    write(path, text.replace(old, new))


def ttl(server: Kdns, name: str = WEB) -> int:
    """Return the TTL of the answer; -1 without one."""
    reply = dns.query.udp(dns.message.make_query(name, "A"), "127.0.0.1", port=server.port, timeout=5)
    return reply.answer[0].ttl if reply.answer else -1


def metric(server: Kdns, name: str) -> float:
    found = re.search(rf"^{name}(?:{{.*}})? (\S+)$", server.page("/metrics")[1], re.M)
    assert found, name
    return float(found[1])


@contextmanager
def asked_all_the_time(server: Kdns, name: str = WEB, *, seconds: float = 5.0) -> Iterator[list[str]]:
    """Ask again and again, over UDP and a new TCP connection each time; the list is of what came, in order."""
    found: list[str] = []
    end = threading.Event()

    def ask() -> None:
        question = dns.message.make_query(name, "A")
        while not end.is_set():
            for send in (dns.query.udp, dns.query.udp, dns.query.udp, dns.query.tcp):
                try:
                    reply = send(question, "127.0.0.1", port=server.port, timeout=seconds)
                except (dns.exception.DNSException, OSError, EOFError) as exc:
                    found.append(f"lost: {exc!r}")
                else:
                    found.append(" ".join(rrset.to_text() for rrset in reply.answer) or str(reply.rcode()))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        end.set()
        thread.join()


@contextmanager
def probed_all_the_time(server: Kdns) -> Iterator[list[tuple[int, str]]]:
    """Ask for /ready again and again, as a kubelet does more slowly."""
    found: list[tuple[int, str]] = []
    end = threading.Event()

    def probe() -> None:
        while not end.wait(0.005):
            try:
                found.append(server.page("/ready"))
            except (OSError, HTTPException) as exc:
                found.append((0, repr(exc)))

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        end.set()
        thread.join()


def assert_ready(probes: list[tuple[int, str]], reloads: int) -> None:
    """Unready is a program, not a part of it that is replaced. A connection made in the instant of a hand-over may be cut."""
    cut = [text for code, text in probes if not code]
    assert {code for code, _ in probes} <= {200, 0}, [probe for probe in probes if probe[0] != 200]
    assert len(cut) <= reloads, cut


def runs(found: list[str]) -> list[str]:
    """Return *found* with what comes again and again said once."""
    return [one for at, one in enumerate(found) if not at or found[at - 1] != one]


# -- kdns ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_changed_file_is_swapped_in_and_no_question_is_lost(config: Path, workers: int) -> None:
    with kdns("--config", config, "--workers", str(workers)) as server:
        server.wait_until(lambda: server.page("/ready") == (200, "OK"))
        with asked_all_the_time(server) as found, probed_all_the_time(server) as probes:
            time.sleep(0.2)
            for new in (6, 7, 8):
                change(config, f"ttl = {new - 1}", f"ttl = {new}")
                server.wait_until(lambda new=new: ttl(server) == new)  # type: ignore[misc]
            time.sleep(0.7)
        server.wait_for("the new configuration is in use", times=3)
        kinds = {re.sub(r" (\d+) IN", " TTL IN", one) for one in found}
        assert kinds == {f"{WEB} TTL IN A 10.96.0.1"}
        ttls = [int(re.findall(r" (\d+) IN", one)[0]) for one in found]
        assert ttls[-1] == 8
        assert_ready(probes, 3)
        late = [at for at, one in enumerate(ttls) if any(other > one for other in ttls[:at])]
        assert len(late) <= 3 * 20, "the one before goes on answering for an instant, not for long"
        server.wait_until(lambda: metric(server, "kdns_reloads_total") == 3)
        assert metric(server, "coredns_reload_failed_total") == 0
        assert server.page("/ready") == (200, "OK")
        server.wait_until(lambda: len(psutil.Process(server.process.pid).children()) == 1)  # those before have gone


def test_a_bad_file_keeps_what_there_is_and_every_problem_is_told(config: Path) -> None:
    with kdns("--config", config) as server:
        server.wait_until(lambda: ttl(server) == 5)
        version = re.search(r"coredns_reload_version_info.*value=\"(\w+)\"", server.page("/metrics")[1])
        change(config, "ttl = 5", 'ttl = 99999\nzon = "x"\nrecord = ["a A"]')
        server.wait_for("not used; the configuration of before goes on")
        for problem in (
            r"kdns\.toml: ttl: found 99999 \(out of range\); expected whole seconds from 0 to 3600",
            r"kdns\.toml: zon: found an unknown key; expected zone\?",
            r"kdns\.toml: record\[0\]: found 'a A'",
        ):
            server.wait_for(problem)
        assert ttl(server) == 5
        server.wait_until(lambda: "not used" in server.page("/ready")[1])
        status, _ = server.page("/ready")
        assert status == 200, "what it answers is as good as before"
        server.wait_until(lambda: metric(server, "coredns_reload_failed_total") == 1)
        assert version is not None
        assert f'value="{version[1]}"' in server.page("/metrics")[1]
        odd = ("ttl = [", f"ttl = {'[' * 3000}", f"ttl = {'9' * 6000}", "ttl = \0")
        for times, text in enumerate(odd, 1):
            write(config, text)
            server.wait_for("expected TOML", times=times)
        config.unlink()
        server.wait_for("No such file")
        assert ttl(server) == 5
        write(config, f'manifests = ["{config.parent / "objects.yaml"}"]', "ttl = 9")
        server.wait_until(lambda: ttl(server) == 9)
        server.wait_until(lambda: server.page("/ready") == (200, "OK"))
        server.wait_until(lambda: metric(server, "coredns_reload_failed_total") >= 6)


@pytest.mark.parametrize("workers", [1, 2])
def test_tls_loses_nothing_either(config: Path, tmp_path: Path, workers: int) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = free_port()
    tls = ("--listen-tls", f"127.0.0.1:{port}", "--tls-cert", tmp_path / "cert", "--tls-key", tmp_path / "key")
    with kdns("--config", config, "--workers", str(workers), *tls) as server:
        server.wait_until(lambda: server.page("/ready") == (200, "OK"))
        found: list[str] = []
        end = threading.Event()

        def ask() -> None:
            query = dns.message.make_query(WEB, "A").to_wire()
            while not end.is_set():
                try:
                    with (
                        socket.create_connection(("127.0.0.1", port), 5) as plain,
                        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
                    ):
                        time.sleep(0.02)
                        secured.sendall(len(query).to_bytes(2, "big") + query)
                        found.append("answered" if secured.recv(4096) else "cut")
                except OSError as exc:
                    found.append(repr(exc))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        for new in range(6, 11):
            change(config, f"ttl = {new - 1}", f"ttl = {new}")
            server.process.send_signal(signal.SIGHUP)
            server.wait_until(lambda new=new: ttl(server) == new)  # type: ignore[misc]
        time.sleep(0.7)
        end.set()
        thread.join()
        assert set(found) == {"answered"}


def test_what_says_which_sockets_there_are_takes_a_restart(config: Path) -> None:
    with kdns("--config", config) as server:
        server.wait_until(lambda: ttl(server) == 5)
        change(config, "ttl = 5", "ttl = 6\nworkers = 2")
        server.wait_for(r"kdns\.toml: workers: found 2; expected 1, as at the start, or a restart")
        assert ttl(server) == 5


def test_a_file_that_is_good_and_cannot_be_served_is_not_used(config: Path, tmp_path: Path) -> None:
    """What reading cannot see the new process does: it ends, and the one before goes on."""
    (tmp_path / "bad.yaml").write_text("kind: Service\nmetadata: [")
    with kdns("--config", config) as server:
        server.wait_until(lambda: ttl(server) == 5)
        with asked_all_the_time(server) as found:
            change(config, "objects.yaml", "bad.yaml")
            server.wait_for("a kdns with the new configuration has ended with status 2")
            server.wait_for(r"bad\.yaml.*expected")
            change(config, "ttl = 5", f'ttl = 5\nupstream = ["127.0.0.1:{server.port}"]')
            server.wait_for("ended with status 2", times=2)
        assert runs(found) == [f"{WEB} 5 IN A 10.96.0.1"]
        server.wait_until(lambda: metric(server, "coredns_reload_failed_total") == 2)


def test_sighup_reads_it_again(config: Path) -> None:
    with kdns("--config", config) as server:
        server.wait_until(lambda: ttl(server) == 5)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("read again, nothing in it has changed")
        change(config, "ttl = 5", "ttl = 6")
        server.process.send_signal(signal.SIGHUP)
        server.wait_until(lambda: ttl(server) == 6)
        server.wait_until(lambda: metric(server, "kdns_reloads_total") == 1)


def test_a_mounted_config_map_is_followed(tmp_path: Path, config: Path) -> None:
    """A kubelet turns the link ``..data`` to another folder; the file's own path stays."""
    for number, seconds in ((1, 5), (2, 6)):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "c.toml").write_text(config.read_text().replace("ttl = 5", f"ttl = {seconds}"))
    (tmp_path / "..data").symlink_to("..1")
    mounted = tmp_path / "c.toml"
    mounted.symlink_to("..data/c.toml")
    with kdns("--config", mounted) as server:
        server.wait_until(lambda: ttl(server) == 5)
        (tmp_path / "..tmp").symlink_to("..2")
        (tmp_path / "..tmp").replace(tmp_path / "..data")
        server.wait_until(lambda: ttl(server) == 6)


def test_another_source_waits_until_everything_of_it_is_known(tmp_path: Path, config: Path) -> None:
    with ApiServer() as api:
        api.put(namespace(), service("web", "10.96.9.9"))
        api.fault = lambda path: (503, {}, b"{}")
        with kdns("--config", config) as server, asked_all_the_time(server) as found:
            server.wait_until(lambda: bool(found))
            write(config, f'api-server = "{api.url}"', "ttl = 5")
            server.wait_until(lambda: "waits for the objects of the cluster" in server.page("/ready")[1])
            time.sleep(0.5)
            assert server.page("/ready")[0] == 200
            api.fault = lambda path: None
            server.wait_until(lambda: found[-1] == f"{WEB} 5 IN A 10.96.9.9")
            time.sleep(0.3)
            assert set(found) == {f"{WEB} 5 IN A 10.96.0.1", f"{WEB} 5 IN A 10.96.9.9"}


def test_the_last_of_several_changes_counts(config: Path) -> None:
    with ApiServer() as api:
        api.fault = lambda path: (503, {}, b"{}")
        with kdns("--config", config) as server:
            server.wait_until(lambda: ttl(server) == 5)
            good = config.read_text()
            write(config, f'api-server = "{api.url}"')
            server.wait_until(lambda: "waits for" in server.page("/ready")[1])
            write(config, good.replace("ttl = 5", "ttl = 7"))
            server.wait_until(lambda: ttl(server) == 7)
            server.wait_until(lambda: len(psutil.Process(server.process.pid).children()) == 1)
            write(config, f'api-server = "{api.url}"')
            server.wait_until(lambda: "waits for" in server.page("/ready")[1])
            write(config, good.replace("ttl = 5", "ttl = 7"), "# as it is")
            server.wait_until(lambda: server.page("/ready") == (200, "OK"))
            server.wait_until(lambda: len(psutil.Process(server.process.pid).children()) == 1)
            assert ttl(server) == 7


def test_what_answers_is_replaced_when_it_is_killed(config: Path) -> None:
    with kdns("--config", config) as server:
        server.wait_until(lambda: ttl(server) == 5)
        with asked_all_the_time(server) as found:
            for _ in range(3):
                (generation,) = psutil.Process(server.process.pid).children()
                generation.kill()
                server.wait_until(lambda gone=generation: not gone.is_running())  # type: ignore[misc]
                server.wait_until(lambda: len(psutil.Process(server.process.pid).children()) == 1)
                server.wait_until(lambda: ttl(server) == 5)
        lost = [one for one in found if one.startswith("lost")]
        assert len(lost) <= 3, "but for what it had read already"
        server.wait_for("what answers has ended by signal 9; another takes its place", times=3)
        assert server.stop() == 0


def test_the_end_of_the_keeper_is_the_end_of_all(config: Path) -> None:
    with kdns("--config", config, "--workers", "2") as server:
        server.wait_until(lambda: ttl(server) == 5)
        below = psutil.Process(server.process.pid).children(recursive=True)
        assert len(below) == 4
        server.process.kill()
        wait_until(lambda: not any(process.is_running() and process.status() != "zombie" for process in below))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(config: Path, number: int) -> None:
    with kdns("--config", config) as server:
        server.wait_until(lambda: ttl(server) == 5)
        assert server.stop(number) == 0
        assert "stopped" in server.output()


def test_what_cannot_be_served_from_the_start_ends_it(config: Path, tmp_path: Path) -> None:
    (tmp_path / "objects.yaml").write_text("kind: Service\nmetadata: [")
    done = run_kdns("serve", "--config", config, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert done.returncode == 2
    assert "objects.yaml" in done.stderr
    with _bound() as port:
        done = run_kdns("serve", "--config", config, "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0")
    assert done.returncode == 2
    assert f"--listen 127.0.0.1:{port}" in done.stderr


@contextmanager
def _bound() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


# -- nodelocal ----------------------------------------------------------------------------------------------------------

LOCAL = "a.example."


@pytest.fixture
def node_config(tmp_path: Path) -> Path:
    path = tmp_path / "nodelocal.toml"
    write(path, 'cluster = ["127.0.0.1:1"]', 'record = ["a.example 5 A 192.0.2.1"]')
    return path


def test_nodelocal_swaps_a_changed_file_in_and_no_question_is_lost(node_config: Path) -> None:
    with (
        nodelocal("--config", node_config) as server,
        asked_all_the_time(server, LOCAL) as found,
        probed_all_the_time(server) as probes,
    ):
        time.sleep(0.2)
        for number in (2, 3):
            change(node_config, f"192.0.2.{number - 1}", f"192.0.2.{number}")
            server.wait_until(lambda number=number: found[-1].endswith(f"192.0.2.{number}"))  # type: ignore[misc]
        change(node_config, "192.0.2.3", "no address")
        server.wait_for("not used; the configuration of before goes on")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("not used; the configuration of before goes on", times=2)
        change(node_config, "A no address", "A 192.0.2.4")
        server.wait_until(lambda: found[-1].endswith("192.0.2.4"))
        time.sleep(0.7)
        assert {one.split()[-1] for one in found} == {f"192.0.2.{number}" for number in (1, 2, 3, 4)}
        assert_ready(probes, 3)
        server.wait_until(lambda: metric(server, "kdns_reloads_total") == 3)
        assert metric(server, "coredns_reload_failed_total") == 2
        assert server.page("/ready") == (200, "OK")


def test_nodelocal_keeps_its_cache_unless_others_are_asked(node_config: Path, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("192.0.2.77 b.other\n")
    upstream = tmp_path / "up.toml"
    write(
        upstream,
        f'manifests = ["{tmp_path / "none.yaml"}"]',
        'record = ["b.other 600 A 192.0.2.77"]',
        'external-zone = ["other"]',
    )
    (tmp_path / "none.yaml").write_text("")
    with kdns("--config", upstream) as outside:
        write(node_config, 'cluster = ["127.0.0.1:1"]', f'upstream = ["127.0.0.1:{outside.port}"]', "max-ttl = 900")
        with nodelocal("--config", node_config) as server:
            assert ttl(server, "b.other.") == 600
            before = metric(outside, "coredns_dns_requests_total")
            change(node_config, "max-ttl = 900", "max-ttl = 800")
            server.wait_for("the new configuration is in use")
            server.wait_for("of the cache were handed over")
            assert 0 < ttl(server, "b.other.") <= 600
            change(node_config, "max-ttl = 800", 'max-ttl = 800\nstub = ["other=127.0.0.1:1"]')
            server.wait_for("the new configuration is in use", times=2)
            assert ttl(server, "b.other.") == -1, "whoever is asked now does not answer"
        assert metric(outside, "coredns_dns_requests_total") >= before


def test_nodelocal_takes_a_restart_for_its_sockets(node_config: Path) -> None:
    port, other = free_port(), free_port()
    write(node_config, 'cluster = ["127.0.0.1:1"]', f'listen = ["127.0.0.1:{port}"]')
    with nodelocal("--config", node_config, listen=()) as server:
        change(node_config, str(port), str(other))
        server.wait_for(rf"listen: found 127.0.0.1:{other}; expected 127.0.0.1:{port}, as at the start, or a restart")
        assert server.port == port
        change(node_config, str(other), str(port))
        server.wait_until(lambda: server.page("/ready") == (200, "OK"))


def test_nodelocal_follows_other_pods_when_told_to(node_config: Path) -> None:
    with ApiServer() as first, ApiServer() as second:
        write(node_config, 'cluster = ["127.0.0.1:1"]', f'api-server = "{first.url}"', 'node = "n1"')
        with nodelocal("--config", node_config) as server:
            server.wait_until(lambda: first.count("/pods") > 0)
            change(node_config, first.url, second.url)
            server.wait_until(lambda: second.count("/pods") > 0)
            server.wait_until(lambda: server.page("/ready") == (200, "OK"))
