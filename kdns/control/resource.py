"""What a reflector watches, and at what pace."""

from __future__ import annotations

import random

import msgspec

from zones.objects import Kind


class Resource(msgspec.Struct, frozen=True):
    """What to watch: the kind, its path in the API for each version known, the preferred first, and selectors in the
    API's form. A cluster may lack what ``is_optional``."""

    kind: Kind
    paths: tuple[str, ...]
    is_optional: bool = False
    label_selector: str = ""
    field_selector: str = ""

    @property
    def selectors(self) -> dict[str, str]:
        """The selectors as parameters of a request."""
        some = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {key: value for key, value in some.items() if value}


class Pace(msgspec.Struct, frozen=True):
    """Times in seconds. A bookmark comes about once a minute, so a watch silent for longer than that is suspect."""

    silence_seconds: float = 75.0
    watch_seconds: int = 300
    first_backoff: float = 0.05
    max_backoff: float = 5.0
    absent_seconds: float = 10.0


class Backoff:
    """Waits that double up to a bound, each taken at random from its upper half."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._next = pace.first_backoff

    def reset(self) -> None:
        """Begin anew after a success."""
        self._next = self._pace.first_backoff

    def next(self) -> float:
        """Return the seconds to wait now."""
        wait, self._next = self._next, min(self._next * 2, self._pace.max_backoff)
        return wait * random.uniform(0.5, 1.0)
