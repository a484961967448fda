"""A rollout as it lies in its parquet file, and what the trainer made of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pyarrow.parquet as pq

from loop_rl.inspection.index import TRAINING, UNFINISHED
from loop_rl.inspection.rows import UNUSABLE
from loop_rl.rollout import Rollout, Turn
from loop_rl.run_dir import RunDir
from loop_rl.updates import RolloutUpdate


class Unreadable(ValueError):
    """A file that the index knows cannot be read any more; one line that names it."""


def read_listed(run: RunDir, rows: Sequence[sqlite3.Row]) -> list[Rollout]:
    """The rollouts of index rows, in their order.

    Raises:
        Unreadable: a file is gone or damaged.
    """
    found: dict[str, Rollout] = {}
    for file in dict.fromkeys(row["path"] for row in rows):
        here = [row for row in rows if row["path"] == file]
        wanted = {row["rollout_id"] for row in here}
        path = run.path / file
        if not path.exists():
            path = _finished_file(run, here[0], path)
        found |= {rollout.rollout_id: rollout for rollout in _read(path, wanted)}
    if missing := [row["rollout_id"] for row in rows if row["rollout_id"] not in found]:
        raise Unreadable(f"{path}: no longer holds rollout {missing[0]}; load this page again")
    return [found[row["rollout_id"]] for row in rows]


def read_update(run: RunDir, row: sqlite3.Row) -> RolloutUpdate | str:
    """What the trainer computed of a rollout, or why there is nothing."""
    if row["source"] not in (TRAINING, UNFINISHED):
        return "evaluation rollout: not trained on"
    path = run.update_file(row["iteration"])
    if not path.exists():
        return f"iteration {row['iteration']} has not been trained yet (no {path.relative_to(run.path)})"
    try:
        columns = [field.name for field in fields(RolloutUpdate)]
        rows = pq.read_table(path, columns=columns, filters=[("rollout_id", "==", row["rollout_id"])]).to_pylist()
    except UNUSABLE as error:
        return f"{path.relative_to(run.path)}: not a readable update file: {' '.join(str(error).split())}"
    if not rows:
        return f"{path.relative_to(run.path)} does not name this rollout"
    return RolloutUpdate(**rows[0])


def _finished_file(run: RunDir, row: sqlite3.Row, piece: Path) -> Path:
    """Where the rollout of a piece has gone: the file of its group, or of the evaluation."""
    if row["iteration"] >= 0:
        return run.group_file(row["group_id"])
    return run.eval_rollouts / f"{piece.parent.name.removeprefix('.')}.parquet"


def _read(path: Path, rollout_ids: set[str]) -> list[Rollout]:
    # Filtered before it becomes Python objects: an evaluation's file holds hundreds of rollouts of up to 32,768 tokens.
    try:
        table = pq.read_table(path, filters=[("rollout_id", "in", rollout_ids)])
        return [Rollout(**(row | {"turns": [Turn(**turn) for turn in row["turns"]]})) for row in table.to_pylist()]
    except (*UNUSABLE, KeyError, TypeError) as error:  # the latter: replaced by a file of other columns
        raise Unreadable(f"{path}: not a readable rollout file: {' '.join(str(error).split())}") from error
