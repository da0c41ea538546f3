"""The errors of the DNS vocabulary and of Kubernetes objects; the root of all errors of this project."""

from __future__ import annotations


class KdnsError(Exception):
    """Root of every error that this project raises on purpose."""


class BadName(KdnsError, ValueError):
    """Text or octets that are no domain name."""


class LabelTooLong(BadName):
    """A label of more than 63 octets (RFC 1035 section 2.3.4)."""


class NameTooLong(BadName):
    """A name of more than 255 octets in wire form (RFC 1035 section 2.3.4)."""


class BadRecord(KdnsError, ValueError):
    """RDATA or an RRset that the wire format cannot carry."""


class BadObject(KdnsError, ValueError):
    """A Kubernetes object that cannot be served; ``field`` is the path inside it, such as ``spec.ports[0].port``."""

    def __init__(self, field: str, found: object, expected: str) -> None:
        super().__init__(f"{field}: found {found!r}, expected {expected}")
        self.field = field
        self.found = found
        self.expected = expected
