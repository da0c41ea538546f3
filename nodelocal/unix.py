"""A Unix socket that only its owner may use; what a process that is gone left behind in its place is replaced."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from kdns.errors import ConfigError, Problem
from nodelocal.config import DEFAULT_CONTROL


def bind_unix(path: Path, what: str) -> socket.socket:
    """Return a listening, non-blocking socket at *path*. Raises ConfigError, naming *what*."""
    try:
        if path.parent == Path(DEFAULT_CONTROL).parent:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = path.parent.stat()
            if folder.st_uid == os.geteuid() and folder.st_mode & 0o077:  # a host path that a kubelet made
                path.parent.chmod(0o700)
        _remove_dead(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            sock.bind(str(path))
        except OSError:
            sock.close()
            raise
        finally:
            os.umask(mask)
    except OSError as exc:
        found = _why(path, exc)
        raise ConfigError([Problem(f"{what} {path}", found, "a path in a folder that is there, for a socket")]) from exc
    sock.listen(16)
    sock.setblocking(False)
    return sock


def _why(path: Path, exc: OSError) -> str:
    if not path.parent.is_dir():
        return "a folder that is not there"
    if path.is_dir():
        return "a folder"
    if exc.errno == errno.EADDRINUSE:
        return "a socket that another process answers at" if path.is_socket() else "a file that is no socket"
    return exc.strerror or str(exc)


def _remove_dead(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # binding there tells what is wrong
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        if sock.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink()
