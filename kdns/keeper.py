"""``kdns serve --config``: the process that holds the sockets, and has one after the other answer on them.

What answers is a *generation*: a whole kdns in a process of its own, forked from here, with one configuration. A new
one makes itself ready (it lists the cluster anew) while the one before still answers; when it answers, too, the one
before takes nothing more, finishes what it has begun, and ends. So no option needs a restart but those that say which
sockets there are, nothing of the old configuration can be left over, and what cannot be served is never used.

| what happens                                    | what follows                                                       |
|-------------------------------------------------|--------------------------------------------------------------------|
| the file changes, or SIGHUP                     | it is read and checked; if it is good, a new generation is forked  |
| a new generation ends before it answers         | the one before goes on, and it is counted as a failed reload       |
| the file changes again meanwhile                | the one that is not ready yet is ended, and another forked         |
| the generation that answers ends by itself      | another takes its place and its sockets, where what comes waits    |
| the first one ends with a status before that    | so does this                                                       |
| one that was succeeded does not end in time     | it is killed: what hangs must not answer as it was before          |
| SIGTERM, SIGINT                                 | the one that answers is told to end; this ends when it has         |

There is one thread and no event loop here, so that it can fork: the file is looked at, not watched.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Final, Generic, NoReturn, TypeVar

import msgspec

from kdns.reload import ConfigFile
from kdns.workers.spawner import end_with

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
"""Between two looks at the file; it is read once two are alike."""
BEGIN_SECONDS: Final = 30.0
"""How long workers may take to be told everything."""
LONG_LIFE_SECONDS: Final = 10.0
FIRST_PAUSE_SECONDS: Final = 0.1
LEAVE_SECONDS: Final = 10.0
"""How long one that was succeeded, or is told to end, may take beyond what it is given."""
MAX_PAUSE_SECONDS: Final = 5.0
"""A generation that has lived for less is replaced a little later each time."""
_FOR_CHILDREN: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)

C = TypeVar("C", bound=msgspec.Struct)


class Generation(Generic[C]):
    """A process that answers, or is to."""

    def __init__(self, config: C, pid: int, link: socket.socket) -> None:
        self.config = config
        self.pid = pid
        self.link = link
        self.began = time.monotonic()
        self.fit_at: float | None = None
        """When it had all that it answers from, and began to; None before."""
        self.is_serving = False
        self.leaves_by: float | None = None
        """When it is killed, if it has not ended."""

    def tell(self, **said: object) -> None:
        """Say something; one that reads nothing any more ends by itself, or is found to have ended."""
        with contextlib.suppress(OSError):
            self.link.sendall(json.dumps(said).encode() + b"\n")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Keeper(Generic[C]):
    """Forks generations that run *serve*, given their configuration, their end of the link, and whether one is to be
    succeeded.

    *serve* is the whole of such a process; the status that it returns, or exits with, is that of the process.
    *lameduck* returns the seconds that a configuration has it answer after SIGTERM.
    """

    def __init__(
        self,
        file: ConfigFile[C],
        serve: Callable[[C, socket.socket, bool], int],
        lameduck: Callable[[C], float],
    ) -> None:
        self._file = file
        self._serve = serve
        self._lameduck = lameduck
        self._signals: list[int] = []
        self._current: Generation[C] | None = None
        self._next: Generation[C] | None = None
        self._leaving: list[Generation[C]] = []
        self._has_served = False
        self._is_stopping = False
        self._must_read = False
        self._pause = 0.0
        self._start_at: float | None = None
        self._status = 0

    def run(self) -> int:
        """Keep going until a signal ends it; return the status to exit with."""
        self._waker, self._woken = socket.socketpair()
        for end in (self._waker, self._woken):
            end.setblocking(False)
        for number in _FOR_CHILDREN:
            signal.signal(number, lambda number, frame: self._signals.append(number))
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._start()
        while self._all() or self._start_at is not None:
            self._wait()
            self._reap()
            self._kill_what_hangs()
            if self._is_stopping:
                continue
            if self._start_at is not None and time.monotonic() >= self._start_at:
                self._start()
            if self._current is None or self._is_in_between():
                continue  # there must be one to go back to
            if self._must_read or self._file.has_changed():
                self._must_read = False
                self._reload()
        return self._status

    # -- what happens -----------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait for a signal, for something that a generation says, or for the time of the next look."""
        links = {generation.link: generation for generation in self._all() if generation.link.fileno() >= 0}
        readable, _, _ = select.select([self._woken, *links], [], [], LOOK_SECONDS)
        for link in readable:
            if link is self._woken:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
            else:
                self._hear(links[link])
        signals, self._signals = self._signals, []
        for number in signals:
            self._signalled(number)

    def _signalled(self, number: int) -> None:
        match number:
            case signal.SIGHUP:
                log.info("SIGHUP: reading %s again", self._file.file)
                self._must_read = True
            case signal.SIGTERM | signal.SIGINT:
                self._is_stopping = True
                self._start_at = None
                if self._next is not None:
                    self._give_up(self._next)
                if (current := self._current) is None:
                    return
                seconds = self._lameduck(current.config) if number == signal.SIGTERM else 0.0
                current.leaves_by = current.leaves_by or time.monotonic() + seconds + LEAVE_SECONDS
                current.tell(end=seconds)

    def _hear(self, generation: Generation[C]) -> None:
        try:
            said = generation.link.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            generation.link.close()  # it has ended, which is heard of otherwise
            return
        if generation.fit_at is None:
            generation.fit_at = time.monotonic()
        if generation.is_serving or b"serving" not in said:
            return
        generation.is_serving = self._has_served = True
        if generation is self._next:
            before, self._current, self._next, self._start_at = self._current, generation, None, None
            self._file.use(generation.config)
            if before is not None:
                before.leaves_by = time.monotonic() + LEAVE_SECONDS
                before.tell(hold=True)
                self._leaving.append(before)
        generation.tell(reloads=self._file.reloads.said())

    def _is_in_between(self) -> bool:
        """Tell whether one has just begun to answer, on some of the sockets: not to be ended before it does on all."""
        return (
            self._next is not None
            and self._next.fit_at is not None
            and time.monotonic() < self._next.fit_at + BEGIN_SECONDS
        )

    def _reload(self) -> None:
        config = self._file.read()
        if self._next is not None:  # whatever is in the file now, it is not what this one is for
            self._give_up(self._next)
        if config is not None:
            try:
                self._next = self._fork(config, succeeds=True)
            except OSError as exc:
                self._file.refuse([f"no process can be made for it: {exc.strerror}"])
            else:
                self._file.wait("for the objects of the cluster")
        if self._current is not None:
            self._current.tell(reloads=self._file.reloads.said())

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for generation in self._all():
                if generation.pid == pid:
                    self._ended(generation, os.waitstatus_to_exitcode(status))

    def _ended(self, generation: Generation[C], code: int) -> None:
        generation.link.close()
        why = f"by signal {-code}" if code < 0 else f"with status {code}"
        if generation in self._leaving:
            self._leaving.remove(generation)
        elif generation is self._next:
            self._next = None
            self._file.refuse([f"a kdns with the new configuration has ended {why}"])
            if self._current is not None:
                self._current.tell(reloads=self._file.reloads.said())
        elif generation is self._current:
            self._current = None
            if self._is_stopping and code == -signal.SIGKILL:  # by this process
                return
            self._status = code if code >= 0 else 128 - code
            if self._is_stopping or (not self._has_served and code >= 0):
                self._is_stopping = True
                if self._next is not None:
                    self._give_up(self._next)
                return
            log.error("what answers has ended %s; another takes its place", why)
            self._status = 0
            if time.monotonic() - generation.began > LONG_LIFE_SECONDS:
                self._pause = 0.0
            self._start_later()

    def _start_later(self) -> None:
        self._start_at = time.monotonic() + self._pause
        self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), MAX_PAUSE_SECONDS)

    def _start(self) -> None:
        """Have one that succeeds nobody; later, where no process can be made now."""
        self._start_at = None
        try:
            self._current = self._fork(self._file.config, succeeds=False)
        except OSError as exc:
            log.error("no process can be made: %s; trying again", exc.strerror)  # noqa: TRY400 - its words are enough
            self._start_later()

    def _kill_what_hangs(self) -> None:
        now = time.monotonic()
        for generation in self._all():
            if generation.leaves_by is not None and now > generation.leaves_by:
                log.error("process %d was to end, and does not; killed", generation.pid)
                generation.leaves_by = now + LEAVE_SECONDS
                generation.signal(signal.SIGKILL)

    def _give_up(self, generation: Generation[C]) -> None:
        """End one that does not answer yet."""
        generation.signal(signal.SIGKILL)
        self._leaving.append(generation)
        self._next = None

    def _all(self) -> list[Generation[C]]:
        some = (self._current, self._next, *self._leaving)
        return [generation for generation in some if generation is not None]

    # -- a new generation -------------------------------------------------------------------------------------------

    def _fork(self, config: C, *, succeeds: bool) -> Generation[C]:
        """Fork a generation. Raises OSError where there can be no more processes, or descriptors."""
        ours, theirs = socket.socketpair()
        keeper = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise

        def be_a_generation() -> int:
            end_with(keeper)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in (
                signal.SIGTERM,
                signal.SIGINT,
                signal.SIGHUP,
            ):  # these are the keeper's, which passes them on
                signal.signal(number, signal.SIG_IGN)
            for end in (ours, self._waker, self._woken, *(generation.link for generation in self._all())):
                end.close()
            return self._serve(config, theirs, succeeds)

        if not pid:
            _end_with(be_a_generation)
        theirs.close()
        ours.setblocking(False)  # one that hangs and reads nothing must not have the others wait
        return Generation(config, pid, ours)


def _end_with(serve: Callable[[], int]) -> NoReturn:
    """Do *serve* as all that a forked process does: nothing of its parent's is run at the end."""
    status = 1
    try:
        status = serve()
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:
        log.exception("process %d ends", os.getpid())
    finally:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
