"""The static records of a program: those of its configuration and those of hosts files, which are followed.

A line of a hosts file that cannot be read is told by file and number, and the rest serves. A file that is gone, or
cannot be read, is a trouble; what it last said goes on being served.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from kdns.errors import Problem
from kdns.files import follow
from zones.records import RRset
from zones.static import BadLine, read_hosts, StaticRecords

log = logging.getLogger(__name__)

MAX_HOSTS_OCTETS: Final = 64 * 2**20
MAX_TOLD: Final = 20
"""Bad lines and conflicts of one reading that are told one by one."""


class Scan(msgspec.Struct):
    """What a look at the files found; ``records`` are all that there are now, None where nothing is new."""

    stamps: dict[Path, tuple[int, int, int]] = msgspec.field(default_factory=dict)
    read: dict[Path, list[RRset]] = msgspec.field(default_factory=dict)
    bad: dict[Path, list[BadLine]] = msgspec.field(default_factory=dict)
    troubles: dict[Path, str] = msgspec.field(default_factory=dict)
    records: StaticRecords | None = None


class StaticSource:
    """*records* are those configured, *hosts* the files; *ttl* is that of the files' records, in seconds.

    *on_change* is given what they come to, at first by ``load``.
    """

    def __init__(
        self, records: Sequence[RRset], hosts: Sequence[Path], *, ttl: int, on_change: Callable[[StaticRecords], None]
    ) -> None:
        self._configured = tuple(records)
        self._hosts = tuple(hosts)
        self._ttl = ttl
        self._on_change = on_change
        self._stamps: dict[Path, tuple[int, int, int]] = {}
        self._read: dict[Path, list[RRset]] = {}
        self._is_loaded = False
        self.layers: tuple[tuple[str, tuple[RRset, ...]], ...] = ()
        """What ``on_change`` was given last, by where it is from."""
        self._told: frozenset[str] = frozenset()
        self._watch_trouble: str | None = None
        self._file_troubles: dict[Path, str] = {}
        self.problems: dict[Path, list[Problem]] = {}
        """The bad lines of each file."""

    def load(self, *, tells: bool = True) -> None:
        """Read everything; unless it *tells*, bad lines are in ``problems`` alone."""
        self._take(self._scan(), tells=tells)

    def troubles(self) -> list[str]:
        """List what is wrong with the files."""
        troubles = [f"--hosts {path}: {text}" for path, text in self._file_troubles.items()]
        for first, *others in self.problems.values():
            troubles.append(f"--hosts {first}" + (f" (and {len(others)} more)" if others else ""))
        if self._watch_trouble is not None:
            troubles.append(f"--hosts: {self._watch_trouble}")
        return troubles

    async def run(self) -> None:
        """Follow the files until cancelled; ``load`` has been called before."""
        if not self._hosts:
            return

        def trouble(message: str | None) -> None:
            if message is not None and self._watch_trouble is None:
                log.warning("--hosts: %s", message)
            self._watch_trouble = message

        async def look() -> None:
            self._take(await trio.to_thread.run_sync(self._scan))

        await follow(self._hosts, look, trouble)

    def _scan(self) -> Scan:
        """Read the files that changed, and merge; runs in a thread, and touches nothing."""
        scan = Scan()
        for path in self._hosts:
            try:
                status = os.stat(path)
                stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
                if stamp == self._stamps.get(path):
                    continue
                if status.st_size > MAX_HOSTS_OCTETS:
                    raise OSError(0, f"larger than {MAX_HOSTS_OCTETS} octets")
                text = path.read_bytes().decode(errors="replace")
            except OSError as exc:
                scan.troubles[path] = exc.strerror or str(exc)
                continue
            scan.stamps[path] = stamp
            scan.read[path], scan.bad[path] = read_hosts(text, self._ttl)
        if scan.read or not self._is_loaded:
            known = {**self._read, **scan.read}
            layers: list[tuple[str, Sequence[RRset]]] = [("the configuration", self._configured)]
            layers += [(str(path), known[path]) for path in self._hosts if path in known]
            scan.records = StaticRecords(layers)
        return scan

    def _take(self, scan: Scan, *, tells: bool = True) -> None:
        for path, text in scan.troubles.items():
            if self._file_troubles.get(path) != text:
                log.warning("--hosts %s: %s; what it last said is served", path, text)
        mended = [path for path in self._file_troubles if path not in scan.troubles]
        mended += [path for path in self.problems if path in scan.bad and not scan.bad[path]]
        for path in mended:
            log.info("--hosts %s: well again", path)
        self._file_troubles = scan.troubles
        self._stamps |= scan.stamps
        self._read |= scan.read
        for path, bad in scan.bad.items():
            self.problems.pop(path, None)
            if bad:
                self.problems[path] = [
                    Problem(f"{path}: line {line.number}", f"{line.text!r} ({line.reason})", "an address and names")
                    for line in bad
                ]
            if tells:
                _tell(f"--hosts {problem}; passed over" for problem in self.problems.get(path, ()))
        if scan.records is not None:
            self._is_loaded = True
            read = [(str(path), tuple(self._read[path])) for path in self._hosts if path in self._read]
            self.layers = (("the configuration", self._configured), *read)
            conflicts = dict.fromkeys(map(str, scan.records.conflicts))
            _tell(f"static records: {conflict}" for conflict in conflicts if conflict not in self._told)
            self._told = frozenset(conflicts)
            self._on_change(scan.records)


def _tell(lines: Iterable[str]) -> None:
    some = list(lines)
    for line in some[:MAX_TOLD]:
        log.warning("%s", line)
    if len(some) > MAX_TOLD:
        log.warning("… and %d more of the kind", len(some) - MAX_TOLD)
