"""The metrics of several workers as those of one program: added up, those of workers that are gone included."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import Metric

from kdns.workers.wire import Family

_Key = tuple[str, tuple[tuple[str, str], ...]]

MAX_SAMPLES: Final = 100_000
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,199}")

LARGEST: Final = frozenset({"kdns_hostname_conflicts"})
"""Gauges that say the same in each worker; of the others the sum is what a user wants."""


class Merged:
    """A collector of what workers told; *number* names the worker."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[Family, ...]] = {}
        self._gone: dict[_Key, float] = {}
        self._families: dict[str, tuple[str, str]] = {}

    def take(self, number: int, families: tuple[Family, ...]) -> None:
        """Take what a worker tells, in place of what it told before. Raises ValueError for what is no metric."""
        check(families)
        self._told[number] = families
        for family in families:
            self._families.setdefault(family.name, (family.text, family.type))

    def end(self, number: int) -> None:
        """Keep the counts of a worker that is gone, for its successor begins at zero."""
        for family in self._told.pop(number, ()):
            if family.type != "gauge":
                for sample in family.samples:
                    key = sample.name, sample.labels
                    self._gone[key] = self._gone.get(key, 0.0) + sample.value

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        values: dict[str, dict[_Key, float]] = {name: {} for name in self._families}
        of_sample = {sample: name for name in self._families for sample in _sample_names(name)}
        for key, value in self._gone.items():
            values[of_sample[key[0]]][key] = value
        for families in self._told.values():
            for family in families:
                some = values[family.name]
                for sample in family.samples:
                    key = sample.name, sample.labels
                    before = some.get(key, 0.0)
                    some[key] = max(before, sample.value) if family.name in LARGEST else before + sample.value
        for name, (text, kind) in self._families.items():
            metric = Metric(name, text, kind)
            for (sample_name, labels), value in values[name].items():
                metric.add_sample(sample_name, dict(labels), value)
            yield metric


def check(families: tuple[Family, ...]) -> None:
    """Raise ValueError for what would break the page that shows them."""
    if sum(len(family.samples) + 1 for family in families) > MAX_SAMPLES:
        raise ValueError(f"metrics of more than {MAX_SAMPLES} numbers")
    for family in families:
        names = set(_sample_names(family.name))
        if family.type not in ("counter", "gauge", "histogram") or not _NAME.fullmatch(family.name):
            raise ValueError(f"{family.name[:40]!r}, a {family.type[:20]!r}, is no metric")
        if any(sample.name not in names for sample in family.samples):
            raise ValueError(f"a number that is none of {family.name[:40]!r}")


def _sample_names(name: str) -> Iterable[str]:
    return (name, *(name + end for end in ("_total", "_created", "_bucket", "_sum", "_count")))
