"""What a pack knows of its tasks and no agent does."""

from __future__ import annotations

import textwrap
from pathlib import Path


def solution_code(root: Path, task_id: str) -> str:
    """The ground-truth solution of a task of the built-in pack, as code for the REPL."""
    source = (root / "data" / "tasks" / task_id / "ground_truth" / "compiled_solution.py").read_text()
    return textwrap.dedent(source.partition("-> None:\n")[2])
