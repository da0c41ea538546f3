"""What answers are counted by: few values, each one object shared by all answers of its sort."""

from __future__ import annotations

import msgspec


class Label(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What an answer is counted by: its zone (``.`` for the upstreams', empty for none), its type, its RCODE, DO.

    Told apart by identity: millions are counted, few are made, and hashing what is in them costs more than counting.
    """

    zone: str
    qtype: int
    rcode: int
    do: bool
