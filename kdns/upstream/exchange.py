"""One question to one server and its reply, over UDP or TCP (RFC 5452, RFC 7766).

Over UDP every question has a socket, so a source port, of its own, and an ID from the system's random source; what
does not match is ignored and waiting goes on, for one wrong datagram must not end the wait (TuDoor).
"""

from __future__ import annotations

import secrets
import socket

import trio

from kdns.errors import UpstreamError, WireError
from kdns.proto.message import make_question, Message, read_message
from kdns.proto.query import FORMERR, NOTIMP
from kdns.upstream.servers import Server
from zones.names import Name
from zones.records import IN

RECEIVE_OCTETS = 65_535


def matches(message: Message, message_id: bytes, qname: Name, qtype: int) -> bool:
    """Tell whether *message* is the reply to that question: QR, ID, name, type and class.

    A server that could not read the question may say so without it.
    """
    if not message.is_response or message.id != message_id:
        return False
    return message.question == (qname, qtype, IN) or (message.question is None and message.rcode in (FORMERR, NOTIMP))


async def exchange_udp(server: Server, qname: Name, qtype: int, *, do: bool, edns: bool = True) -> Message:
    """Ask over UDP and wait for the matching reply. Raises UpstreamError when the system says that none can come."""
    message_id = secrets.token_bytes(2)
    try:
        info = socket.getaddrinfo(server.address, server.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
        with trio.socket.socket(info[0], socket.SOCK_DGRAM) as sock:
            await sock.connect(info[4])
            await sock.send(make_question(message_id, qname, qtype, do=do, edns=edns))
            while True:
                wire = await sock.recv(RECEIVE_OCTETS)
                try:
                    message = read_message(wire)
                except WireError:
                    continue
                if matches(message, message_id, qname, qtype):
                    return message
    except OSError as exc:
        raise UpstreamError(f"{server}: {exc.strerror or exc}") from exc


async def exchange_tcp(server: Server, qname: Name, qtype: int, *, do: bool) -> Message:
    """Ask over a TCP connection of its own. Raises UpstreamError."""
    message_id = secrets.token_bytes(2)
    question = make_question(message_id, qname, qtype, do=do)
    try:
        async with await trio.open_tcp_stream(server.address, server.port) as stream:
            await stream.send_all(len(question).to_bytes(2, "big") + question)
            buffer = bytearray()
            while True:
                chunk = await stream.receive_some(RECEIVE_OCTETS)
                if not chunk:
                    raise UpstreamError(f"{server}: closed the connection without a reply")
                buffer += chunk
                while len(buffer) >= 2 and len(buffer) >= (end := 2 + (buffer[0] << 8 | buffer[1])):
                    wire = bytes(buffer[2:end])
                    del buffer[:end]
                    try:
                        message = read_message(wire)
                    except WireError as exc:
                        raise UpstreamError(f"{server}: {exc}") from exc
                    if matches(message, message_id, qname, qtype):
                        return message
    except (OSError, trio.BrokenResourceError) as exc:
        raise UpstreamError(f"{server}: {exc}") from exc
