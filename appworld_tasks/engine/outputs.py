"""Copies what an untrusted process has written, for others to read."""

import os
import shutil
import stat
from collections.abc import Sequence

MAX_DEPTH = 8  # AppWorld's outputs have two levels
CHUNK = 2**20
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a named pipe must not wait


def copy_outputs(source: str, inner: Sequence[str], target: str, max_bytes: int) -> None:
    """Replace `target` by a copy of the folder `source`/inner[0]/inner[1]/...; only `source` itself is trusted.

    No link is followed: it could lead to another episode's outputs. Raises ValueError when there is anything but files
    and folders, or more than `max_bytes` in them.
    """
    shutil.rmtree(target, ignore_errors=True)
    folder = os.open(source, FOLDER)
    try:
        for name in inner:
            outer = folder
            folder = _open(name, FOLDER, outer)
            os.close(outer)
        os.makedirs(target)
        _copy_folder(folder, target, max_bytes, MAX_DEPTH)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    finally:
        os.close(folder)


def _open(name: str, flags: int, folder: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        raise ValueError(f"{name!r} in its outputs cannot be opened ({os.strerror(error.errno)})") from None


def _copy_folder(folder: int, target: str, room: int, depth: int) -> int:
    """Returns what is left of `room`, in bytes."""
    if depth == 0:
        raise ValueError("its outputs have folders in folders without end")
    for name in sorted(os.listdir(folder)):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise ValueError(f"{name!r} in its outputs is neither file nor folder")
        descriptor = _open(name, FOLDER if stat.S_ISDIR(mode) else FILE, folder)
        path = os.path.join(target, name)
        try:
            if stat.S_ISDIR(mode):
                os.mkdir(path)
                room = _copy_folder(descriptor, path, room, depth - 1)
            elif stat.S_ISREG(os.fstat(descriptor).st_mode):
                room = _copy_file(descriptor, path, room)
            else:
                raise ValueError(f"{name!r} in its outputs is not the file that it was")
        finally:
            os.close(descriptor)
    return room


def _copy_file(descriptor: int, path: str, room: int) -> int:
    with open(path, "wb") as copy:
        while data := os.read(descriptor, CHUNK):
            room -= len(data)
            if room < 0:
                raise ValueError("its outputs are too large")
            copy.write(data)
    return room
