"""Copies and reads what an untrusted process has written. Standard library only: both environments import it."""

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence

MAX_FILE_BYTES = 64 * 2**20
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


class Unreplayable(Exception):
    """The saved outputs are not what a world writes; the message says what is wrong."""


def read_calls(outputs: str) -> bytes:
    """The log of an episode's API calls; empty where there is none. Raises Unreplayable."""
    if not os.path.isdir(outputs):
        raise Unreplayable("its outputs are gone")
    return read_regular_file(os.path.join(outputs, "logs", "api_calls.jsonl"))


def read_saved_state(outputs: str) -> dict[str, bytes]:
    """What a world has saved of its databases, by file; nothing where no code ran. Raises Unreplayable."""
    return read_folder(os.path.join(outputs, "dbs"))


def digest(task_id: str, calls: bytes, saved: Mapping[str, bytes]) -> str:
    """Tells what two episodes of a root have left apart, wherever their scores could differ."""
    found = hashlib.sha256()
    for part in (task_id.encode(), calls, *(part for name in sorted(saved) for part in (name.encode(), saved[name]))):
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


def read_folder(path: str) -> dict[str, bytes]:
    """{name: content} of the files of a folder; nothing where there is none. Raises Unreplayable."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Unreplayable(f"saved state: {error.strerror}") from None
    return {name: read_regular_file(os.path.join(path, name)) for name in names}


def read_regular_file(path: str) -> bytes:
    """Content of a file that agent code may have replaced by something else; empty where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise Unreplayable(f"{os.path.basename(path)}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            raise Unreplayable(f"{os.path.basename(path)}: no file, or larger than {MAX_FILE_BYTES} bytes")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE_BYTES)
    finally:
        os.close(descriptor)
