"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def unfinished_twin(final: Path) -> Path:
    return final.with_name(f".{final.name}.unfinished")


def remove_leftovers(folder: Path) -> None:
    """Delete what an earlier process did not live to finish."""
    for leftover in folder.glob(".*.unfinished"):
        shutil.rmtree(leftover)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that readers see the old one or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text)
    os.replace(unfinished, path)
