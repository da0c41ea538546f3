"""One lab for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.lab.lab import Lab, lab


@pytest.fixture(scope="module")
def node() -> Iterator[Lab]:
    with lab() as made:
        made.start_servers()
        yield made
