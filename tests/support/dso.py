"""A client of DNS push notifications that shares no code with ours: octets by hand, records by dnspython."""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any

import dns.name
import dns.rdata
import dns.rdatatype
import dns.wirebase

from tests.support.client import read_framed

KEEPALIVE, RETRY_DELAY, SUBSCRIBE, PUSH, UNSUBSCRIBE, RECONFIRM = 1, 2, 0x40, 0x41, 0x42, 0x43
GONE = 0xFFFFFFFF


def tlv(kind: int, data: bytes) -> bytes:
    return struct.pack("!HH", kind, len(data)) + data


def message(message_id: int, body: bytes, flags: int = 0x3000) -> bytes:
    return struct.pack("!HH8x", message_id, flags) + body


def subscribe(message_id: int, name: str, rrtype: str, rclass: int = 1) -> bytes:
    wire = dns.name.from_text(name).to_wire() or b""
    return message(message_id, tlv(SUBSCRIBE, wire + struct.pack("!HH", dns.rdatatype.from_text(rrtype), rclass)))


def keepalive(message_id: int) -> bytes:
    return message(message_id, tlv(KEEPALIVE, struct.pack("!II", 15_000, 15_000)))


def unsubscribe(message_id: int) -> bytes:
    return message(0, tlv(UNSUBSCRIBE, struct.pack("!H", message_id)))


@dataclass
class Told:
    """A message of the server's."""

    id: int
    is_response: bool
    opcode: int
    rcode: int
    tlvs: list[tuple[int, bytes]]
    wire: bytes

    @property
    def changes(self) -> list[str]:
        """The notices of a PUSH: ``+name type rdata`` or ``-name type rdata``."""
        ((kind, _),) = self.tlvs
        assert kind == PUSH
        parser = dns.wirebase.Parser(self.wire, 16)
        changes = []
        while parser.remaining():
            name = dns.name.from_wire_parser(parser)
            rrtype, rclass, ttl, size = parser.get_struct("!HHIH")
            assert rclass == 1
            rdata = dns.rdata.from_wire(rclass, rrtype, self.wire, parser.current, size)
            parser.get_bytes(size)
            assert ttl == GONE or ttl < 1 << 31
            changes.append(f"{'-' if ttl == GONE else '+'}{name} {dns.rdatatype.to_text(rrtype)} {rdata}")
        return sorted(changes)


class Subscriber:
    """A connection to a server. Use as a context manager."""

    def __init__(
        self, port: int, *, tls: ssl.SSLContext | None = None, name: str = "", source: str = "127.0.0.1"
    ) -> None:
        sock = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))
        self.sock: socket.socket = sock if tls is None else tls.wrap_socket(sock, server_hostname=name)

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: Any) -> None:
        self.sock.close()

    def send(self, *wires: bytes) -> None:
        self.sock.sendall(b"".join(struct.pack("!H", len(wire)) + wire for wire in wires))

    def read(self, seconds: float = 10) -> Told:
        self.sock.settimeout(seconds)
        wire = read_framed(self.sock)
        message_id, flags = struct.unpack("!HH", wire[:4])
        tlvs, at = [], 12
        while at < len(wire):
            kind, size = struct.unpack("!HH", wire[at : at + 4])
            tlvs.append((kind, wire[at + 4 : at + 4 + size]))
            at += 4 + size
        assert at == len(wire)
        return Told(message_id, bool(flags & 0x8000), flags >> 11 & 15, flags & 15, tlvs, wire)

    def is_quiet(self, seconds: float = 0.3) -> bool:
        try:
            self.read(seconds)
        except TimeoutError:
            return True
        return False

    def is_cut(self) -> bool:
        """Wait for the end of the connection; tell whether it was a reset."""
        self.sock.settimeout(10)
        try:
            while self.sock.recv(65_536):
                pass
        except ConnectionResetError:
            return True
        return False

    def subscribe(self, message_id: int, name: str, rrtype: str) -> int:
        """Subscribe and return the RCODE."""
        self.send(subscribe(message_id, name, rrtype))
        told = self.read()
        assert (told.id, told.is_response, told.opcode) == (message_id, True, 6)
        return told.rcode
