"""Give up capabilities, for good (Linux): what reads packets from the network must not be able to change the machine.

See capabilities(7) and prctl(2). A process keeps its user, so that it can write to the folders that are its own.
"""

from __future__ import annotations

import ctypes
import logging
import os
from typing import Final

log = logging.getLogger(__name__)

_VERSION_3: Final = 0x20080522
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

READING: Final = "dac_read_search"
"""To read what others own: a kubeconfig at a desk, with sudo."""

_NAMES: Final = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
"""By number."""


def give_up(*, keep: int = 0) -> tuple[list[str], list[str]]:
    """Drop all capabilities of this process and of whatever it runs, but those in the bit mask *keep*.

    Return the names of those that it had and has not any more, and of those that it still has. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and again, for numbers from 32 on
    if libc.capget(header, sets):
        raise _error("capget")
    had = sets[0] | sets[3] << 32
    left = had & keep
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise _error("no_new_privs")
    low, high = left & 0xFFFFFFFF, left >> 32
    if libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)):
        raise _error("capset")
    return _names(had & ~left), _names(left)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def _names(mask: int) -> list[str]:
    return [_NAMES[at] if at < len(_NAMES) else str(at) for at in range(64) if mask >> at & 1]


def keep_only(*names: str, tells: bool = True) -> None:
    """Give up all capabilities but *names*, and say so where there was anything to give up.

    To be called before there are other threads: each has its own.
    """
    try:
        gone, left = give_up(keep=sum(1 << _NAMES.index(name) for name in names))
    except (OSError, AttributeError) as exc:  # a system that has none, or a filter that forbids to
        log.warning("capabilities cannot be given up: %s", exc)
        return
    if gone and tells:
        log.info("capabilities given up: %s%s", ", ".join(gone), f"; kept: {', '.join(left)}" if left else "")
