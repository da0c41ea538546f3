"""What a start brings in."""

from __future__ import annotations

import subprocess
import sys

SHOWN = """
import sys
import nodelocal.cli, nodelocal.serve, nodelocal.supervise.supervisor
print(*sys.modules)
"""


def test_nothing_is_imported_that_only_a_set_up_needs() -> None:
    done = subprocess.run([sys.executable, "-c", SHOWN], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "nodelocal.network.setup" in modules
    assert not [name for name in modules if name.startswith(("pyroute2", "kubernetes"))]
