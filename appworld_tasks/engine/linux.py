"""System calls that Python's standard library does not have. All raise OSError with the name of the call."""

import ctypes
import os
import struct

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38

# The same numbers on all architectures.
SYS_MOUNT_SETATTR, SYS_LANDLOCK_CREATE_RULESET, SYS_LANDLOCK_RESTRICT_SELF = 442, 444, 446
AT_RECURSIVE, MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 0x8000, 1, 2
SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
KEYCTL_JOIN_SESSION_KEYRING = 1
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, LANDLOCK_SCOPE_SIGNAL = 1, 2
FIRST_LANDLOCK_WITH_SCOPES = 6
CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def prctl(option: int, value: int) -> None:
    _call(f"prctl({option})", _libc.prctl(option, value, 0, 0, 0))


def unshare(flags: int) -> None:
    _call("unshare", _libc.unshare(flags))


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    _call(f"mount {target}", _libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]))


def unmount(target: str) -> None:
    _call(f"umount {target}", _libc.umount2(target.encode(), MNT_DETACH))


def pivot_root(new: str, old: str) -> None:
    _call("pivot_root", _libc.pivot_root(new.encode(), old.encode()))


def make_read_only(target: str, *, recursive: bool) -> None:
    """Make a mount, and with `recursive` all mounts below it, read-only, and its set-user-id bits without effect."""
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    # Variable arguments are passed as 64 bits only when their type says so.
    arguments = (ctypes.c_long(-1), target.encode(), ctypes.c_long(flags), attributes, ctypes.c_long(len(attributes)))
    _call(f"mount_setattr {target}", _libc.syscall(ctypes.c_long(SYS_MOUNT_SETATTR), *arguments))


def has_scopes() -> bool:
    """Whether this kernel can keep a process from sending signals to those outside (Linux 6.12, Landlock enabled)."""
    arguments = (None, ctypes.c_long(0), ctypes.c_long(LANDLOCK_CREATE_RULESET_VERSION))
    return _libc.syscall(ctypes.c_long(SYS_LANDLOCK_CREATE_RULESET), *arguments) >= FIRST_LANDLOCK_WITH_SCOPES


def enter_scope() -> None:
    """From here on no signal and no abstract socket of this process reaches anything but itself and its children."""
    rules = struct.pack("QQQ", 0, 0, LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL)
    arguments = (rules, ctypes.c_long(len(rules)), ctypes.c_long(0))
    descriptor = _call("landlock", _libc.syscall(ctypes.c_long(SYS_LANDLOCK_CREATE_RULESET), *arguments))
    arguments = (ctypes.c_long(descriptor), ctypes.c_long(0))
    _call("landlock", _libc.syscall(ctypes.c_long(SYS_LANDLOCK_RESTRICT_SELF), *arguments))
    os.close(descriptor)


def leave_session_keyring() -> None:
    """What one process keeps in a shared keyring, others can read. Where the system forbids keyrings, nobody can."""
    number = SYS_KEYCTL.get(os.uname().machine)
    if number is not None:
        _libc.syscall(ctypes.c_long(number), ctypes.c_long(KEYCTL_JOIN_SESSION_KEYRING), None)


def drop_capabilities() -> None:
    _call("capset", _libc.capset(struct.pack("Ii", CAPABILITY_VERSION, 0), bytes(24)))
