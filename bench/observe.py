"""What looking costs: the status page, dnstap, a log line for each query; and how soon the page is there."""

from __future__ import annotations

import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.cluster import write_manifests
from bench.dnsperf import drive, write_queries
from bench.mixes import generated, make
from bench.peers import CLUSTER_PROBE
from bench.process import free_port, Process
from bench.report import percentile, progress, Report

LOOK_SECONDS: Final = 2.0
"""As the page does."""
PAGES: Final = 10

FIRST_NUMBERS: Final = """
return performance.getEntriesByType("resource").find(one => one.name.endsWith("status.json")).responseEnd
"""


def run(report: Report, folder: Path, *, seconds: float, rounds: int, services: int) -> None:
    """Measure each way in turn, *rounds* times, and the page under a load."""
    base, hot = folder / "base.json", folder / "hot.txt"
    write_manifests(base, services, 10)
    write_queries(hot, make("hot", generated(services)).questions)
    ways: dict[str, list[str]] = {"nobody looks": [], "the page is open": [], "--log-queries": ["--log-queries"]}
    if shutil.which("fstrm_capture") is not None:
        ways["--dnstap"] = ["--dnstap", f"unix:{folder / 'tap'}"]
    else:
        report.note("no fstrm_capture here (package fstrm-bin): --dnstap is left out")
    figures: dict[str, list[float]] = {way: [] for way in ways}
    with _capture(folder / "tap"):
        for number in range(rounds):
            for way, more in ways.items():
                progress(f"{number + 1}/{rounds} {way} …")
                with _serving(base, more) as (server, admin):
                    drive(server, hot, seconds=max(1.0, seconds / 2))
                    with _looked_at(admin if way == "the page is open" else None):
                        figures[way].append(drive(server, hot, seconds=seconds).cpu)
    first = statistics.median(figures["nobody looks"])
    report.table(
        "CPU a query, µs",
        [
            {
                "way": way,
                "cpu_us": round(statistics.median(some), 2),
                "spread": f"{min(some):.2f} – {max(some):.2f}",
                "ratio": round(statistics.median(some) / first, 2),
            }
            for way, some in figures.items()
        ],
    )
    _page(report, base, hot)


@contextmanager
def _serving(base: Path, more: list[str]) -> Iterator[tuple[Process, int]]:
    port, admin = free_port(), free_port()
    command = [
        sys.executable, "-m", "kdns", "serve", "--manifests", str(base), "--listen", f"127.0.0.1:{port}",
        "--admin", f"127.0.0.1:{admin}", *more,
    ]  # fmt: skip
    with Process("kdns", command, port, CLUSTER_PROBE) as server:
        yield server, admin


@contextmanager
def _capture(path: Path) -> Iterator[None]:
    tool = shutil.which("fstrm_capture")
    if tool is None:
        yield
        return
    command = [tool, "-t", "protobuf:dnstap.Dnstap", "-u", str(path), "-w", "/dev/null"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def _looked_at(admin: int | None) -> Iterator[None]:
    """Ask for what the page asks for, as often."""
    end = threading.Event()

    def look() -> None:
        while not end.wait(LOOK_SECONDS):
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/status.json", timeout=5) as reply:
                reply.read()

    thread = threading.Thread(target=look, daemon=True)
    if admin is not None:
        thread.start()
    try:
        yield
    finally:
        end.set()
        if admin is not None:
            thread.join()


def _page(report: Report, base: Path, hot: Path) -> None:
    """Load the page in Chromium while 20,000 queries a second are answered."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        report.note("no Chromium with its driver here (packages chromium, chromium-driver): the page was not loaded")
        return
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        report.note("no selenium here (pip install -e '.[test]'): the page was not loaded")
        return
    progress("the page in Chromium …")
    loads: list[float] = []
    shown: list[float] = []
    with _serving(base, []) as (server, admin):
        load = threading.Thread(target=drive, args=(server, hot), kwargs={"seconds": 10, "rate": 20_000}, daemon=True)
        load.start()
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
            options.add_argument(argument)
        chrome = webdriver.Chrome(options, Service(driver))
        try:
            for _ in range(PAGES):
                chrome.get(f"http://127.0.0.1:{admin}/")
                time.sleep(0.5)
                loads.append(chrome.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd"))
                shown.append(chrome.execute_script(FIRST_NUMBERS))
        finally:
            chrome.quit()
        load.join()
    rows: list[dict[str, Any]] = [
        {"until": what, "p50_ms": round(percentile(sorted(some), 0.5)), "max_ms": round(max(some))}
        for what, some in (("the page is loaded", loads), ("it has its numbers", shown))
    ]
    report.table(f"The status page, {PAGES} times, at 20,000 queries a second", rows)
