"""``nodelocal probe live | ready``: what a kubelet runs in the container every few seconds; it imports next to nothing.

It asks at the control socket: with host networking a port for probes would be one of the host's.
"""

from __future__ import annotations

import json
import socket
import sys

USAGE = "usage: nodelocal probe live|ready [--control PATH]"
DEFAULT_CONTROL = "/run/nodelocal/control.sock"
WAIT_SECONDS = 4.0
"""A worker that is being replaced answers within two."""


def main(arguments: list[str]) -> int:
    """Return 0 if nodelocal lives, or is ready; 1 with a line that says why not; 2 for arguments that are none."""
    control = DEFAULT_CONTROL
    words = list(arguments)
    if "--control" in words[:-1]:
        at = words.index("--control")
        control = words[at + 1]
        del words[at : at + 2]
    if words in (["--help"], ["-h"]):
        sys.stdout.write(f"{USAGE}\n\nStatus 0 if the nodelocal at the control socket lives, or is ready; else 1.\n")
        return 0
    if words not in (["live"], ["ready"]):
        sys.stderr.write(f"nodelocal: {USAGE}\n")
        return 2
    try:
        why = _not_ready(control)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        sys.stderr.write(f"nodelocal: no answer at {control}: {reason}\n")
        return 1
    if why and words == ["ready"]:
        sys.stderr.write("".join(f"nodelocal: not ready: {line}\n" for line in why))
        return 1
    return 0


def _not_ready(control: str) -> list[str]:
    """Ask; return why it is not ready. Raises OSError, ValueError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect(control)
        sock.sendall(b'{"do": "probe"}\n')
        with sock.makefile("rb") as lines:
            reply = json.loads(lines.readline())
    why = reply.get("not ready") if isinstance(reply, dict) else None
    if not isinstance(why, list):
        raise ValueError("no reply of nodelocal's")  # noqa: TRY004 - what else is wrong with it is one, too
    return [str(line) for line in why]
