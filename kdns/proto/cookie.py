"""DNS cookies (RFC 7873, RFC 9018): a client that was heard at its address before, and a server that was."""

from __future__ import annotations

import hmac
from hashlib import blake2s
from ipaddress import ip_address
from typing import Final

CODE: Final = 10
CLIENT_OCTETS: Final = 8
SERVER_OCTETS: Final = 16
_VERSION: Final = b"\1\0\0\0"
OLD_SECONDS: Final = 3600
AHEAD_SECONDS: Final = 300
"""How far a server's clock may be ahead of another's of the same secret (RFC 9018 section 4.3)."""

_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF


def siphash(key: bytes, data: bytes) -> bytes:
    """Return SipHash-2-4 of *data* under a *key* of 16 octets, 8 octets."""
    low, high = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")
    v0, v1 = low ^ 0x736F6D6570736575, high ^ 0x646F72616E646F6D
    v2, v3 = low ^ 0x6C7967656E657261, high ^ 0x7465646279746573
    whole = len(data) & ~7
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, whole, 8)]
    words.append(int.from_bytes(data[whole:].ljust(7, b"\0") + bytes((len(data) & 255,)), "little"))
    for word, rounds in (*((word, 2) for word in words), (None, 4)):
        if word is None:
            v2 ^= 0xFF
        else:
            v3 ^= word
        for _ in range(rounds):
            v0, v2 = v0 + v1 & _MASK, v2 + v3 & _MASK
            v1, v3 = _turned(v1, 13) ^ v0, _turned(v3, 16) ^ v2
            v0 = _turned(v0, 32)
            v2, v0 = v2 + v1 & _MASK, v0 + v3 & _MASK
            v1, v3 = _turned(v1, 17) ^ v2, _turned(v3, 21) ^ v0
            v2 = _turned(v2, 32)
        if word is not None:
            v0 ^= word
    return (v0 ^ v1 ^ v2 ^ v3).to_bytes(8, "little")


def _turned(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _MASK


def make_server_cookie(secret: bytes, client_cookie: bytes, address: str, now: int) -> bytes:
    """Return the server cookie for a client (RFC 9018 section 4): version, time, a hash of these and the address."""
    head = _VERSION + (now & 0xFFFFFFFF).to_bytes(4, "big")
    return head + siphash(secret, client_cookie + head + ip_address(address).packed)


def is_server_cookie(secret: bytes, cookie: bytes, address: str, now: int) -> bool:
    """Tell whether *cookie*, a client's and a server's, was given to that client at that address, lately."""
    if len(cookie) != CLIENT_OCTETS + SERVER_OCTETS or cookie[8:12] != _VERSION:
        return False
    made = int.from_bytes(cookie[12:16], "big")
    age = (now - made + (1 << 31) & 0xFFFFFFFF) - (1 << 31)  # in serial number arithmetic
    if not -AHEAD_SECONDS <= age <= OLD_SECONDS:
        return False
    return hmac.compare_digest(make_server_cookie(secret, cookie[:8], address, made), cookie[8:])


def make_client_cookie(secret: bytes, server: str) -> bytes:
    """Return the cookie that a server is shown, another for each (RFC 7873 section 4.1)."""
    return blake2s(server.encode(), key=secret, digest_size=CLIENT_OCTETS).digest()
