"""UDP listeners: batches in, batches out; a plain loop where the system lacks the batch calls."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from time import perf_counter, perf_counter_ns, sleep
from typing import Any, NoReturn

import trio

from kdns.net import batch
from kdns.net.backlog import Backlog
from kdns.net.handler import Handler, Later, Several
from kdns.net.hitters import Sampler
from kdns.proto.table import Entry

log = logging.getLogger(__name__)

MAX_BATCHES = 8
"""Batches handled before other tasks get their turn: half a millisecond at full speed."""

GATHER_SECONDS = 0.000_02
"""Where queries come close together, more of them are waited for, some 70 µs as the system's timers go: to be woken for
each costs four times what the answer costs. The thread sleeps, so that whoever else has work for the processor has it.
"""

MAX_LATER = 8192
"""Responses that wait for upstreams, a few kilobytes each; a query over that is dropped, and its client asks again.
Well above what upstreams are asked at once, whose own rule drops the oldest question first."""


CROWDED_OCTETS = 512 * 1024
"""Memory of what waits in the socket from which on there is a crowd: 400 queries of 1,280 octets, as the system counts,
five milliseconds' work; taking turns costs two microseconds a query. Of a socket with less room, a quarter of it."""

CROWD_BATCHES = 64
"""Batches taken in before what waits gets its turn."""

STUCK_SECONDS = 0.001
"""How long to wait where all clients have as much on its way as they may."""

CROWD_SECONDS = 0.001
"""What waits is answered for this long before the socket is looked at again, and others get their turn."""


class UdpListener:
    """Answers datagrams on a bound, non-blocking socket. ``lost`` counts replies that could not be sent, ``shed``
    queries dropped because too many were waiting for upstreams, ``crowded_out`` those whose clients asked for more
    than there was time for.

    With *gathers* queries that come close together are answered together, a little later; it is for programs that wait
    for nothing else while they do.
    """

    def __init__(
        self,
        sock: socket.socket,
        handler: Handler,
        *,
        gathers: bool = False,
        batched: bool | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self.sock = sock
        self._sampler = Sampler() if sampler is None else sampler
        self._until_sample = self._stride = 1
        self.lost = 0
        self.shed = 0
        self.crowded_out = 0
        self._handler = handler
        self._gathers = gathers
        self._crowded = min(CROWDED_OCTETS, sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 4)
        self._later = 0
        self._backlog: Backlog[tuple[bytes, batch.Envelope]] = Backlog()
        self._quiet = trio.Event()
        self._reading = trio.CancelScope()
        self._batched = batch.is_available() if batched is None else batched
        if batch.wants_destination(sock):
            batch.ask_for_destination(sock)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Answer until cancelled."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            if self._batched:
                outbox, written = batch.Outbox(self.sock), trio.lowlevel.ParkingLot()
                nursery.start_soon(self._send_later, outbox, written)
                with self._reading:
                    await self._serve_batches(outbox, written)
            else:
                with self._reading:
                    await self._serve_singly()
            await trio.sleep_forever()
        raise AssertionError("unreachable: it ends by cancellation alone")

    def hold(self) -> None:
        """Read no more queries: whoever has the socket, too, does. What was read is answered."""
        self._reading.cancel()

    async def drained(self) -> None:
        """Wait until no response is on its way through the upstreams."""
        while self._later:
            self._quiet = trio.Event()
            await self._quiet.wait()

    async def _send_later(self, outbox: batch.Outbox, written: trio.lowlevel.ParkingLot) -> NoReturn:
        """Send late replies together: all those that one turn of the loop brought."""
        try:
            while True:
                if not outbox:  # what came before this task's first turn woke nobody
                    await written.park()
                self.lost += outbox.flush()
        finally:
            self.lost += outbox.flush()

    async def _serve_batches(self, outbox: batch.Outbox, written: trio.lowlevel.ParkingLot) -> NoReturn:
        buffers = batch.Batch(self.sock)
        handler, find, count = self._handler, self._handler.find, self._handler.count
        data, view, sizes, reply_sizes = buffers.data, buffers.view, buffers.sizes, buffers.reply_sizes
        clients, stride = buffers.clients, batch.SLOT_OCTETS
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            for _ in range(MAX_BATCHES):
                try:
                    received = buffers.receive()
                except OSError as exc:
                    log.warning("udp receive: %s", exc)
                    await trio.sleep(0.1)
                    break
                if not received:
                    break
                self._until_sample -= 1
                if self._until_sample <= 0:
                    self._sample(buffers, received)
                began = perf_counter()
                hits: list[Entry] = []
                silent: list[int] = []
                at = 2
                for slot, size in enumerate(sizes[:received].tolist()):
                    entry = find(data[at : at + size - 2])
                    if entry is not None:
                        tail = entry.tail or entry.next()
                        hits.append(entry)
                    else:
                        answer = handler.respond(data[at - 2 : at + size - 2], clients[slot])
                        if not isinstance(answer, bytes):
                            silent.append(slot)
                            if callable(answer) and self._may_wait():
                                answer(partial(self._leave, outbox, written, buffers.envelope(slot)))
                            at += stride
                            continue
                        tail = answer
                    octets = len(tail)
                    view[at : at + octets] = tail
                    reply_sizes[slot] = octets + 2
                    at += stride
                first = 0
                for slot in silent:
                    if first < slot:
                        self.lost += buffers.send(first, slot)
                    first = slot + 1
                if first < received:
                    self.lost += buffers.send(first, received)
                if hits:
                    count(hits, perf_counter() - began)
                if received == batch.SLOTS and buffers.queued_octets() > self._crowded:
                    await self._serve_crowd(buffers, outbox, written)
                    break
                if received == 1 or (received < batch.SLOTS and not self._gathers):
                    break
                if received < batch.SLOTS:
                    sleep(GATHER_SECONDS)  # noqa: ASYNC251 - what it is for: trio's own would cost what it saves
            else:
                await trio.lowlevel.checkpoint()

    def _sample(self, buffers: batch.Batch, received: int) -> None:
        """Have one query of a batch stand for all since the last sample; what it is answered with overwrites it."""
        slot = perf_counter_ns() // 1000 % received
        at = slot * batch.SLOT_OCTETS
        wire, client = buffers.data[at : at + buffers.sizes[slot]], buffers.client(slot)[0]
        self._stride = self._sampler.take(wire, client, received * self._stride, self._stride)
        self._until_sample = self._stride

    async def _serve_crowd(self, buffers: batch.Batch, outbox: batch.Outbox, written: trio.lowlevel.ParkingLot) -> None:
        """Answer until nothing waits any more: finished answers at once, the rest in turns of the clients."""
        backlog = self._backlog
        while True:
            is_empty = self._take_in(buffers, backlog)
            self._work_off(backlog, perf_counter() + CROWD_SECONDS, outbox, written)
            self.crowded_out += backlog.dropped
            backlog.dropped = 0
            if is_empty and not backlog:
                return
            try:
                if is_empty and backlog.is_stuck:
                    await trio.sleep(STUCK_SECONDS)
                else:
                    await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                backlog.max_on_their_way = MAX_LATER  # what was read is answered
                self._work_off(backlog, inf, outbox, written)
                raise

    def _work_off(
        self,
        backlog: Backlog[tuple[bytes, batch.Envelope]],
        until: float,
        outbox: batch.Outbox,
        written: trio.lowlevel.ParkingLot,
    ) -> None:
        while (waiting := backlog.take()) is not None:
            client, (wire, envelope) = waiting
            answer = self._handler.respond(wire, partial(batch.client_of, envelope))
            if isinstance(answer, bytes):
                outbox.put(envelope, answer)
            elif callable(answer) and self._may_wait():
                backlog.begins(client)
                leave = partial(self._leave, outbox, written, envelope)
                answer(partial(self._leave_in_turn, backlog, client, leave))
            if perf_counter() > until:
                break
        self.lost += outbox.flush()

    def _take_in(self, buffers: batch.Batch, backlog: Backlog[tuple[bytes, batch.Envelope]]) -> bool:
        """Answer what is finished of what waits in the socket, have the rest wait here; tell whether that was all."""
        find, data, view = self._handler.find, buffers.data, buffers.view
        sizes, reply_sizes, octets = buffers.sizes, buffers.reply_sizes, batch.SLOT_OCTETS
        for _ in range(CROWD_BATCHES):
            try:
                received = buffers.receive()
            except OSError as exc:
                log.warning("udp receive: %s", exc)
                return True
            self._until_sample -= 1
            if self._until_sample <= 0 and received:
                self._sample(buffers, received)
            began = perf_counter()
            hits: list[Entry] = []
            first = 0
            at = 2
            for slot in range(received):
                entry = find(data[at : at + sizes[slot] - 2])
                if entry is not None:
                    tail = entry.tail or entry.next()
                    hits.append(entry)
                    size = len(tail)
                    view[at : at + size] = tail
                    reply_sizes[slot] = size + 2
                else:
                    client = buffers.sender(slot)
                    if backlog.has_room(client):
                        backlog.put(client, (data[at - 2 : at + sizes[slot] - 2], buffers.envelope(slot)))
                    if first < slot:
                        self.lost += buffers.send(first, slot)
                    first = slot + 1
                at += octets
            if first < received:
                self.lost += buffers.send(first, received)
            if hits:
                self._handler.count(hits, perf_counter() - began)
            if received < batch.SLOTS:
                return True
        return False

    async def _serve_singly(self) -> NoReturn:
        sock = trio.socket.from_stdlib_socket(self.sock)
        destination = batch.wants_destination(self.sock) and hasattr(sock, "recvmsg")
        address: Any  # the system's own form of one
        while True:
            control: Sequence[tuple[int, int, bytes]] = ()
            try:
                if destination:
                    wire, control, _, address = await sock.recvmsg(batch.SLOT_OCTETS, 64)
                else:
                    wire, address = await sock.recvfrom(batch.SLOT_OCTETS)
            except OSError as exc:
                if exc.errno != errno.ECONNREFUSED:
                    log.warning("udp receive: %s", exc)
                    await trio.sleep(0.1)
                continue
            self._until_sample -= 1
            if self._until_sample <= 0:
                self._stride = self._sampler.take(wire, address[0], self._stride, self._stride)
                self._until_sample = self._stride
            began = perf_counter()
            entry = self._handler.find(wire[2:])
            answer: bytes | Later | Several | None
            if entry is not None:
                answer = entry.next()
                self._handler.count([entry], perf_counter() - began)
            else:
                answer = self._handler.respond(wire, partial(tuple, address[:2]))
            if isinstance(answer, bytes):
                self._send(wire[:2], address, _without_interface(control), answer)
            elif callable(answer) and self._may_wait():
                answer(partial(self._send_late, wire[:2], address, _without_interface(control)))

    def _may_wait(self) -> bool:
        """Tell whether there is room for one more that waits for its response, and take it.

        What can be called takes its time; several responses to one message go over TCP alone, and are passed over here.
        """
        if self._later >= MAX_LATER:
            self.shed += 1
            return False
        self._later += 1
        return True

    def _leave(
        self, outbox: batch.Outbox, written: trio.lowlevel.ParkingLot, envelope: batch.Envelope, tail: bytes | None
    ) -> None:
        """Leave a late response in the outbox; its place is free."""
        self._later -= 1
        if not self._later:
            self._quiet.set()
        if tail is not None and outbox.put(envelope, tail):
            written.unpark()

    def _leave_in_turn(
        self,
        backlog: Backlog[tuple[bytes, batch.Envelope]],
        client: bytes,
        leave: Callable[[bytes | None], None],
        tail: bytes | None,
    ) -> None:
        """Do the same with one of a crowd: its client's turn may come again."""
        backlog.ends(client)
        leave(tail)

    def _send_late(
        self, message_id: bytes, address: Any, control: Sequence[tuple[int, int, bytes]], tail: bytes | None
    ) -> None:
        """Send a late response; its place is free."""
        self._later -= 1
        if not self._later:
            self._quiet.set()
        if tail is not None:
            self._send(message_id, address, control, tail)

    def _send(self, message_id: bytes, address: Any, control: Sequence[tuple[int, int, bytes]], tail: bytes) -> None:
        wire = message_id + tail
        try:
            if control:
                self.sock.sendmsg([wire], control, 0, address)
            else:
                self.sock.sendto(wire, address)
        except OSError:
            self.lost += 1  # one client that cannot be reached is its own loss


def _without_interface(control: Sequence[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Drop the interface from packet information, as ``Batch`` does, so that the routing table chooses the way back."""
    result = []
    for level, kind, data in control:
        if level == socket.IPPROTO_IPV6 and len(data) >= 20:
            is_link_local = data[0] == 0xFE and data[1] & 0xC0 == 0x80
            result.append((level, 50, data if is_link_local else data[:16] + bytes(4)))
        elif level == socket.IPPROTO_IP and len(data) >= 12:
            result.append((level, kind, bytes(4) + data[4:]))
    return result
