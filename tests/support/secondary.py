"""NSD and Knot DNS as secondaries of kdns on loopback, ended whatever happens."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

NSD = shutil.which("nsd") or shutil.which("/usr/sbin/nsd")
KNOT = shutil.which("knotd") or shutil.which("/usr/sbin/knotd")

needs_nsd = pytest.mark.skipif(NSD is None, reason="needs Debian's package nsd")
needs_knot = pytest.mark.skipif(KNOT is None, reason="needs Debian's package knot")


def free_port() -> int:
    """Return a port that UDP and TCP can have now."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        tcp.bind(("127.0.0.1", 0))
        port: int = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        return port


@contextmanager
def nsd(port: int, primary: int, zones: Sequence[str]) -> Iterator[None]:
    """Run NSD as a secondary of *zones* at *port*."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = f"""
server:
  ip-address: 127.0.0.1@{port}
  server-count: 1
  username: ""
  chroot: ""
  database: ""
  zonesdir: {folder}
  pidfile: {folder}/nsd.pid
  xfrdfile: {folder}/nsd.xfrd
  zonelistfile: {folder}/nsd.list
  xfrdir: {folder}
  xfrd-reload-timeout: 0
remote-control:
  control-enable: no
"""
        for number, zone in enumerate(zones):
            text += f"""
zone:
  name: {zone}
  zonefile: {number}.zone
  request-xfr: AXFR 127.0.0.1@{primary} NOKEY
  allow-notify: 127.0.0.1 NOKEY
"""
        (folder / "nsd.conf").write_text(text)
        with running([str(NSD), "-d", "-c", str(folder / "nsd.conf")]):
            yield


@contextmanager
def knot(port: int, primary: int, zones: Sequence[str]) -> Iterator[None]:
    """Run Knot DNS as a secondary of *zones* at *port*."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = f"""
server:
  rundir: {folder}
  listen: 127.0.0.1@{port}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: {folder}
remote:
  - id: primary
    address: 127.0.0.1@{primary}
acl:
  - id: notify
    address: 127.0.0.1
    action: notify
template:
  - id: default
    storage: {folder}
zone:
"""
        for zone in zones:
            text += f"  - domain: {zone}\n    master: primary\n    acl: notify\n"
        (folder / "knot.conf").write_text(text)
        with running([str(KNOT), "-c", str(folder / "knot.conf")]):
            yield


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    """Run a server in the foreground."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
