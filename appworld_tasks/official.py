"""AppWorld's official task data: downloaded once, by AppWorld's own command, to a root of its own.

    python -m appworld_tasks.official --root .appworld/official

Nothing happens where the data is there already. Without internet, run this where there is some and copy the folder: it is
data only, the same on every machine. Its licence forbids publishing it, or anything made of it, unencrypted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from appworld_tasks.builtin.pack import MANIFEST_NAME
from appworld_tasks.builtin.scenarios import SPLITS
from appworld_tasks.roots import RootError, check_python, check_root

PYTHON = ".venv-appworld/bin/python"


def check_official(root: str | Path) -> Path:
    """The absolute path of a root that has AppWorld's official data. Raises RootError."""
    path = Path(root).resolve()
    if not (path / "data").is_dir():
        raise RootError(
            f"{path}: no official AppWorld data here (data/ is missing); run `make tasks-official`, or set APPWORLD_ROOT "
            "to the folder that `appworld download data` has filled"
        )
    check_root(path)
    if (path / "data" / MANIFEST_NAME).exists():
        raise RootError(
            f"{path}: these are the built-in tasks, not the official ones; set APPWORLD_ROOT to another folder"
        )
    for split in SPLITS:
        if not (path / "data" / "datasets" / f"{split}.txt").exists():
            raise RootError(
                f"{path}: data/datasets/{split}.txt is missing; remove {path}/data and run `make tasks-official`"
            )
    return path


def download(root: str | Path, python: str | Path = PYTHON) -> Path:
    """Download AppWorld's data unless it is there. Raises RootError; data that is there already is never touched."""
    path = Path(root).resolve()
    if (path / "data").exists():
        return check_official(path)
    path.mkdir(parents=True, exist_ok=True)
    command = [check_python(python), "-m", "appworld.cli", "download", "data", "--root", path]
    # Its own exit status is 0 even when the server refuses, so what counts is what lies there afterwards. Wide lines,
    # because an error is cut to the terminal's width.
    result = subprocess.run(
        command, env=os.environ | {"COLUMNS": "500"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        return check_official(path)
    except RootError:
        said = [line for line in result.stdout.splitlines() if line.strip()] or ["AppWorld says nothing"]
        raise RootError(
            f"{path}: the download failed ({said[-1].strip()[:120]}...); where there is no internet, run "
            f"`make tasks-official` on a machine that has it and copy its folder to {path}"
        ) from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder for the data, $APPWORLD_ROOT for example")
    parser.add_argument("--check", action="store_true", help="only say what is missing; download nothing")
    args = parser.parse_args()
    try:
        path = check_official(args.root) if args.check else download(args.root)
    except (RootError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not args.check:
        print(f"AppWorld's official tasks are at {path}; use them with TASKS=official")
    return 0


if __name__ == "__main__":
    sys.exit(main())
