"""Network namespaces: hosts of a test's own on this machine, removed whatever happens."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _possible() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"kdns-{uuid.uuid4().hex[:8]}"
    try:
        return not subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


needs_netns = pytest.mark.skipif(not _possible(), reason="needs root, network namespaces and Debian's package iproute2")


class Namespace:
    """A network namespace with loopback up, and with a resolv.conf of its own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def prefix(self) -> list[str]:
        """Return what to put before a command to run it there."""
        return ["ip", "netns", "exec", self.name]

    def run(self, *command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        return subprocess.run([*self.prefix(), *command], capture_output=True, text=True, timeout=timeout, check=False)


@contextmanager
def namespace(resolv_conf: str = "") -> Iterator[Namespace]:
    """Make a namespace, and /etc/netns/NAME/resolv.conf, which ``ip netns exec`` mounts over the usual one."""
    name = f"kdns-{uuid.uuid4().hex[:8]}"
    etc = Path("/etc/netns") / name
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        etc.mkdir(parents=True)
        (etc / "resolv.conf").write_text(resolv_conf)
        made = Namespace(name)
        made.run("ip", "link", "set", "lo", "up")
        made.run("ip", "address", "add", "192.0.2.2/32", "dev", "lo")  # AI_ADDRCONFIG wants one beside loopback
        made.run("ip", "-6", "address", "add", "2001:db8::2/128", "dev", "lo", "nodad")  # and of both families
        yield made
    finally:
        shutil.rmtree(etc, ignore_errors=True)
        subprocess.run(["ip", "netns", "delete", name], check=True)
