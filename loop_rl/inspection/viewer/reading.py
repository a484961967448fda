"""A rollout as it lies in its parquet file, and what the trainer made of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from loop_rl.data.rollout import EndReason, Rollout
from loop_rl.data.updates import RolloutUpdate
from loop_rl.inspection.viewer.index import DROPPED, SAMPLED, UNFINISHED
from loop_rl.store.rollout_files import read_rollouts
from loop_rl.store.run_dir import RunDir
from loop_rl.store.updates import read_updates


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
        try:
            found |= {rollout.rollout_id: rollout for rollout in read_rollouts(path, wanted)}
        except ValueError as error:
            raise Unreadable(str(error)) from error
    if missing := [row["rollout_id"] for row in rows if row["rollout_id"] not in found]:
        raise Unreadable(f"{path}: no longer holds rollout {missing[0]}; load this page again")
    return [found[row["rollout_id"]] for row in rows]


def read_update(run: RunDir, row: sqlite3.Row) -> RolloutUpdate | str:
    """What the trainer computed of a rollout, or why there is nothing."""
    if row["source"] not in SAMPLED:
        return "evaluation rollout: not trained on"
    if row["source"] == UNFINISHED:
        return "not trained on yet: no iteration has taken its group"
    if row["source"] == DROPPED:
        return "not trained on: its group became older than sampler.max_staleness allows"
    if row["end_reason"] == EndReason.CUT_OFF:
        return "not trained on: it was cut off"
    path = run.update_file(row["iteration"])
    if not path.exists():
        return f"iteration {row['iteration']} has not been trained yet (no {path.relative_to(run.path)})"
    try:
        updates = read_updates(path, {row["rollout_id"]})
    except ValueError as error:
        return str(error)
    if not updates:
        return f"{path.relative_to(run.path)} does not name this rollout"
    return updates[0]


def _finished_file(run: RunDir, row: sqlite3.Row, piece: Path) -> Path:
    """Where the rollout of a piece has gone: the file of its group, or of the evaluation."""
    if row["source"] in SAMPLED:
        trained, dropped = run.group_file(row["group_id"]), run.dropped_rollouts / run.group_file(row["group_id"]).name
        return dropped if dropped.exists() else trained
    return run.eval_rollouts / f"{piece.parent.name.removeprefix('.')}.parquet"
