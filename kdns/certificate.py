"""The certificate that clients over TLS are shown, read anew when its files change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import trio

from kdns.errors import ConfigError, Problem
from kdns.files import follow

log = logging.getLogger(__name__)


class Certificate:
    """A certificate and its key, in a context for listeners. A bad one that comes later is a trouble, and the last one
    goes on being used."""

    def __init__(self, cert: Path, key: Path) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8310 section 8.1
        self._cert = cert
        self._key = key
        self._stamp: tuple[tuple[int, int], ...] = ()
        self._is_there = trio.Event()
        self.trouble = ""

    def load(self) -> None:
        """Read it. Raises ConfigError."""
        try:
            self._load()
        except (OSError, ValueError) as exc:
            expected = "a PEM certificate and its key, which must not be encrypted"
            raise ConfigError(
                [Problem(f"--tls-cert {self._cert}, --tls-key {self._key}", _why(exc), expected)]
            ) from exc

    def load_or_note(self) -> None:
        """Read it; one that cannot be used is a trouble, and ``wait`` waits for a better one."""
        try:
            self._load()
        except (OSError, ValueError) as exc:
            self._note(exc)

    async def wait(self) -> None:
        """Wait until there is one."""
        await self._is_there.wait()

    async def run(self) -> None:
        """Follow the files until cancelled."""
        await follow([self._cert, self._key], self._look, lambda text: None)

    async def _look(self) -> None:
        try:
            is_new = self._load()
        except (OSError, ValueError) as exc:
            self._note(exc)
        else:
            self.trouble = ""
            if is_new:
                log.info("--tls-cert %s: read anew", self._cert)

    def _note(self, exc: Exception) -> None:
        if not self.trouble:
            goes_on = "the last one is used" if self._is_there.is_set() else "nobody is answered over TLS"
            log.warning("--tls-cert %s, --tls-key %s: %s; %s", self._cert, self._key, _why(exc), goes_on)
        self.trouble = f"--tls-cert {self._cert}, --tls-key {self._key}: {_why(exc)}"

    def _load(self) -> bool:
        stats = [path.stat() for path in (self._cert, self._key)]
        stamp = tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)
        if stamp == self._stamp:
            return False
        # Into another context first: one that fails would leave this one without a key.
        for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.context):
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        self._stamp = stamp
        self._is_there.set()
        return True


def _no_password() -> str:
    raise ValueError("an encrypted key")  # OpenSSL would ask for a password on the terminal


def _why(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError):
        reason = (exc.reason or "not PEM").lower().replace("_", " ")
        return f"what cannot be used together ({reason})"
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
