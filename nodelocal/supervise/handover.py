"""Open sockets from one supervisor to the next one on the node: nothing that arrives meanwhile is lost.

They meet at a Unix socket in the folder of the control socket, which only its owner may use; each looks who the other
is.

| the next one                     | the one there is                                                                  |
|----------------------------------|-----------------------------------------------------------------------------------|
| ``{"nodelocal": VERSION}``       | has its worker write the cache, where the version is its own                      |
|                                  | ``{"sockets": [[role, family, address, port], …]}`` and, with it, the descriptors |
|                                  | or ``{"busy": true}``, while it is handing over to a third                        |
| answers, then ``{"ready": true}``| ``{"going": true}``; has its worker finish what it has begun, and ends            |
| goes away before that            | goes on as if nothing had been                                                    |
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kdns.errors import ConfigError, Problem
from kdns.lines import encode

FILE: Final = "handover.sock"
VERSION: Final = 1
ASK_SECONDS: Final = 30.0
"""How long the one there is may take to write its cache."""
GO_SECONDS: Final = 15.0
MAX_SOCKETS: Final = 250
_LINE_OCTETS: Final = 65_536

Key = tuple[str, int, str, int]
"""What a socket is for (udp, tcp, admin, control), its family (4 or 6; 0), its address and its port."""


class Given:
    """What was handed over: sockets by what they are for, and the connection to whoever gave them."""

    def __init__(self, path: Path, link: socket.socket, sockets: dict[Key, socket.socket]) -> None:
        self._path = path
        self._link = link
        self.sockets = sockets

    def ready(self) -> bool:
        """Tell the other to go, and wait until it has gone, some seconds at most; False if it stays."""
        is_going = False
        try:
            self._link.sendall(encode({"ready": True}))
            self._link.settimeout(GO_SECONDS)
            is_going = b"going" in self._link.recv(_LINE_OCTETS)
            self._link.recv(1)
        except OSError:
            pass
        finally:
            self.close()
        return is_going or not _is_answered(self._path)

    def close(self) -> None:
        """Let the connection go, and the sockets that nobody took out."""
        self._link.close()
        for sock in self.sockets.values():
            sock.close()


def ask(path: Path) -> Given | None:
    """Ask whoever serves on this node for its sockets; None where nobody does.

    Raises ConfigError where somebody else is there, or something that is no nodelocal.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise _problem(path, exc.strerror or str(exc), "a folder of this program's own") from exc
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise _problem(path, f"something of user {found.st_uid}", "a socket of the same user's; remove it")
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.settimeout(ASK_SECONDS)
    try:
        link.connect(str(path))
        if peer_of(link) != os.geteuid():
            raise _problem(path, f"a process of user {peer_of(link)}", "one of the same user's; end it")
        link.sendall(encode({"nodelocal": VERSION}))
        return Given(path, link, _receive(link))
    except ConnectionRefusedError:  # left behind by one that was killed
        link.close()
        return None
    except (OSError, ValueError, LookupError, TypeError) as exc:
        link.close()
        why = str(exc) or type(exc).__name__
        raise _problem(
            path, f"an answer that is none ({why})", "a nodelocal, or nothing: end it, and remove this"
        ) from exc
    except BaseException:
        link.close()
        raise


def give(link: socket.socket, sockets: dict[Key, socket.socket]) -> None:
    """Send *sockets* over a connection, in one message. Raises OSError."""
    body = encode({"sockets": [list(key) for key in sockets]})
    socket.send_fds(link, [body], [sock.fileno() for sock in sockets.values()])


def peer_of(link: socket.socket) -> int:
    """Return the user of the process at the other end of a Unix socket (SO_PEERCRED)."""
    _, uid, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def _receive(link: socket.socket) -> dict[Key, socket.socket]:
    body, fds, _, _ = socket.recv_fds(link, _LINE_OCTETS, MAX_SOCKETS)
    got = [socket.socket(fileno=fd) for fd in fds]
    try:
        said = json.loads(body)
        if said.get("busy"):
            raise ValueError("it is handing over to another one already")
        keys = said["sockets"]
        if len(keys) != len(got):
            raise ValueError("as many sockets as it names")
        return {
            (str(role), int(family), str(address), int(port)): sock
            for (role, family, address, port), sock in zip(keys, got, strict=True)
        }
    except BaseException:
        close(got)
        raise


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(str(path)) == 0


def close(sockets: Sequence[socket.socket]) -> None:
    """Close all."""
    for sock in sockets:
        sock.close()


def _problem(path: Path, found: str, expected: str) -> ConfigError:
    return ConfigError([Problem(f"hand-over {path}", found, expected)])
