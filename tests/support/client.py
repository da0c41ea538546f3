"""Questions over real sockets, without a DNS library in the way."""

from __future__ import annotations

import socket
import struct
import time

import dns.message

from kdns.proto.query import Transport

QUIET_SECONDS = 0.25
"""How long silence has to last to be called silence."""


def ask_udp(port: int, wire: bytes, *, host: str = "127.0.0.1", quiet: bool = False) -> bytes | None:
    """Send one datagram and return the reply, None after a timeout."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(QUIET_SECONDS if quiet else 10)
        sock.connect((host, port))  # so a reply from another address would not arrive
        sock.send(wire)
        try:
            return sock.recv(65_535)
        except TimeoutError:
            return None


def ask_tcp(port: int, wire: bytes, *, host: str = "127.0.0.1", quiet: bool = False) -> bytes | None:
    """Send one message over a connection of its own and return the reply, None if none comes."""
    with socket.create_connection((host, port), timeout=10) as sock:
        sock.sendall(struct.pack("!H", len(wire)) + wire)
        sock.settimeout(QUIET_SECONDS if quiet else 10)
        try:
            return read_framed(sock)
        except (TimeoutError, ConnectionError):
            return None


def ask(port: int, wire: bytes, transport: Transport, *, quiet: bool = False) -> bytes | None:
    return (ask_udp if transport is Transport.UDP else ask_tcp)(port, wire, quiet=quiet)


def read_framed(sock: socket.socket) -> bytes:
    """Read one message behind its length."""
    size = struct.unpack("!H", read_exactly(sock, 2))[0]
    return read_exactly(sock, size)


def read_exactly(sock: socket.socket, octets: int) -> bytes:
    data = b""
    while len(data) < octets:
        chunk = sock.recv(octets - len(data))
        if not chunk:
            raise ConnectionError("closed")
        data += chunk
    return data


def lookup(
    port: int, name: str, rrtype: str = "A", *, tcp: bool = False, host: str = "127.0.0.1"
) -> dns.message.Message:
    """Ask with dnspython's message and reader."""
    wire = dns.message.make_query(name, rrtype, use_edns=0, payload=1232).to_wire()
    reply = (ask_tcp if tcp else ask_udp)(port, wire, host=host)
    assert reply is not None
    return dns.message.from_wire(reply)


def addresses(port: int, name: str, rrtype: str = "A", *, host: str = "127.0.0.1") -> set[str]:
    """Return the addresses in the answer."""
    wanted = dns.rdatatype.from_text(rrtype)
    reply = lookup(port, name, rrtype, host=host)
    return {rdata.to_text() for rrset in reply.answer if rrset.rdtype == wanted for rdata in rrset}


def wait_for_addresses(port: int, name: str, wanted: set[str], *, seconds: float = 20) -> None:
    """Ask until the answer is what it should become."""
    deadline = time.monotonic() + seconds
    while (found := addresses(port, name)) != wanted:
        assert time.monotonic() < deadline, f"{name}: {found}, not {wanted}"
        time.sleep(0.005)
