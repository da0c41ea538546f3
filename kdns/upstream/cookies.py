"""Cookies towards upstreams: who guesses an ID and a port has to guess eight octets more (RFC 7873 section 5.3).

| what a server has shown       | a reply over UDP that has                                                        |
|-------------------------------|----------------------------------------------------------------------------------|
| no cookie yet                 | none: is taken; one with our part right: is taken, and the server's part kept    |
| a cookie                      | ours, right: is taken. None, or another: is somebody else's, and waiting goes on |
|                               | after ``MAX_MISSING`` in a row the server has none any more, and is asked anew   |
"""

from __future__ import annotations

import os
from typing import Final

from kdns.errors import WireError
from kdns.proto.cookie import CLIENT_OCTETS, CODE, make_client_cookie
from kdns.proto.message import option_of, read_message
from kdns.upstream.servers import Server

BADCOOKIE: Final = 23
MAX_MISSING: Final = 6


class UpstreamCookies:
    """What each server was shown, and has shown."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._ours: dict[Server, bytes] = {}
        self._theirs: dict[Server, bytes] = {}
        self._missing: dict[Server, int] = {}
        self.refused = 0
        """Replies that were passed over because their cookie was missing or wrong."""

    def option(self, server: Server) -> bytes:
        """Return the option to ask *server* with."""
        ours = self._ours.get(server)
        if ours is None:
            ours = self._ours[server] = make_client_cookie(self._secret, f"{server.address} {server.port}")
        cookie = ours + self._theirs.get(server, b"")
        return CODE.to_bytes(2, "big") + len(cookie).to_bytes(2, "big") + cookie

    def take(self, server: Server, wire: bytes) -> tuple[bool, bool]:
        """Tell whether a reply over UDP may be *server*'s, and whether it wants to be asked again with its cookie."""
        try:
            message = read_message(wire)
        except WireError:
            return True, False  # whoever reads it as a whole says so
        cookie = option_of(message.options, CODE)
        if cookie is None:
            if server not in self._theirs:
                return True, False
            self._missing[server] = self._missing.get(server, 0) + 1
            if self._missing[server] >= MAX_MISSING:
                del self._theirs[server], self._missing[server]
                return True, False
            self.refused += 1
            return False, False
        if cookie[:CLIENT_OCTETS] != self._ours.get(server):
            self.refused += 1
            return False, False
        is_new = cookie[CLIENT_OCTETS:] != self._theirs.get(server)
        if len(cookie) > CLIENT_OCTETS:
            self._theirs[server] = cookie[CLIENT_OCTETS:]
        self._missing.pop(server, None)
        return True, message.rcode == BADCOOKIE and is_new


def with_option(wire: bytes, name_octets: int, option: bytes) -> bytes:
    """Return a question, a message without its ID whose OPT record is its last, with an EDNS option more."""
    at = 10 + name_octets + 4 + 9
    size = (wire[at] << 8 | wire[at + 1]) + len(option)
    return wire[:at] + size.to_bytes(2, "big") + wire[at + 2 :] + option
