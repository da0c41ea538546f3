"""A question to an upstream in wire form, and whether a message is the reply to it (RFC 5452 section 9.1)."""

from __future__ import annotations

from typing import Final

import msgspec

from kdns.proto.query import FORMERR, HEADER_OCTETS, MAX_UDP_OCTETS, NOTIMP, SERVFAIL
from zones.names import Name

_OPT: Final = b"\0\0\x29" + MAX_UDP_OCTETS.to_bytes(2, "big") + b"\0\0"

_MAY_LACK_QUESTION: Final = frozenset((FORMERR, SERVFAIL, NOTIMP))
"""RCODEs of a server that could not read the question, and so may not repeat it (RFC 1035 section 4.1.1)."""


class Question(msgspec.Struct, frozen=True, gc=False):
    """What to ask: a name, a type, the DO and CD bits, and EDNS *options* in wire form.

    ``context`` is whatever the asker wants to find again with the reply; equal questions need not share it.
    """

    qname: Name
    qtype: int
    do: bool = False
    cd: bool = False
    options: bytes = b""
    context: object = None

    @property
    def key(self) -> bytes:
        """What equal questions share."""
        qtype = self.qtype
        return b"%b%c%c%c%b" % (self.qname.key, qtype >> 8, qtype & 255, self.do << 1 | self.cd, self.options)

    def to_wire(self, *, edns: bool = True) -> bytes:
        """Return the message without its ID: RD and AD set, at most 1232 octets wanted over UDP (RFC 9715)."""
        qtype, options = self.qtype, self.options
        flags = 0x30 if self.cd else 0x20
        if not edns:
            return b"\1%c\0\1\0\0\0\0\0\0%b%c%c\0\1" % (flags, self.qname.wire, qtype >> 8, qtype & 255)
        if not options:
            return b"\1%c\0\1\0\0\0\0\0\1%b%c%c\0\1%b%c\0\0\0" % (
                flags, self.qname.wire, qtype >> 8, qtype & 255, _OPT, 0x80 * self.do
            )  # fmt: skip
        return b"\1%c\0\1\0\0\0\0\0\1%b%c%c\0\1%b%c\0%c%c%b" % (
            flags,
            self.qname.wire,
            qtype >> 8,
            qtype & 255,
            _OPT,
            0x80 * self.do,
            len(options) >> 8,
            len(options) & 255,
            options,
        )


def with_random_case(wire: bytes, bits: bytes) -> bytes:
    """Return a message without its ID in which each letter of the name asked for is upper or lower case by *bits*.

    A true reply repeats the question as it was spelled; who guesses has to guess the spelling, too (0x20). *bits* are
    random octets, as many as the name has at least.
    """
    name_at = HEADER_OCTETS - 2
    end = wire.index(0, name_at)
    name = bytearray(wire[name_at:end])
    for at, octet in enumerate(name):
        if 0x41 <= octet & 0xDF <= 0x5A and octet >= 0x41:  # a length is at most 63, so no letter
            name[at] = octet & 0xDF | (bits[at] & 0x20)
    return wire[:name_at] + bytes(name) + wire[end:]


def is_reply(wire: bytes, message_id: bytes, question: bytes) -> bool:
    """Tell whether *wire* answers *question* (its section in wire form, as sent) under that ID.

    What does not is somebody else's, or somebody's who guesses: it is ignored and waiting goes on.
    """
    if wire[:2] != message_id or len(wire) < HEADER_OCTETS or wire[2] & 0xF8 != 0x80:
        return False
    if wire[4:6] == b"\0\1":
        return wire.startswith(question, HEADER_OCTETS) or (
            wire[HEADER_OCTETS : HEADER_OCTETS + len(question)].lower() == question.lower()
        )
    return wire[4:6] == b"\0\0" and wire[3] & 15 in _MAY_LACK_QUESTION
