"""The process that forks workers: made before there are threads or an event loop, it has what workers need and does
nothing else.

A worker is forked, not started anew, so the modules that all of them need are in memory once. The controller cannot
fork itself: it has threads.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NoReturn

import msgspec
import trio

from kdns.net.listeners import Sockets

log = logging.getLogger(__name__)

MAX_SOCKETS: Final = 250
"""What one message can carry (SCM_MAX_FD is 253)."""

_MESSAGE_OCTETS: Final = 4096


class Spawn(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Fork worker *number*, with the sockets that come with this: its link, then as many of each sort."""

    number: int
    udp: int
    tcp: int
    tls: int
    others: int = 0


class Spawned(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Worker *number* runs."""

    number: int
    pid: int


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Worker *number* could not be forked."""

    number: int
    reason: str


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A worker has ended, with a status as waitpid(2) has it."""

    pid: int
    status: int


_replies: Final = msgspec.msgpack.Decoder(Spawned | Failed | Ended)


class Spawner:
    """Forks processes that run *main*, given the worker's number, its link to the controller, its sockets to answer on
    and whatever *others* came with them."""

    def __init__(self, main: Callable[[int, socket.socket, Sockets, Sequence[socket.socket]], None]) -> None:
        self._main = main
        self._lock = trio.Lock()
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def start(self) -> None:
        """Fork the process that forks. To be called while there is one thread."""
        sys.stdout.flush()
        sys.stderr.flush()
        controller = os.getpid()
        if not os.fork():
            end_with(controller)
            self._ours.close()
            _quietly(self._fork_on_demand)
        self._theirs.close()

    async def spawn(
        self, number: int, link: socket.socket, sockets: Sockets, others: Sequence[socket.socket] = ()
    ) -> None:
        """Have worker *number* forked; ``next`` tells of it."""
        fds = array.array("i", [link.fileno(), *(sock.fileno() for sock in (*sockets.all(), *others))])
        order = Spawn(number, len(sockets.udp), len(sockets.tcp), len(sockets.tls), len(others))
        body = msgspec.msgpack.encode(order)
        async with self._lock:
            await trio.lowlevel.wait_writable(self._ours)
            self._ours.sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])

    async def next(self) -> Spawned | Failed | Ended | None:
        """Return what happened next; None when the process that forks is gone."""
        await trio.lowlevel.wait_readable(self._ours)
        try:
            body = self._ours.recv(_MESSAGE_OCTETS)
        except OSError:
            return None
        return _replies.decode(body) if body else None

    def close(self) -> None:
        """Let the process that forks end; workers end by themselves."""
        self._ours.close()

    # -- in the process that forks ----------------------------------------------------------------------------------

    def _fork_on_demand(self) -> None:
        ignore_signals()
        waker, woken = socket.socketpair()
        for end in (waker, woken):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # so that it wakes, below
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        while True:
            readable, _, _ = select.select([self._theirs, woken], [], [])
            if woken in readable:
                with contextlib.suppress(BlockingIOError):
                    woken.recv(4096)
            self._reap()
            if self._theirs not in readable:
                continue
            body, fds, _, _ = socket.recv_fds(self._theirs, _MESSAGE_OCTETS, MAX_SOCKETS)
            if not body:
                return  # the controller is gone
            order = msgspec.msgpack.decode(body, type=Spawn)
            spawner = os.getpid()
            try:
                pid = os.fork()
            except OSError as exc:  # no more processes, or no memory, for now
                self._theirs.send(msgspec.msgpack.encode(Failed(order.number, exc.strerror or str(exc))))
                for fd in fds:
                    os.close(fd)
                continue
            if not pid:
                end_with(spawner)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in (waker, woken, self._theirs):
                    end.close()
                _quietly(partial(self._main, order.number, *_sockets(order, fds)))
            for fd in fds:
                os.close(fd)
            self._theirs.send(msgspec.msgpack.encode(Spawned(order.number, pid)))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            with contextlib.suppress(OSError):
                self._theirs.send(msgspec.msgpack.encode(Ended(pid, status)))


def _sockets(order: Spawn, fds: Sequence[int]) -> tuple[socket.socket, Sockets, Sequence[socket.socket]]:
    link, *some = (socket.socket(fileno=fd) for fd in fds)
    count = len(some) - order.others
    bound = [(6 if sock.family == socket.AF_INET6 else 4, sock) for sock in some[:count]]
    tcp_at, tls_at = order.udp, order.udp + order.tcp
    return link, Sockets(bound[:tcp_at], bound[tcp_at:tls_at], bound[tls_at:]), some[count:]


def ignore_signals() -> None:
    """Leave the signals that end a program to the controller, which tells the others."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


_PR_SET_PDEATHSIG: Final = 1


def end_with(parent: int) -> None:
    """Have the system end this process when its *parent* ends, however hung either may be then (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def _quietly(work: Callable[[], object]) -> NoReturn:
    """Do *work* as all that a forked process does: nothing of its parent's is run or flushed at the end."""
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        log.exception("process %d ends", os.getpid())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)
