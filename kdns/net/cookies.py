"""Cookies for clients that ask with one: their queries are answered as if there were none, and the reply has one.

Without its cookie a query is like any other, so the table of finished answers serves it as well. A client that shows
the cookie that it was given is where it says that it is: ``--client-rate`` does not drop its queries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from kdns.errors import WireError
from kdns.net.handler import Client, Deliver, Handler, Later, Several
from kdns.proto.cookie import CODE, is_server_cookie, make_server_cookie
from kdns.proto.query import HEADER_OCTETS, MIN_UDP_OCTETS
from kdns.proto.reading import skip_name
from kdns.proto.table import Entry
from zones.records import OPT

OPTION_OCTETS: Final = 28
_MARK: Final = CODE.to_bytes(2, "big")


class Proven:
    """A client whose address is its own."""

    is_proven = True

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self) -> tuple[str, int]:
        """Return its address and port."""
        return self._client()


def is_proven(client: Client) -> bool:
    """Tell whether a client is known to be where it says."""
    return isinstance(client, Proven)


class WithCookies:
    """A handler in front of another (``net.handler.Handler``); *secret* has 16 octets."""

    def __init__(self, handler: Handler, secret: bytes) -> None:
        self._handler = handler
        self._secret = secret
        self.find: Callable[[bytes], Entry | None] = handler.find
        self.count: Callable[[Sequence[Entry], float], None] = handler.count

    def respond(self, wire: bytes, client: Client) -> bytes | Later | Several | None:
        """Take the cookie out of the query, have it answered, and put one into the reply."""
        if _MARK not in wire or len(wire) < HEADER_OCTETS or wire[2] & 0xF8:
            return self._handler.respond(wire, client)
        try:
            found = _taken_out(wire)
        except (WireError, IndexError):
            found = None
        if found is None:
            return self._handler.respond(wire, client)
        plain, cookie = found
        address, now = client()[0].partition("%")[0], int(time.time())
        if is_server_cookie(self._secret, cookie, address, now):
            client = Proven(client)
        option = _MARK + b"\0\x18" + cookie[:8] + make_server_cookie(self._secret, cookie[:8], address, now)
        if wire[4:6] == b"\0\0":  # a client that wants nothing but a cookie (RFC 7873 section 5.4)
            flags = bytes((0x80 | wire[2] & 0x01, 0))
            return flags + bytes(7) + b"\1" + b"\0\0\x29\x04\xd0\0\0\0\0" + len(option).to_bytes(2, "big") + option
        entry = self.find(plain[2:])
        if entry is not None:
            self.count([entry], 0.0)
            return _put_in(entry.next(), option)
        answer = self._handler.respond(plain, client)
        if isinstance(answer, bytes):
            return _put_in(answer, option)
        if not callable(answer):
            return answer  # none, or several, which are of a transfer
        later = answer

        def resolve(deliver: Deliver) -> None:
            later(lambda tail: deliver(None if tail is None else _put_in(tail, option)))

        return resolve


def _taken_out(wire: bytes) -> tuple[bytes, bytes] | None:
    """Return a query without its cookie, asking for as much less as the cookie of the reply takes; and the cookie."""
    at = HEADER_OCTETS
    counts = [int.from_bytes(wire[place : place + 2], "big") for place in (4, 6, 8, 10)]
    if counts[0] > 1:
        return None
    if counts[0]:
        at = skip_name(wire, at) + 4
    for number in range(sum(counts[1:])):
        start = at
        at = skip_name(wire, at)
        rtype, end = wire[at] << 8 | wire[at + 1], at + 10 + (wire[at + 8] << 8 | wire[at + 9])
        if rtype != OPT or number < counts[1] + counts[2] or wire[start]:
            at = end
            continue
        options = wire[at + 10 : end]
        place = 0
        while place + 4 <= len(options):
            octets = int.from_bytes(options[place + 2 : place + 4], "big")
            if options[place : place + 2] == _MARK:
                cookie = options[place + 4 : place + 4 + octets]
                if not (octets == 8 or 16 <= octets <= 40) or len(cookie) != octets:
                    return None
                rest = options[:place] + options[place + 4 + octets :]
                size = int.from_bytes(wire[at + 2 : at + 4], "big")
                size = max(min(size, 1232) - OPTION_OCTETS, MIN_UDP_OCTETS)
                middle = wire[at : at + 2] + size.to_bytes(2, "big") + wire[at + 4 : at + 8]
                return wire[:at] + middle + len(rest).to_bytes(2, "big") + rest + wire[end:], cookie
            place += 4 + octets
        return None
    return None


def _put_in(tail: bytes, option: bytes) -> bytes:
    """Return a reply with an option more in its OPT record, which is the last; one without an OPT as it is."""
    wire = b"\0\0" + tail
    counts = [int.from_bytes(wire[place : place + 2], "big") for place in (4, 6, 8, 10)]
    at = HEADER_OCTETS
    for _ in range(counts[0]):
        at = skip_name(wire, at) + 4
    for _ in range(sum(counts[1:])):
        at = skip_name(wire, at)
        size = int.from_bytes(wire[at + 8 : at + 10], "big")
        if wire[at] << 8 | wire[at + 1] == OPT:
            length = (size + len(option)).to_bytes(2, "big")
            return wire[2 : at + 8] + length + wire[at + 10 : at + 10 + size] + option + wire[at + 10 + size :]
        at += 10 + size
    return tail
