"""Files and folders that appear whole or not at all, and files of lines of which some may be damaged."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def unfinished_twin(final: Path) -> Path:
    """Where a folder is written before it is renamed to `final`."""
    return final.with_name(f".{final.name}.unfinished")


def remove_leftovers(folder: Path) -> None:
    """Delete what an earlier process did not live to finish."""
    for leftover in folder.glob(".*.unfinished"):
        shutil.rmtree(leftover)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` once the body has ended: readers see the old file or the new one, never half.
    Nothing is left where the body fails, on a full disk, say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A dot in front hides it from the patterns that readers use.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a small file, see `replacing`."""
    with replacing(path) as unfinished:
        unfinished.write_text(text)


def warn_of_damage(path: Path, reason: str) -> None:
    print(f"warning: {path}: {reason}", file=sys.stderr, flush=True)


def parse_lines(
    data: bytes,
    make: Callable[[dict[str, Any]], T],
    path: Path,
    first_line: int = 1,
    on_damage: Callable[[Path, str], None] = warn_of_damage,
) -> list[T]:
    """What `make` gives of each line of JSON.

    A line that is none is named and left out: a full disk tears lines, and what is written later stands behind the torn one.

    Args:
        make: raises ValueError, KeyError or TypeError for what cannot be a line of this file.
        first_line: number of the first one in the file at `path`.
    """
    made = []
    for number, line in enumerate(data.splitlines(), first_line):
        try:
            made.append(make(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            on_damage(path, f"line {number} is damaged (was the disk full?) and left out")
    return made
