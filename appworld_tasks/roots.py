"""Where AppWorld's data lies: the full root, which has the ground truth, and the workers' copy, which has none.

    full root                               worker root (`<full root>-worker`)
      data/{base_dbs,api_docs,datasets}       data/   a real copy, without any ground_truth folder
      data/tasks/<id>/ground_truth/ ...       experiments/outputs/<experiment>/tasks/<id>/
      experiments -> worker root

Agent code can read and write whatever its process can, so the copy has neither links to the full root nor files in
common with it. Outputs written by workers show up in the full root through `experiments`, which is where the scorer and
`appworld evaluate` look for them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from pathlib import Path

GROUND_TRUTH = "ground_truth"


class RootError(ValueError):
    """A path given by the user cannot be used; the message is one line, names the path and says what to do."""


def check_root(root: str | Path) -> Path:
    """The absolute path of a root that has AppWorld data. Raises RootError."""
    path = Path(root).resolve()
    if "memory" in str(path):
        # AppWorld takes any database path with this word in it for an in-memory database.
        raise RootError(f"{path}: AppWorld cannot work below a path that contains the word 'memory'; choose another")
    missing = [name for name in ("tasks", "datasets", "base_dbs", "api_docs") if not (path / "data" / name).is_dir()]
    if missing:
        raise RootError(
            f"{path}: no AppWorld data here (data/{missing[0]} is missing); generate the built-in tasks with "
            f"`python -m appworld_tasks.builtin generate --root {path}` or run `appworld download data --root {path}`"
        )
    return path


def check_python(python: str | Path) -> Path:
    """The absolute path of an interpreter, its symbolic link kept: that is what makes it a virtual environment's.

    Raises RootError.
    """
    path = Path(os.path.abspath(python))
    if not os.access(path, os.X_OK):
        raise RootError(f"{path}: no AppWorld environment here; run `make setup`")
    return path


def worker_root_of(full_root: Path) -> Path:
    return full_root.with_name(full_root.name + "-worker")


def prepare_worker_root(full_root: str | Path) -> Path:
    """Make or refresh the workers' copy of a full root, link `experiments`, and return the copy's path.

    Does nothing when the copy is up to date; callers in several processes wait for each other. Raises RootError.
    """
    full = check_root(full_root)
    worker = worker_root_of(full)
    (worker / "experiments" / "outputs").mkdir(parents=True, exist_ok=True)
    with open(worker / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _link_experiments(full, worker)
        signature_file = worker / "data.signature"
        signature = _signature(full / "data")
        if not signature_file.exists() or signature_file.read_text() != signature:
            signature_file.unlink(missing_ok=True)
            _copy_without_ground_truth(full / "data", worker / "data")
            signature_file.write_text(signature)
    return worker


def _link_experiments(full: Path, worker: Path) -> None:
    link, target = full / "experiments", worker / "experiments"
    if link.is_symlink() and link.resolve() == target:
        return
    if link.is_dir() and not link.is_symlink():
        # AppWorld's own commands have been here first.
        _move_contents(link / "outputs", target / "outputs")
        _move_contents(link, target)
        link.rmdir()
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target, full))


def _move_contents(source: Path, target: Path) -> None:
    """Move everything in `source` to `target`; an `outputs` folder emptied before is removed."""
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        if path.name == "outputs" and not any(path.iterdir()):
            path.rmdir()
        elif (target / path.name).exists():
            raise RootError(f"{path}: also exists as {target / path.name}; delete one of them")
        else:
            shutil.move(path, target / path.name)


def _copy_without_ground_truth(source: Path, target: Path) -> None:
    """Replace `target` by a copy of `source`, without ever showing a half-made one."""
    new, old = target.with_name("data.new"), target.with_name("data.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, new, ignore=shutil.ignore_patterns(GROUND_TRUTH))
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _signature(data: Path) -> str:
    """Changes when a file that is copied appears, disappears, or gets another size or modification time."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(data):
        folders[:] = sorted(name for name in folders if name != GROUND_TRUTH)
        for name in sorted(files):
            path = os.path.join(folder, name)
            status = os.stat(path)
            digest.update(f"{os.path.relpath(path, data)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
