"""The private EDNS option by which kdns tells those who ask for it that it is kdns (RFC 6891 section 9: local use).

A question carries it empty. A reply of kdns carries two octets: the version of this agreement and flags. A server that
does not know the option leaves it out, and one that echoes it has no version in it, so neither is taken for kdns.
"""

from __future__ import annotations

from typing import Final

CODE: Final = 65_313
VERSION: Final = 1

NOTHING_MATCHED: Final = 1
"""No step of the search path inside the cluster has records: the steps outside are the asker's to walk."""
LITERAL: Final = 2
"""The last label of the prefix is a Service of the namespace, or there is no such namespace: the name may have been
meant as it stands."""

FEED: Final = 4
"""The server pushes changes to those who subscribe (RFC 8765), over a connection of the kind that it is asked on."""

HELLO: Final = CODE.to_bytes(2, "big") + b"\0\0"
"""The option as a question has it."""


def greeting(flags: int = 0) -> bytes:
    """Return the option as a reply has it."""
    return CODE.to_bytes(2, "big") + b"\0\2" + bytes((VERSION, flags))


def flags_of(data: bytes) -> int | None:
    """Return the flags in a reply's option, None where it is not kdns that wrote it."""
    return data[1] if len(data) == 2 and data[0] == VERSION else None
