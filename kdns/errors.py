"""The errors of the two programs, below ``zones.errors.KdnsError``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from zones.errors import KdnsError


class WireError(KdnsError):
    """A message that cannot be read; ``rcode_hint`` is the RCODE to answer with, None to stay silent."""

    def __init__(self, message: str, rcode_hint: int | None = 1) -> None:
        super().__init__(message)
        self.rcode_hint = rcode_hint


class Problem(NamedTuple):
    """One thing that is wrong with a configuration or a manifest: where, what was found, what was expected."""

    where: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.where}: found {self.found}; expected {self.expected}"


class ConfigError(KdnsError):
    """A configuration that cannot be used; ``problems`` are all of them at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class ClusterError(KdnsError):
    """The API server could not be used; the message is one line for an operator."""


class ResourceExpired(ClusterError):
    """The version asked for is gone (HTTP 410): list again."""


class AccessDenied(ClusterError):
    """HTTP 401 or 403."""


class ClusterUnavailable(ClusterError):
    """No answer, or none that makes sense; ``code`` is HTTP's (0: none), ``retry_after`` the seconds it asks for."""

    def __init__(self, message: str, *, code: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class UpstreamError(KdnsError):
    """An upstream gave no usable answer."""
