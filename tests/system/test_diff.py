"""kdns diff: another server compared with what kdns answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.kube import endpoint_slice, namespace, service
from tests.support.process import kdns

pytestmark = pytest.mark.system

OBJECTS = [
    namespace(),
    service("web", "10.96.0.1"),
    service("db"),
    endpoint_slice("db", "10.1.0.1", "10.1.0.2"),
    service("ext", "", type="ExternalName", externalName="web.default.svc.cluster.local"),
]


def write(path: Path, objects: list[dict[str, object]]) -> Path:
    path.write_text(yaml.safe_dump_all(objects))
    return path


def diff(port: int, manifests: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kdns", "diff", "--against", f"127.0.0.1:{port}", "--manifests", str(manifests)]
    return subprocess.run([*command, *map(str, more)], capture_output=True, text=True, check=False, timeout=60)


def test_a_server_that_says_the_same(tmp_path: Path) -> None:
    manifests = write(tmp_path / "a.yaml", OBJECTS)
    with kdns("--manifests", manifests) as server:
        server.wait_for("synced")
        done = diff(server.port, manifests)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ", 0 of them without a reason" in done.stdout
        count = int(done.stdout.splitlines()[-1].split()[0])
        assert count > 15


def test_what_differs_is_told_and_why(tmp_path: Path) -> None:
    manifests = write(tmp_path / "a.yaml", OBJECTS)
    other = [
        namespace(),
        service("web", "10.96.0.2"),
        service("db"),
        endpoint_slice("db", "10.1.0.1"),
    ]
    with kdns("--manifests", write(tmp_path / "b.yaml", other), "--ttl", "30") as server:
        server.wait_for("synced")
        done = diff(server.port, manifests)
        assert done.returncode == 1
        lines = done.stdout.splitlines()
        assert "web.default.svc.cluster.local. A: here 10.96.0.1; there 10.96.0.2" in lines
        assert any(line.startswith("ext.default.svc.cluster.local. CNAME: here web.default") for line in lines)
        assert any(
            line.startswith("db.default.svc.cluster.local. A: here 10.1.0.1, 10.1.0.2; there 10.1.0.1")
            for line in lines
        )
        assert any("answers with another TTL: 5 here, 30 there" in line for line in lines)
        assert any("each server names itself" in line for line in lines)


def test_names_of_a_file(tmp_path: Path) -> None:
    manifests = write(tmp_path / "a.yaml", OBJECTS)
    names = tmp_path / "names"
    names.write_text("no.default.svc.cluster.local AAAA  # of a log\nwww.example.com\n\n")
    with kdns("--manifests", manifests) as server:
        server.wait_for("synced")
        assert diff(server.port, manifests, "--names", names).returncode == 0
        names.write_text("a..b\nx NOTYPE\n")
        done = diff(server.port, manifests, "--names", names)
        assert done.returncode == 2
        assert f"{names}:1: found" in done.stderr
        assert f"{names}:2: found" in done.stderr


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    manifests = write(tmp_path / "a.yaml", OBJECTS[:2])
    done = diff(1, manifests)
    assert done.returncode == 2
    assert "--against tcp://127.0.0.1:1: found no server answered in time" in done.stderr
    assert not done.stdout
    done = diff(1, manifests, "--against", "nowhere")
    assert done.returncode == 2
    assert "--against: found 'nowhere'" in done.stderr
