"""Run a command as a container of the manifests runs: python -m tests.support.restricted WRITABLE CHECKOUT COMMAND …

Needs root. In a mount namespace of its own: everything read-only but WRITABLE, which is memory, as an ``emptyDir`` is; user
and group 65532 without others; no capability and none to be had; no_new_privs; and a seccomp filter that refuses what
``RuntimeDefault`` refuses a container without capabilities. CHECKOUT and Python can be read wherever they are.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path
from typing import Final

from kdns.privileges import give_up

USER: Final = 65_532
_CLONE_NEWNS: Final = 0x20000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 24, 22, 38

REFUSED: Final = (
    155, 161, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172, 173, 174, 175, 176, 179, 180, 212, 227, 246, 248, 249,
    250, 256, 272, 279, 298, 304, 305, 308, 312, 313, 320, 321, 323, 425, 426, 427, 428, 429, 430, 431, 432, 433,
)  # fmt: skip
"""x86-64: pivot_root, chroot, acct, settimeofday, mount, umount2, swapon, swapoff, reboot, sethostname, setdomainname, iopl,
ioperm, create_module, init_module, delete_module, quotactl, nfsservctl, lookup_dcookie, clock_settime, kexec_load,
add_key, request_key, keyctl, migrate_pages, unshare, move_pages, perf_event_open, open_by_handle_at, clock_adjtime,
setns, kcmp, finit_module, kexec_file_load, bpf, userfaultfd, io_uring_*, open_tree, move_mount, fsopen, fsconfig,
fsmount, fspick."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Restrict this process, and become the command."""
    writable, checkout, *command = sys.argv[1:]
    _unshare(Path(writable), [Path(checkout), Path(sys.base_prefix)])
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setresuid(USER, USER, USER)
    give_up()
    _filter()
    os.execvp(command[0], command)


def _check(status: int, what: str) -> None:
    if status:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), None if data is None else data.encode()), f"mount {target}")


def _unshare(writable: Path, needed: list[Path]) -> None:
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    stage = Path("/mnt")
    _mount("tmpfs", str(stage), "tmpfs", 0)
    for number, path in enumerate(needed):
        (stage / str(number)).mkdir()
        _mount(str(path), str(stage / str(number)), None, _MS_BIND)
    for number, path in enumerate(needed):
        for above in reversed(path.parents):
            if above.exists() and not above.stat().st_mode & 1:  # what others may not pass through is covered
                _mount("tmpfs", str(above), "tmpfs", 0, "mode=0755")
        path.mkdir(parents=True, exist_ok=True)
        _mount(str(stage / str(number)), str(path), None, _MS_BIND)
    if not writable.is_relative_to("/proc"):
        _mount("tmpfs", str(writable), "tmpfs", 0, f"mode=0700,uid={USER},gid={USER}")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split()[4].replace("\\040", " ")
        if target != str(writable) and not target.startswith(("/proc", "/sys", "/dev")):
            _libc.mount(b"none", target.encode(), None, ctypes.c_ulong(_MS_REMOUNT | _MS_BIND | _MS_RDONLY), None)


def _filter() -> None:
    """Refuse with EPERM; a program of classic BPF over struct seccomp_data (seccomp(2))."""

    def step(code: int, true: int, false: int, value: int) -> bytes:
        return struct.pack("=HBBI", code, true, false, value)

    load_number = step(0x20, 0, 0, 0)
    tests = b"".join(step(0x15, len(REFUSED) - at, 0, number) for at, number in enumerate(REFUSED))
    allow, refuse = step(0x06, 0, 0, 0x7FFF0000), step(0x06, 0, 0, 0x00050001)
    program = load_number + tests + allow + refuse
    octets = ctypes.create_string_buffer(program)
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(octets))
    _check(_libc.prctl(_PR_SET_SECCOMP, 2, ctypes.create_string_buffer(header), 0, 0), "seccomp")


if __name__ == "__main__":
    main()
