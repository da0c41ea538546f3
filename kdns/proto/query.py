"""What a packet asks, once it is read (``kdns.proto.reading``); the protocol's numbers (RFC 1035, RFC 6891)."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

import msgspec

from zones.names import Name

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
NOTAUTH: Final = 9
BADVERS: Final = 16

RCODE_TEXT: Final = {
    0: "NOERROR",
    1: "FORMERR",
    2: "SERVFAIL",
    3: "NXDOMAIN",
    4: "NOTIMP",
    5: "REFUSED",
    6: "YXDOMAIN",
    7: "YXRRSET",
    8: "NXRRSET",
    9: "NOTAUTH",
    10: "NOTZONE",
    16: "BADVERS",
    17: "BADKEY",
    23: "BADCOOKIE",
}

HEADER_OCTETS: Final = 12
MAX_MESSAGE_OCTETS: Final = 65_535
"""What the length field of TCP can say (RFC 1035 section 4.2.2)."""
MIN_UDP_OCTETS: Final = 512
"""What every client takes (RFC 1035 section 4.2.1)."""
MAX_UDP_OCTETS: Final = 1232
"""The most that is sent over UDP: fits the smallest IPv6 MTU unfragmented (RFC 9715)."""


class Transport(Enum):
    """How a message came."""

    UDP = "udp"
    TCP = "tcp"


class Edns(msgspec.Struct, frozen=True, gc=False):
    """What the OPT record of a query says (RFC 6891 section 6.1); ``size`` in octets as the client wrote it.

    ``is_peer``: it wants to know whether this is kdns (``kdns.proto.peer``).
    """

    size: int
    version: int
    do: bool
    keepalive: bool = False
    is_peer: bool = False


class Tsig(msgspec.Struct, frozen=True, gc=False):
    """A transaction signature, as far as refusing its key needs it (RFC 8945 section 4.2)."""

    key: Name
    algorithm: bytes
    time_and_fudge: bytes


class Query(msgspec.Struct, gc=False):
    """A well-formed query. ``question`` are the octets of its question section; ``octets`` its own length."""

    id: bytes
    flags: int
    qname: Name
    qtype: int
    qclass: int
    question: bytes
    octets: int
    transport: Transport
    edns: Edns | None = None
    signed: Tsig | Literal["sig0"] | None = None

    @property
    def recursion_desired(self) -> bool:
        """Whether RD is set."""
        return bool(self.flags & 0x0100)

    @property
    def checking_disabled(self) -> bool:
        """Whether CD is set."""
        return bool(self.flags & 0x0010)

    @property
    def limit(self) -> int:
        """The most octets that a response may have."""
        if self.transport is Transport.TCP:
            return MAX_MESSAGE_OCTETS
        if self.edns is None:
            return MIN_UDP_OCTETS
        return min(max(self.edns.size, MIN_UDP_OCTETS), MAX_UDP_OCTETS)
