"""Import some modules of a package without all the others that the package itself imports."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec

_lock = threading.RLock()


@contextmanager
def not_run(*packages: str) -> Iterator[None]:
    """Within the block modules of *packages*, outer ones first, are imported and the packages' own code is not run.

    Afterwards the packages are not imported, and the modules stay. Whoever imports a package later gets it whole, but
    for names by which it has those modules without importing them from itself. A package that was imported before is
    left as it is. No other thread may import one meanwhile. Raises ModuleNotFoundError for one that is not installed.
    """
    with _lock:
        made: list[str] = []
        try:
            for name in packages:
                if name in sys.modules:
                    continue
                spec = find_spec(name)
                if spec is None:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
                sys.modules[name] = module_from_spec(spec)
                made.append(name)
            yield
        finally:
            for name in reversed(made):
                del sys.modules[name]
