"""The certificate that clients over TLS are shown, read anew when its files change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

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
        self.trouble = ""

    def load(self) -> None:
        """Read it. Raises ConfigError."""
        try:
            self._load()
        except (OSError, ssl.SSLError) as exc:
            expected = f"a PEM certificate, and in {self._key} its key"
            raise ConfigError([Problem(f"--tls-cert {self._cert}", str(exc), expected)]) from exc

    async def run(self) -> None:
        """Follow the files until cancelled."""
        await follow([self._cert, self._key], self._look, lambda text: None)

    async def _look(self) -> None:
        try:
            is_new = self._load()
        except (OSError, ssl.SSLError) as exc:
            if not self.trouble:
                log.warning("--tls-cert %s: %s; the last one is used", self._cert, exc)
            self.trouble = f"--tls-cert {self._cert}: {exc}"
        else:
            self.trouble = ""
            if is_new:
                log.info("--tls-cert %s: read anew", self._cert)

    def _load(self) -> bool:
        stats = [path.stat() for path in (self._cert, self._key)]
        stamp = tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)
        if stamp == self._stamp:
            return False
        # Into another context first: one that fails would leave this one without a key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key)
        self.context.load_cert_chain(self._cert, self._key)
        self._stamp = stamp
        return True
