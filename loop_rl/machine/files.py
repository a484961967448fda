"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
