"""Domain names: labels, case-insensitive comparison, ancestors (RFC 1034 section 3.1, RFC 4343).

A name keeps the case that it came with and compares without it: only A-Z fold, no other octet does
(RFC 4343 section 3). Compression pointers belong to messages and are read in ``kdns.proto``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import total_ordering

from zones.errors import BadName, LabelTooLong, NameTooLong

MAX_LABEL_OCTETS = 63
"""RFC 1035 section 2.3.4: the two top bits of a length octet mean something else."""

MAX_NAME_OCTETS = 255
"""RFC 1035 section 2.3.4, the length octets and the root's zero included."""

_ESCAPED = frozenset(b'.\\"();@$')


@total_ordering
class Name:
    """An absolute domain name.

    ``wire`` is the uncompressed wire form as spelled; ``key`` the same in lower case, which is what
    every table is keyed by; ``labels`` the labels in lower case, leftmost first, without the root.
    Ordering is the canonical one of RFC 4034 section 6.1.
    """

    __slots__ = ("key", "labels", "wire")

    wire: bytes
    key: bytes
    labels: tuple[bytes, ...]

    def __init__(self, labels: Sequence[bytes]) -> None:
        wire = label_octets(labels) + b"\0"
        if len(wire) > MAX_NAME_OCTETS:
            raise NameTooLong(f"a name of {len(wire)} octets: at most {MAX_NAME_OCTETS}")
        self.wire = wire
        self.key = wire.lower()
        self.labels = tuple(label.lower() for label in labels)

    @classmethod
    def trusted(cls, wire: bytes) -> Name:
        """Make a name of uncompressed wire octets that the caller has already checked; nothing is validated here."""
        name = cls.__new__(cls)
        name.wire = wire
        name.key = key = wire.lower()
        labels = []
        at = 0
        while size := key[at]:
            at += 1
            labels.append(key[at : at + size])
            at += size
        name.labels = tuple(labels)
        return name

    @classmethod
    def from_wire(cls, wire: bytes) -> Name:
        """Read one whole uncompressed name; octets left over are an error."""
        at = 0
        while True:
            if at >= len(wire):
                raise BadName("the name ends before its root label")
            size = wire[at]
            if size > MAX_LABEL_OCTETS:
                raise LabelTooLong(f"label type or length 0x{size:02x} at octet {at}")
            at += 1 + size
            if not size:
                break
        if at != len(wire):
            raise BadName(f"{len(wire) - at} octets after the name")
        if at > MAX_NAME_OCTETS:
            raise NameTooLong(f"a name of {at} octets: at most {MAX_NAME_OCTETS}")
        return cls.trusted(wire)

    @classmethod
    def from_text(cls, text: str) -> Name:
        r"""Read a name in master file form (RFC 1035 section 5.1): ``\.`` and ``\065`` are understood.

        A name without its last dot is read as if it had one. Raises BadName.
        """
        if text in ("", "."):
            return ROOT
        labels: list[bytes] = []
        label = bytearray()
        at = 0
        while at < len(text):
            char = text[at]
            at += 1
            if char == ".":
                if not label:
                    raise BadName(f"empty label in {text!r}")
                labels.append(bytes(label))
                label.clear()
                continue
            if char == "\\":
                digits = text[at : at + 3]
                if len(digits) == 3 and digits.isascii() and digits.isdigit():
                    if int(digits) > 255:
                        raise BadName(f"escape \\{digits} in {text!r} is no octet")
                    label.append(int(digits))
                    at += 3
                    continue
                char = text[at : at + 1]
                at += 1
                if not char:
                    raise BadName(f"{text!r} ends in a backslash")
            if not char.isascii():
                raise BadName(f"{char!r} in {text!r}: a domain name is written in ASCII")
            label.append(ord(char))
        if label:
            labels.append(bytes(label))
        return cls(labels)

    def to_text(self) -> str:
        """Write the name in master file form with its last dot, case kept."""
        return "".join(f"{label_to_text(label)}." for label in split_labels(self.wire)) or "."

    def is_under(self, origin: Name) -> bool:
        """Tell whether this name is *origin* or below it, label by label."""
        depth = len(origin.labels)
        return not depth or self.labels[-depth:] == origin.labels

    def parent(self) -> Name:
        """Return the name without its leftmost label; the root is its own parent."""
        return Name.trusted(self.wire[1 + self.wire[0] :]) if self.labels else self

    def prefixed(self, *labels: bytes) -> Name:
        """Return the name with *labels* put in front. Raises BadName where it would be too long."""
        return Name([*labels, *split_labels(self.wire)])

    def has_room_for(self, *labels: bytes) -> bool:
        """Tell whether ``prefixed`` with *labels* is a legal name; below a long zone some are not, and do not exist."""
        return len(self.wire) + sum(map(len, labels)) + len(labels) <= MAX_NAME_OCTETS

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Name) else NotImplemented

    def __lt__(self, other: Name) -> bool:
        return self.labels[::-1] < other.labels[::-1]

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"Name({self.to_text()!r})"


def label_octets(labels: Iterable[bytes]) -> bytes:
    """Return *labels* in wire form, each behind its length octet, without the root's zero."""
    parts = []
    for label in labels:
        if not label:
            raise BadName("empty label")
        if len(label) > MAX_LABEL_OCTETS:
            raise LabelTooLong(f"a label of {len(label)} octets: at most {MAX_LABEL_OCTETS}")
        parts.append(bytes((len(label),)) + label)
    return b"".join(parts)


def split_labels(wire: bytes) -> list[bytes]:
    """Return the labels of checked uncompressed *wire* as spelled."""
    labels = []
    at = 0
    while size := wire[at]:
        labels.append(wire[at + 1 : at + 1 + size])
        at += 1 + size
    return labels


def label_to_text(label: bytes) -> str:
    r"""Write one label in master file form: what is not printable or would be misread as ``\DDD`` or ``\.``."""
    return "".join(
        f"\\{chr(octet)}" if octet in _ESCAPED else chr(octet) if 0x21 <= octet <= 0x7E else f"\\{octet:03d}"
        for octet in label
    )


ROOT = Name(())
"""The root, a name without labels."""
