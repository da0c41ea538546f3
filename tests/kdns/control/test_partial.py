"""Modules of a package are imported without the package's own code, which is there for whoever asks for it later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdns.control.partial import not_run


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package whose own code imports both of its modules."""
    name = "kdns_test_package"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("from . import heavy, light\nfrom .light import VALUE\n")
    (folder / "light.py").write_text("VALUE = []\n")
    (folder / "heavy.py").write_text("VALUE = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_only_what_is_asked_for_is_imported(package: str) -> None:
    try:
        with not_run(package):
            from kdns_test_package import light  # type: ignore[import-not-found]
        assert f"{package}.heavy" not in sys.modules
        assert package not in sys.modules
        import kdns_test_package as whole

        assert whole.heavy.VALUE == 2
        assert whole.VALUE is light.VALUE is whole.light.VALUE
        with not_run(package):
            assert sys.modules[package] is whole
        assert sys.modules[package] is whole
    finally:
        for module in [module for module in sys.modules if module.startswith(package)]:
            del sys.modules[module]


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="kdns_no_such_package"), not_run("kdns_no_such_package"):
        raise AssertionError


def test_the_kubernetes_client_brings_no_generated_classes() -> None:
    """Nor what they are made with: 17 MB and 0.17 s of CPU."""
    code = """
import sys
from kdns.control.client import Access, ApiServer
from kdns.errors import ClusterUnavailable
try:
    ApiServer(Access(url="http://127.0.0.1:9")).get("/version", {}, silence_seconds=1)
except ClusterUnavailable:
    print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    modules = done.stdout.split()
    assert "kubernetes.client.rest" in modules
    assert not {"pydantic", "kubernetes.client.models", "kubernetes.dynamic", "oauthlib"} & {*modules}
    code = "import kdns.control.client as c; c.ApiServer(c.Access(url='http://x'))._rest_client(); import kubernetes; "
    code += "print(kubernetes.client.CoreV1Api.__name__, kubernetes.config.load_kube_config.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["CoreV1Api", "load_kube_config"]
