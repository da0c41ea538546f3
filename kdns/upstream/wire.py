"""A question to an upstream in wire form, and whether a message is the reply to it (RFC 5452 section 9.1)."""

from __future__ import annotations

from typing import Final

from kdns.proto.query import FORMERR, HEADER_OCTETS, MAX_UDP_OCTETS, NOTIMP, SERVFAIL
from kdns.upstream.question import Question

_HEADS: Final = {cd: b"\1%c\0\1\0\0\0\0\0" % (0x30 if cd else 0x20) for cd in (False, True)}
"""What precedes the number of additional records, without the ID: RD, AD and CD, one question."""
_OPTS: Final = {do: b"\0\0\x29%b\0\0%c\0" % (MAX_UDP_OCTETS.to_bytes(2, "big"), 0x80 * do) for do in (False, True)}
"""The OPT record up to the length of its options: at most 1232 octets wanted over UDP (RFC 9715)."""

_MAY_LACK_QUESTION: Final = frozenset((FORMERR, SERVFAIL, NOTIMP))
"""RCODEs of a server that could not read the question, and so may not repeat it (RFC 1035 section 4.1.1)."""


def section_of(question: Question) -> bytes:
    """Return the question section."""
    return question.qname.wire + question.qtype.to_bytes(2, "big") + b"\0\1"


def wire_of(question: Question, section: bytes, *, edns: bool = True) -> bytes:
    """Return the message with that ``section_of`` without its ID."""
    head = _HEADS[question.cd]
    if not edns:
        return head + b"\0" + section
    options = question.options
    return head + b"\1" + section + _OPTS[question.do] + len(options).to_bytes(2, "big") + options


def with_random_case(wire: bytes, bits: bytes) -> bytes:
    """Return a message without its ID in which each letter of the name asked for is upper or lower case by *bits*.

    A true reply repeats the question as it was spelled; who guesses has to guess the spelling, too (0x20). *bits* are
    random octets, as many as the name has at least.
    """
    name_at = HEADER_OCTETS - 2
    end = wire.index(0, name_at)
    name = bytearray(wire[name_at:end])
    for at, octet in enumerate(wire[name_at:end]):
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
