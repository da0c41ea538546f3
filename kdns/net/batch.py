"""Batches of datagrams: recvmmsg(2) and sendmmsg(2) through ctypes (Linux).

One set of buffers serves both ways: a reply is written over its query, from the third octet on, so the ID stays in
place; the address that a query came from and, on a wildcard socket, the address that it was sent to (IP_PKTINFO,
IPV6_PKTINFO) lie in the headers where recvmmsg put them, and sendmmsg sends by them.

``PyDLL`` keeps the GIL over the call, which with MSG_DONTWAIT never blocks: measured, 0.1 µs a query less than giving
it up and taking it again. Headers are read and written as one array of 64-bit integers; touching a ctypes field costs
more than all the rest.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import sys
from collections.abc import Callable
from functools import partial

SLOTS = 64
"""Datagrams in a batch: more gained nothing, and let later ones wait."""

SLOT_OCTETS = 4096
"""Room for one datagram. A longer query is cut, and so answered FORMERR; no response over UDP is longer than 1232."""

_HEADER_WORDS = 8
"""struct mmsghdr on 64-bit Linux: name, namelen, iov, iovlen, control, controllen, flags, len; each in a word."""
_NAME_OCTETS = 32
_CONTROL_OCTETS = 64
_MSG_DONTWAIT = 0x40

_IP_PKTINFO = 8
_IPV6_RECVPKTINFO = 49
_SO_MEMINFO = 55


def is_available() -> bool:
    """Tell whether this system has the calls in the layout that is written to here."""
    return sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8 and sys.byteorder == "little"


def wants_destination(sock: socket.socket) -> bool:
    """Tell whether *sock* is bound to the wildcard, so that each reply must be told which address to leave from."""
    return sock.getsockname()[0] in ("0.0.0.0", "::")  # noqa: S104 - asked, not bound here


def ask_for_destination(sock: socket.socket) -> None:
    """Have the kernel tell the destination of each datagram on *sock*."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


Envelope = tuple[bytes, bytes, bytes]
"""The ID of a query, the address that it came from and, on a wildcard socket, the one that it was sent to; the last
two as the system has them."""


def client_of(envelope: Envelope) -> tuple[str, int]:
    """Return the address and port that a query came from."""
    name = envelope[1]
    port = name[2] << 8 | name[3]
    if name[0] | name[1] << 8 == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, name[8:24]), port
    return socket.inet_ntop(socket.AF_INET, name[4:8]), port


class Outbox:
    """Replies that came later than their batch, sent together by ``flush``."""

    def __init__(self, sock: socket.socket) -> None:
        self._fd = sock.fileno()
        self._has_destination = wants_destination(sock)
        self._name_octets = 28 if sock.family == socket.AF_INET6 else 16
        self._waiting: list[tuple[Envelope, bytes]] = []
        self._headers = (ctypes.c_uint64 * (SLOTS * _HEADER_WORDS))()
        self._iovs = (ctypes.c_uint64 * (SLOTS * 2))()
        self._names = bytearray(SLOTS * _NAME_OCTETS)
        self._controls = bytearray(SLOTS * _CONTROL_OCTETS)
        self._data = bytearray(SLOTS * SLOT_OCTETS)
        data, names, controls = (_address_of(buffer) for buffer in (self._data, self._names, self._controls))
        iovs = ctypes.addressof(self._iovs)
        for slot in range(SLOTS):
            self._iovs[2 * slot] = data + slot * SLOT_OCTETS
            at = slot * _HEADER_WORDS
            self._headers[at] = names + slot * _NAME_OCTETS
            self._headers[at + 1] = self._name_octets
            self._headers[at + 2] = iovs + slot * 16
            self._headers[at + 3] = 1
            if self._has_destination:
                self._headers[at + 4] = controls + slot * _CONTROL_OCTETS
                self._headers[at + 5] = 40 if sock.family == socket.AF_INET6 else 32  # CMSG_SPACE of the two structs
        self._sizes = memoryview(self._iovs).cast("B").cast("Q")[1::2]
        self._views = [memoryview(buffer) for buffer in (self._data, self._names, self._controls)]
        self._header_at = ctypes.addressof(self._headers)
        _, self._sendmmsg = _calls()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, envelope: Envelope, tail: bytes) -> bool:
        """Keep a reply; tell whether it is the first that waits."""
        self._waiting.append((envelope, tail))
        return len(self._waiting) == 1

    def flush(self) -> int:
        """Send what waits; return how many could not be sent."""
        waiting, self._waiting = self._waiting, []
        data, names, controls = self._views
        sizes = self._sizes
        lost = 0
        for first in range(0, len(waiting), SLOTS):
            some = waiting[first : first + SLOTS]
            at = 0
            for slot, ((message_id, name, control), tail) in enumerate(some):
                size = len(tail) + 2
                data[at : at + 2] = message_id
                data[at + 2 : at + size] = tail
                names[slot * _NAME_OCTETS : (slot + 1) * _NAME_OCTETS] = name
                if control:
                    controls[slot * _CONTROL_OCTETS : (slot + 1) * _CONTROL_OCTETS] = control
                sizes[slot] = size
                at += SLOT_OCTETS
            lost += self._send(len(some))
        return lost

    def _send(self, end: int) -> int:
        first = lost = 0
        while first < end:
            sent = self._sendmmsg(self._fd, self._header_at + first * _HEADER_WORDS * 8, end - first, _MSG_DONTWAIT)
            if sent > 0:
                first += sent
            elif ctypes.get_errno() != errno.EINTR:
                first += 1  # the one in front cannot be sent
                lost += 1
        return lost


class Batch:
    """The buffers of one socket. After ``receive`` slot *i* holds a query in ``data[i * SLOT_OCTETS :]``."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._is_ipv6 = sock.family == socket.AF_INET6
        self._has_destination = wants_destination(sock)
        self.data = mmap.mmap(-1, SLOTS * SLOT_OCTETS)  # slices of it are bytes, without a copy between
        self._names = mmap.mmap(-1, SLOTS * _NAME_OCTETS)
        self._controls = mmap.mmap(-1, SLOTS * _CONTROL_OCTETS)
        self._iovs = (ctypes.c_uint64 * (SLOTS * 2))()
        self._headers = (ctypes.c_uint64 * (SLOTS * _HEADER_WORDS))()
        data, names, controls = (_address_of(buffer) for buffer in (self.data, self._names, self._controls))
        iovs = ctypes.addressof(self._iovs)
        for slot in range(SLOTS):
            self._iovs[2 * slot] = data + slot * SLOT_OCTETS
            self._iovs[2 * slot + 1] = SLOT_OCTETS
            at = slot * _HEADER_WORDS
            self._headers[at] = names + slot * _NAME_OCTETS
            self._headers[at + 1] = _NAME_OCTETS
            self._headers[at + 2] = iovs + slot * 16
            self._headers[at + 3] = 1
            if self._has_destination:
                self._headers[at + 4] = controls + slot * _CONTROL_OCTETS
                self._headers[at + 5] = _CONTROL_OCTETS
        self.view = memoryview(self.data)
        """All slots; a reply is written from the third octet of its slot on."""
        self.sizes = memoryview(self._headers).cast("B").cast("Q")[7::_HEADER_WORDS]
        """Octets received in each slot."""
        self.reply_sizes = memoryview(self._iovs).cast("B").cast("Q")[1::2]
        """Octets to send from each slot, the ID included."""
        self.clients = [partial(self.client, slot) for slot in range(SLOTS)]
        """``client`` for each slot: made once, called by few."""
        self._header_view = memoryview(self._headers).cast("B")
        self._iov_view = memoryview(self._iovs).cast("B")
        self._fresh_headers = bytes(self._header_view)
        self._fresh_iovs = bytes(self._iov_view)
        self._header_at = ctypes.addressof(self._headers)
        self._control_words = memoryview(self._controls).cast("I")
        self._recvmmsg, self._sendmmsg = _calls()

    def receive(self) -> int:
        """Fill the slots with what waits; return how many are filled, 0 when nothing waits. Raises OSError."""
        self._header_view[:] = self._fresh_headers
        self._iov_view[:] = self._fresh_iovs
        count = self._recvmmsg(self._fd, self._header_at, SLOTS, _MSG_DONTWAIT, None)
        if count >= 0:
            return count
        number = ctypes.get_errno()
        if number in (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED):
            return 0
        raise OSError(number, os.strerror(number))

    def send(self, first: int, end: int) -> int:
        """Send the replies in slots *first* to *end* (not included); return how many could not be sent.

        One client that cannot be reached does not keep the others from their replies.
        """
        if self._has_destination:
            self._route(first, end)
        lost = 0
        while first < end:
            sent = self._sendmmsg(self._fd, self._header_at + first * _HEADER_WORDS * 8, end - first, _MSG_DONTWAIT)
            if sent > 0:
                first += sent
                continue
            if ctypes.get_errno() == errno.EINTR:
                continue
            first += 1  # the one in front cannot be sent: full buffer, no route, a firewall
            lost += 1
        return lost

    def client(self, slot: int) -> tuple[str, int]:
        """Return the address and port that the query in *slot* came from."""
        names, at = self._names, slot * _NAME_OCTETS
        port = names[at + 2] << 8 | names[at + 3]
        if self._is_ipv6:
            return socket.inet_ntop(socket.AF_INET6, names[at + 8 : at + 24]), port
        return socket.inet_ntop(socket.AF_INET, names[at + 4 : at + 8]), port

    def sender(self, slot: int) -> bytes:
        """Return the address that the query in *slot* came from, without its port, as the system has it."""
        at = slot * _NAME_OCTETS
        return self._names[at + 8 : at + 24] if self._is_ipv6 else self._names[at + 4 : at + 8]

    def queued_octets(self) -> int:
        """Return the memory of what waits in the socket; 0 where the system does not tell."""
        try:
            return int.from_bytes(self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4), "little")
        except OSError:
            return 0

    def envelope(self, slot: int) -> Envelope:
        """Return what ``Outbox`` needs to answer the query in *slot* later."""
        name = self._names[slot * _NAME_OCTETS : (slot + 1) * _NAME_OCTETS]
        message_id = self.data[slot * SLOT_OCTETS : slot * SLOT_OCTETS + 2]
        if not self._has_destination:
            return message_id, name, b""
        self._route(slot, slot + 1)
        return message_id, name, self._controls[slot * _CONTROL_OCTETS : (slot + 1) * _CONTROL_OCTETS]

    def _route(self, first: int, end: int) -> None:
        """Keep the address to leave from, and drop the interface: the way back is the routing table's to choose.

        A link-local address means something only together with its interface, so there it stays.
        """
        words = self._control_words
        if self._is_ipv6:  # struct in6_pktinfo: address, interface; behind a header of 16 octets
            for at in range(first * 16, end * 16, 16):
                if words[at + 4] & 0xC0FF != 0x80FE:
                    words[at + 8] = 0
        else:  # struct in_pktinfo: interface, address to leave from, destination
            for at in range(first * 16, end * 16, 16):
                words[at + 4] = 0


def _address_of(buffer: mmap.mmap | bytearray) -> int:
    """Return where *buffer* lies; it must outlive every use of the address, and is pinned from now on."""
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


def _calls() -> tuple[Callable[..., int], Callable[..., int]]:
    libc = ctypes.PyDLL(None, use_errno=True)
    recvmmsg, sendmmsg = libc.recvmmsg, libc.sendmmsg
    recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    return recvmmsg, sendmmsg
