"""Cookies against the vectors of the specifications."""

from __future__ import annotations

import pytest

from kdns.proto.cookie import is_server_cookie, make_client_cookie, make_server_cookie, siphash

SECRET = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
IPV6 = "2001:db8:220:1:59de:d0f4:8769:82b8"
NEW = bytes.fromhex("445536bcd2513298075a5d379663c962")
OTHER = bytes.fromhex("dd3bdf9344b678b185a6f5cb60fca715")


def test_siphash_of_its_paper() -> None:
    assert siphash(bytes(range(16)), bytes(range(15))).hex() == "e545be4961ca29a1"


@pytest.mark.parametrize(
    ("secret", "client", "address", "now", "wanted"),
    [
        # RFC 9018 appendix A.1 and A.2
        (SECRET, "2464c4abcf10c957", "198.51.100.100", 1559731985, "010000005cf79f111f8130c3eee29480"),
        (SECRET, "2464c4abcf10c957", "198.51.100.100", 1559734385, "010000005cf7a871d4a564a1442aca77"),
        # A.4: IPv6, before and after the secret was changed
        (OTHER, "22681ab97d52c298", IPV6, 1559741817, "010000005cf7c57926556bd0934c72f8"),
        (NEW, "22681ab97d52c298", IPV6, 1559741961, "010000005cf7c609a6bb79d16625507a"),
    ],
)
def test_server_cookies_of_the_specification(secret: bytes, client: str, address: str, now: int, wanted: str) -> None:
    made = make_server_cookie(secret, bytes.fromhex(client), address, now)
    assert made.hex() == wanted
    assert is_server_cookie(secret, bytes.fromhex(client) + made, address, now)


def test_what_is_no_cookie_of_ours() -> None:
    client, address, now = b"abcdefgh", "192.0.2.1", 1_800_000_000
    cookie = client + make_server_cookie(SECRET, client, address, now)
    assert is_server_cookie(SECRET, cookie, address, now + 3600)
    assert not is_server_cookie(SECRET, cookie, address, now + 3601), "an hour old"
    assert is_server_cookie(SECRET, cookie, address, now - 300)
    assert not is_server_cookie(SECRET, cookie, address, now - 301), "of the future"
    assert not is_server_cookie(SECRET, cookie, "192.0.2.2", now)
    assert not is_server_cookie(OTHER, cookie, address, now)
    assert not is_server_cookie(SECRET, b"x" + cookie[1:], address, now)
    assert not is_server_cookie(SECRET, cookie[:-1], address, now)
    assert not is_server_cookie(SECRET, client, address, now)
    assert not is_server_cookie(SECRET, client + b"\2" + cookie[9:], address, now)
    around = 0xFFFF_FFF0  # the time wraps (RFC 1982)
    assert is_server_cookie(SECRET, client + make_server_cookie(SECRET, client, address, around), address, 2**32 + 5)


def test_each_server_is_shown_another() -> None:
    secret = bytes(32)
    assert make_client_cookie(secret, "192.0.2.1 53") != make_client_cookie(secret, "192.0.2.2 53")
    assert make_client_cookie(secret, "192.0.2.1 53") == make_client_cookie(secret, "192.0.2.1 53")
