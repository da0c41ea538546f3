"""A scripted upstream: real UDP and TCP sockets, and a function that decides what comes back."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import dns.flags
import dns.message
import dns.rrset

from tests.support.client import read_exactly

Reply = bytes | Iterable[bytes] | None
Script = Callable[[dns.message.Message, bool], Reply]


def answer(
    query: dns.message.Message, *lines: str, flags: int = dns.flags.QR | dns.flags.RD | dns.flags.RA
) -> dns.message.Message:
    """Return a reply to *query* with records such as ``www.example.com. 60 IN A 192.0.2.1``."""
    reply = dns.message.make_response(query, recursion_available=True)
    reply.flags = flags
    for line in lines:
        owner, ttl, rclass, rrtype, *rdata = line.split()
        reply.answer.append(dns.rrset.from_text(owner, int(ttl), rclass, rrtype, " ".join(rdata)))
    return reply


class Upstream:
    """Answers as *script* says, which gets the query and whether it came over TCP. Use as a context manager."""

    def __init__(self, script: Script, host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.tls = tls
        self.connections = 0
        self.queries: list[tuple[dns.message.Message, bool, Any]] = []
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        while True:
            self._udp.bind((host, 0))
            self.port: int = self._udp.getsockname()[1]
            try:
                self._tcp.bind((host, self.port))
            except OSError:
                self._udp.close()
                self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                continue
            break
        self._tcp.listen()
        self.host = host

    @property
    def text(self) -> str:
        return f"{self.host}:{self.port}"

    def __enter__(self) -> Upstream:
        threading.Thread(target=self._serve_udp, daemon=True).start()
        threading.Thread(target=self._serve_tcp, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._udp, self._tcp):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _replies(self, wire: bytes, client: Any, *, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(wire)
        self.queries.append((query, tcp, client))
        reply = self.script(query, tcp)
        if reply is None:
            return []
        return [reply] if isinstance(reply, bytes) else list(reply)

    def _serve_udp(self) -> None:
        while True:
            try:
                wire, client = self._udp.recvfrom(65_535)
            except OSError:
                return
            if not wire:
                return
            for reply in self._replies(wire, client, tcp=False):
                with suppress(OSError):  # closed while the script was slow
                    self._udp.sendto(reply, client)

    def _serve_tcp(self) -> None:
        while True:
            try:
                conn, client = self._tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_connection, args=(conn, client), daemon=True).start()

    def _serve_connection(self, conn: socket.socket, client: Any) -> None:
        """Answer message after message until the client closes; what the script raises closes it here."""
        try:
            if self.tls is not None:
                conn = self.tls.wrap_socket(conn, server_side=True)
            self.connections += 1
            with conn:
                while True:
                    size = struct.unpack("!H", read_exactly(conn, 2))[0]
                    for reply in self._replies(read_exactly(conn, size), client, tcp=True):
                        conn.sendall(struct.pack("!H", len(reply)) + reply)
        except (OSError, ConnectionError):
            conn.close()
