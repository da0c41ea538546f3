"""What both programs do when their configuration file changes: it is read and checked whole, used or refused."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from kdns.admin.metrics import Gauges
from kdns.errors import ConfigError, Problem

log = logging.getLogger(__name__)

C = TypeVar("C", bound=msgspec.Struct)


class Reloads(msgspec.Struct):
    """What came of reading a file again and again; what a process that answers is told, for its metrics and /ready.

    *version* is the SHA-256 of the file that is in use, in hex.
    """

    done: int = 0
    failed: int = 0
    version: str = ""
    trouble: str = ""

    def take(self, said: dict[str, Any]) -> None:
        """Be as another process says."""
        new = msgspec.convert(said, Reloads)
        self.done, self.failed, self.version, self.trouble = new.done, new.failed, new.version, new.trouble

    def said(self) -> dict[str, Any]:
        """Return what ``take`` reads."""
        return msgspec.structs.asdict(self)

    def troubles(self) -> list[str]:
        """List what is wrong."""
        return [self.trouble] if self.trouble else []

    def gauges(self) -> Gauges:
        """Return the metrics, under CoreDNS's names where it has them."""
        gauges = Gauges()
        gauges.add(
            "coredns_reload_failed",
            "Counter of the number of failed reload attempts.",
            lambda: [((), self.failed)],
            is_counter=True,
        )
        gauges.add(
            "coredns_reload_version_info",
            "A metric with a constant '1' value labeled by hash, and value which type of hash generated.",
            lambda: [(("sha256", self.version), 1)] if self.version else [],
            labels=("hash", "value"),
        )
        gauges.add(
            "kdns_reloads", "Times that a changed --config was put to use.", lambda: [((), self.done)], is_counter=True
        )
        return gauges


class ConfigFile(Generic[C]):
    """The configuration that is in use, and the *file* that it is from.

    *load* reads and checks it. *fixed* are the fields that cannot change while the program runs, and the options that
    set them: its sockets are bound before it gives up the privileges to do so. *kept* are those whose value is made
    when a configuration is read, and is to be the one of before where there is one.
    """

    def __init__(
        self, file: Path, load: Callable[[], C], config: C, *, fixed: Mapping[str, str], kept: Iterable[str]
    ) -> None:
        self.file = file
        self.config = config
        self._version = _version(file)
        self.reloads = Reloads(version=self._version)
        self._load = load
        self._fixed = fixed
        self._kept = tuple(kept)
        self._seen = _stamp(file)
        self._looked = self._seen

    def has_changed(self) -> bool:
        """Tell whether the file is another than when it was read last: only if it was the same at the last look.

        An editor that is still writing is left to finish. A mounted ConfigMap is a link that is turned elsewhere, so
        what counts is the file behind it.
        """
        looked, self._looked = self._looked, _stamp(self.file)
        return self._looked == looked and looked != self._seen

    def read(self) -> C | None:
        """Return the configuration that the file has now, if it is good and another one than before.

        It is not ``config`` until ``use`` says so.
        """
        self._seen = self._looked = _stamp(self.file)
        self._version = _version(self.file)
        try:
            new = self._load()
            for field in self._kept:
                if getattr(new, field) is not None and (value := getattr(self.config, field)) is not None:
                    new = msgspec.structs.replace(new, **{field: value})
            if problems := [*self._moved(new)]:
                raise ConfigError(problems)
        except ConfigError as exc:
            self.refuse(str(problem) for problem in exc.problems)
            return None
        except Exception:  # nothing that a file says ends whoever holds the sockets
            log.exception("%s", self.file)
            self.refuse(["it cannot be read"])
            return None
        if new == self.config:
            self.reloads.version, self.reloads.trouble = self._version, ""
            log.info("%s: read again, nothing in it has changed", self.file)
            return None
        return new

    def use(self, config: C) -> None:
        """Note that *config*, which was read last, is in use."""
        self.config = config
        self.reloads.done += 1
        self.reloads.version, self.reloads.trouble = self._version, ""
        log.info("%s: the new configuration is in use", self.file)

    def wait(self, what: str) -> None:
        """Note that what was read last is good, and waits *for something* before it is used."""
        self.reloads.trouble = f"--config {self.file}: the new configuration waits {what}"

    def refuse(self, why: Iterable[str]) -> None:
        """Note that what the file says cannot be used."""
        lines = list(why)
        for line in lines:
            log.error("%s", line)
        log.error("%s: not used; the configuration of before goes on", self.file)
        self.reloads.failed += 1
        first = lines[0].removeprefix("--config ").removeprefix(f"{self.file}: ") if lines else "it cannot be served"
        self.reloads.trouble = f"--config {self.file}: not used ({first})"

    def _moved(self, new: C) -> Iterator[Problem]:
        for field, option in self._fixed.items():
            before, now = getattr(self.config, field), getattr(new, field)
            if before != now:
                found, wanted = _texts(now, before)
                yield Problem(f"{self.file}: {option}", found, f"{wanted}, as at the start, or a restart")


def _texts(one: object, other: object) -> tuple[str, str]:
    """Return both as a person would write them; of structs what differs."""
    if isinstance(one, msgspec.Struct) and isinstance(other, msgspec.Struct) and type(one) is type(other):
        fields = [name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)]
        first, second = (" ".join(f"{name}={_text(getattr(some, name))}" for name in fields) for some in (one, other))
        return first, second
    return _text(one), _text(other)


def _text(value: object) -> str:
    if isinstance(value, msgspec.Struct) and type(value).__str__ is object.__str__:
        return "some"
    if isinstance(value, tuple | list):
        return " ".join(map(_text, value)) or "none"
    return "none" if value is None else str(getattr(value, "value", value))


Stamp = tuple[int, int, int] | None


def _stamp(file: Path) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _version(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
