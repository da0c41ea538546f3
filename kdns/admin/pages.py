"""The status page and what it reads: ``/``, ``/status.json``, ``/explain.json``; for whom they are meant alone.

The page shows names and clients, so by default it is for this machine: at a desk, or in a pod through
``kubectl port-forward``, which connects from within. Whatever the page shows goes in as text, and its policy lets it
load nothing and run nothing else than what is in it; from this machine alone means from a page of this machine's, too:
another site's name in the Host header is refused (DNS rebinding).
"""

from __future__ import annotations

import re
from base64 import b64encode
from enum import Enum
from hashlib import sha256
from importlib.resources import files
from ipaddress import ip_address, IPv6Address
from typing import Final
from urllib.parse import parse_qs

import msgspec

from kdns.admin.status import Status

MAX_FIELD_CHARACTERS: Final = 300

Reply = tuple[int, bytes, bytes, list[tuple[bytes, bytes]]]
"""Status, content type, body, more headers."""

TEXT: Final = b"text/plain; charset=utf-8"


class Audience(Enum):
    """Who may see the status page; the value is what a user writes."""

    OFF = "off"
    LOCAL = "local"
    ALL = "all"


class StatusPages:
    """The pages about *status*, for *audience*."""

    def __init__(self, status: Status, audience: Audience) -> None:
        self.status = status
        self._audience = audience
        self._page = files("kdns.admin").joinpath("status.html").read_bytes()
        self._policy = _policy(self._page)

    async def answer(self, path: str, query: bytes, client: str, host: str) -> Reply | None:
        """Return the reply to a GET of *path*, None where there is no such page."""
        if path not in ("/", "/status.json", "/explain.json") or self._audience is Audience.OFF:
            return None
        if self._audience is Audience.LOCAL and not (_is_here(client) and _is_no_name(host)):
            return 403, TEXT, b"the status page is for this machine alone (--status)\n", []
        if path == "/":
            return 200, b"text/html; charset=utf-8", self._page, [(b"content-security-policy", self._policy)]
        if path == "/status.json":
            said = await self.status.now()
        else:
            fields = {key: values[0][:MAX_FIELD_CHARACTERS] for key, values in parse_qs(query.decode("latin1")).items()}
            name, rrtype = fields.get("name", "").strip(), fields.get("type", "").strip().upper() or "A"
            said = await self.status.explain(name, rrtype, fields.get("as", "").strip())
        return 400 if "error" in said else 200, b"application/json", msgspec.json.encode(said), []


def _policy(page: bytes) -> bytes:
    """Return a Content-Security-Policy for the scripts and styles in *page*, and nothing else."""
    hashes = {
        kind: b64encode(sha256(body).digest()).decode()
        for kind, body in re.findall(rb"<(script|style)>(.*?)</\1>", page, re.S)
    }
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[b'script']}'; style-src 'sha256-{hashes[b'style']}'; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ).encode()


def _is_here(client: str) -> bool:
    try:
        address = ip_address(client)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _is_no_name(host: str) -> bool:
    """Tell whether a Host header names an address, or this machine as itself."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name.lower() in ("localhost", ""):
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
