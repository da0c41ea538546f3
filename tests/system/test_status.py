"""The status page of both programs, in a real Chromium; ``top`` on a terminal; both from real queries."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dns.message
import dns.name
import dns.query
import pytest
import yaml
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.kube import endpoint_slice, namespace, service
from tests.support.process import heed_ctrl_c, Kdns, kdns, nodelocal, run_kdns

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."
EVIL = "<img/src=x/onerror=alert''>"

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    path = tmp_path / "objects.yaml"
    objects = [namespace(), service("web", "10.96.0.1"), service("db"), endpoint_slice("db", "10.1.0.1")]
    path.write_text(yaml.safe_dump_all(objects))
    return path


def ask(server: Kdns, name: str | dns.name.Name = WEB, *, times: int = 1, over_tcp: bool = False) -> None:
    send = dns.query.tcp if over_tcp else dns.query.udp
    for _ in range(times):
        send(dns.message.make_query(name, "A"), "127.0.0.1", port=server.port, timeout=5)


def told(server: Kdns) -> dict[str, Any]:
    code, body = server.page("/status.json")
    assert code == 200, body
    return dict(json.loads(body))


def explained(server: Kdns, **fields: str) -> dict[str, Any]:
    return dict(json.loads(server.page(f"/explain.json?{urllib.parse.urlencode(fields)}")[1]))


@pytest.mark.parametrize("workers", [1, 2])
def test_kdns_tells_what_goes_on(manifests: Path, workers: int) -> None:
    with kdns("--manifests", manifests, "--workers", str(workers)) as server:
        server.wait_for("synced after")
        server.wait_until(lambda: bool(told(server)["history"]))
        ask(server, times=20, over_tcp=True)

        def has_seen_both() -> bool:
            """Ask for one four times as often as for the other; samples say so, about, once there are enough."""
            ask(server, times=4)
            ask(server, "none.default.svc.cluster.local.")
            names = told(server)["names"]
            return len(names) == 2 and names[0][:2] == [WEB, "A"] and names[0][2] > 2 * names[1][2]

        server.wait_until(has_seen_both)
        server.wait_until(lambda: told(server)["responses"].get("NXDOMAIN", 0) > 0 and bool(told(server)["clients"]))
        now = told(server)
        assert (now["program"], now["ready"], now["troubles"]) == ("kdns", True, [])
        assert [client for client, _ in now["clients"]] == ["127.0.0.1"]
        assert now["objects"] == {"Namespaces": 1, "Services": 2, "EndpointSlices": 1}
        assert ["cluster.local.", "complete"] in [[zone[0], zone[2]] for zone in now["zones"]]
        assert now["responses"]["NOERROR"] > now["responses"]["NXDOMAIN"]
        assert now["latency"]["p50"] > 0
        lines = explained(server, name="web", **{"as": "default"})["lines"]
        assert any("Service default/web: 10.96.0.1" in line for line in lines)
        lines = explained(server, name=WEB, type="AAAA")["lines"]
        assert lines[0] == f"{WEB} AAAA"
        assert explained(server, name="a..b") == {"error": "empty label in 'a..b'"}
        assert "no record type" in explained(server, name="a", type="NOPE")["error"]
        assert explained(server) == {"error": "no name"}


def test_nodelocal_tells_what_goes_on(manifests: Path) -> None:
    with (
        kdns("--manifests", manifests) as cluster,
        nodelocal("--cluster", f"127.0.0.1:{cluster.port}", "--upstream", "127.0.0.1:9") as server,
    ):
        ask(server, times=20)
        server.wait_until(lambda: bool(told(server)["upstreams"]) and bool(told(server)["names"]))
        now = told(server)
        assert now["program"] == "nodelocal"
        assert now["names"][0][:2] == [WEB, "A"]
        assert now["hit_ratio"] > 0.8
        assert f"tcp://127.0.0.1:{cluster.port}" in [row[0] for row in now["upstreams"]]
        assert ["cluster.local.", f"tcp://127.0.0.1:{cluster.port}"] in now["zones"]
        lines = explained(server, name=WEB)["lines"]
        assert lines[1] == "  route: cluster.local. → cluster"
        assert any("10.96.0.1" in line for line in lines)
        assert "error" in explained(server, name=WEB, **{"as": "no address"})


def test_the_page_can_be_off_and_the_metrics_stay(manifests: Path) -> None:
    with kdns("--manifests", manifests, "--status", "off") as server:
        for path in ("/", "/status.json", "/explain.json?name=a"):
            assert server.page(path)[0] == 404
        assert server.page("/metrics")[0] == 200
        done = run_kdns("top", "--admin", f"127.0.0.1:{server.admin_port}")
    assert done.returncode == 2
    assert "whose --status lets this machine look" in done.stderr


# -- top ----------------------------------------------------------------------------------------------------------------


def test_top_prints_one_look_where_there_is_no_terminal(manifests: Path) -> None:
    with kdns("--manifests", manifests) as server:
        ask(server, times=30)
        server.wait_until(lambda: bool(told(server)["responses"]))
        done = run_kdns("top", "--admin", f"127.0.0.1:{server.admin_port}")
        assert done.returncode == 0, done.stderr
        for part in ("kdns  ready", "queries a second", WEB, "127.0.0.1", "NOERROR"):
            assert part in done.stdout, part
        assert "\x1b" not in done.stdout


def test_top_follows_on_a_terminal_and_ctrl_c_ends_it(manifests: Path) -> None:
    with kdns("--manifests", manifests) as server:
        main, sub = pty.openpty()
        command = [sys.executable, "-m", "kdns", "top", "--admin", f"127.0.0.1:{server.admin_port}", "--every", "0.5"]
        env = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        process = subprocess.Popen(command, stdin=sub, stdout=sub, stderr=sub, env=env, preexec_fn=heed_ctrl_c)
        os.close(sub)
        shown = ""

        def read_until(part: str) -> None:
            nonlocal shown
            deadline = time.monotonic() + 30
            while part not in shown:
                assert time.monotonic() < deadline, shown[-3000:]
                if select.select([main], [], [], 0.5)[0]:
                    shown += os.read(main, 65536).decode(errors="replace")

        try:
            read_until("queries a second")
            ask(server, times=20)
            read_until(WEB)
            shown = ""
            server.stop()
            read_until("not ready")
            process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + 20
            while process.poll() is None and time.monotonic() < deadline:  # it has something to write, too
                if select.select([main], [], [], 0.1)[0]:
                    with suppress(OSError):
                        os.read(main, 65536)
            assert process.poll() == 0
        finally:
            process.kill()
            process.wait()
            os.close(main)


def test_top_without_anyone_there() -> None:
    done = run_kdns("top", "--admin", "127.0.0.1:9", program="nodelocal")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "nodelocal: --admin 127.0.0.1:9: found Connection refused; expected the --admin address"
    )
    done = run_kdns("top", "--admin", "nowhere")
    assert done.returncode == 2
    assert "--admin" in done.stderr


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"220 mail\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"history":[]}',
        b"",
    ],
)
def test_top_of_something_else(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(4096)
                sock.sendall(said)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        done = run_kdns("top", "--admin", f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert done.returncode == 2
    assert "expected the --admin address of a running kdns or nodelocal" in done.stderr
    assert "Traceback" not in done.stderr


# -- in a browser -------------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium with its driver here (packages chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}/b",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        yield driver
        # What is no question is answered with 400, which a browser notes.
        asked = ("favicon", "explain.json")
        complaints = [one["message"] for one in log_of(driver) if not any(word in one["message"] for word in asked)]
        assert complaints == []
    finally:
        driver.quit()


def log_of(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    """Return what the browser has complained of since the last call."""
    return list(browser.get_log("browser"))  # type: ignore[no-untyped-call]


def wait(browser: webdriver.Chrome, text: str, place: str = "body") -> None:
    until(browser, lambda: text in browser.find_element(By.CSS_SELECTOR, place).text, text)


def until(browser: webdriver.Chrome, holds: Callable[[], object], text: str = "") -> None:
    """Wait until *holds* does, of a page that puts new elements in the place of old ones every two seconds."""
    wait = WebDriverWait(browser, 20, ignored_exceptions=[StaleElementReferenceException])
    wait.until(lambda _: holds(), text)


LINE = """
const line = document.querySelector("#queries path");
return line ? [line.getAttribute("d"), getComputedStyle(line).stroke] : null;
"""


def test_the_page_shows_and_follows_what_goes_on(manifests: Path, browser: webdriver.Chrome) -> None:
    with kdns("--manifests", manifests) as server:
        server.wait_until(lambda: bool(told(server)["history"]))
        ask(server, times=50)
        ask(server, dns.name.Name((EVIL.encode(), b"example", b"")), times=50)
        server.wait_until(lambda: len(told(server)["names"]) == 2)
        browser.set_window_size(1200, 1000)
        browser.get(f"http://127.0.0.1:{server.admin_port}/")
        wait(browser, WEB, "#names")
        assert browser.find_element(By.ID, "state").text == "ready"
        assert browser.title == "kdns: ready"
        wait(browser, "<img/src=x/onerror=", "#names")  # as text: nothing of it is markup
        assert not browser.find_elements(By.TAG_NAME, "img")
        wait(browser, "127.0.0.1", "#clients")
        wait(browser, "Services", "#objects")
        until(browser, lambda: browser.execute_script(LINE))
        before, stroke = browser.execute_script(LINE)
        assert stroke.startswith("rgb")
        until(browser, lambda: browser.execute_script(LINE)[0] != before)
        loaded = browser.execute_script(
            "const [n] = performance.getEntriesByType('navigation'); return [n.loadEventEnd - n.startTime, n.transferSize]"
        )
        assert loaded[0] < 2000, "not a bound on its speed, only that nothing is waited for"
        assert loaded[1] < 40_000
        others = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert all(url.startswith(f"http://127.0.0.1:{server.admin_port}/") for url in others), others
        ask(server, "late.default.svc.cluster.local.", times=30)
        wait(browser, "late.default.svc.cluster.local.", "#names")
        server.stop()
        wait(browser, "no answer from here", "#state")
        log_of(browser)  # of the fetch that failed


def test_the_explain_box(manifests: Path, browser: webdriver.Chrome) -> None:
    with kdns("--manifests", manifests) as server:
        browser.get(f"http://localhost:{server.admin_port}/")
        wait(browser, "ready", "#state")
        browser.find_element(By.NAME, "name").send_keys("web")
        browser.find_element(By.NAME, "as").send_keys("default")
        browser.find_element(By.CSS_SELECTOR, "#explain button").click()
        wait(browser, "Service default/web: 10.96.0.1", "#explained")
        wait(browser, "ends here", "#explained")
        name = browser.find_element(By.NAME, "name")
        name.clear()
        name.send_keys("a..b\n")
        wait(browser, "empty label", "#explained")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone_in_either_scheme(manifests: Path, browser: webdriver.Chrome, scheme: str) -> None:
    with kdns("--manifests", manifests) as server, nodelocal("--cluster", f"127.0.0.1:{server.port}") as node:
        long = f"{'a' * 60}.{'b' * 60}.{'c' * 60}.example."
        ask(node, long, times=5)
        node.wait_until(lambda: bool(told(node)["names"]))
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        )
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        browser.get(f"http://127.0.0.1:{node.admin_port}/")
        wait(browser, "aaaa", "#names")
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 360, "nothing sticks out"
        faint = browser.execute_script(CONTRASTS)
        assert faint == [], "every text stands out from what is behind it (WCAG 2.2, 1.4.3)"


CONTRASTS = """
const light = color => {
  const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(Number).map(one => one / 255).map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = element => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (color !== "rgba(0, 0, 0, 0)") return color;
  }
  return "rgb(255, 255, 255)";
};
const found = [];
for (const element of document.querySelectorAll("body *")) {
  if (!element.checkVisibility() || ![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
  const style = getComputedStyle(element), color = element.closest("svg") ? style.fill : style.color;
  const [more, less] = [light(color), light(behind(element))].sort((one, other) => other - one);
  const ratio = (more + 0.05) / (less + 0.05);
  if (ratio < 4.5) found.push(`${element.tagName} ${element.textContent.slice(0, 30)}: ${color} on ${behind(element)}: ${ratio.toFixed(2)}`);
}
return found;
"""
