"""Finding what a command line names: a rollout of a run, a policy version, a task."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from loop_rl.config.base import ConfigError
from loop_rl.data.rollout import Rollout
from loop_rl.environments.protocol import Environment, Task, TaskError
from loop_rl.store.rollout_files import read_rollouts
from loop_rl.store.run_dir import RunDir

_NUM_NEAREST = 3


def find_rollout(run: RunDir, rollout_id: str) -> Rollout:
    """The rollout of this id: of a group that was trained on, of one that was not, or of an evaluation, finished or not.

    Raises:
        ConfigError: there is none; names the nearest ids, and a file that could not be searched.
        ValueError: its file is damaged, or was written by another version of loop_rl.
    """
    known: list[str] = []
    damaged: list[str] = []
    # A big run has more files than anyone wants to wait for; the id says which one it should be.
    for path in sorted(_rollout_files(run), key=lambda path: not _should_hold(path, rollout_id)):
        try:
            ids = pq.read_table(path, columns=["rollout_id"])["rollout_id"].to_pylist()
        except FileNotFoundError:
            continue  # a running sampler has moved it into its group's file meanwhile
        except (pa.ArrowException, OSError, KeyError) as error:  # KeyError: a file of other columns
            damaged.append(f"{path} cannot be read: {' '.join(str(error).split())}")
            continue
        if rollout_id in ids:
            return read_rollouts(path, {rollout_id})[0]
        known += ids
    nearest = difflib.get_close_matches(rollout_id, known, n=_NUM_NEAREST, cutoff=0.0)
    hint = f"the nearest are {', '.join(nearest)}" if nearest else "it has no rollouts yet"
    raise ConfigError("; ".join([f"{run.path}: no rollout {rollout_id!r}; {hint}", *damaged[:1]]))


def all_tasks(environment: Environment) -> Iterator[tuple[str, Task]]:
    """Every split with each of its tasks. Raises TaskError."""
    for split in environment.all_splits():
        yield from ((split, task) for task in environment.tasks(split))


def find_task(environment: Environment, task_id: str) -> Task:
    """The task of this id, of whichever split. Raises TaskError when there is none, with the nearest ids."""
    tasks = {task.task_id: task for _, task in all_tasks(environment)}
    if task_id not in tasks:
        nearest = difflib.get_close_matches(task_id, tasks, n=_NUM_NEAREST, cutoff=0.0)
        raise TaskError(f"no task {task_id!r} in any split; the nearest are {', '.join(nearest)}")
    return tasks[task_id]


def _should_hold(path: Path, rollout_id: str) -> bool:
    """By the names that sampler and evaluation give: g000017-k2 in group-000017, v000016-... in v000016-..."""
    prefix = rollout_id.partition("-")[0]
    return path.stem == f"group-{prefix[1:]}" or path.stem.startswith(f"{prefix}-")


def _rollout_files(run: RunDir) -> list[Path]:
    """In the order in which they are searched: a group replaces its unfinished rollouts."""
    sampled = (run.train_rollouts, run.dropped_rollouts, run.unfinished_rollouts)
    folders = (*sampled, run.eval_rollouts, *run.eval_rollouts.glob(".v*"))
    return [path for folder in folders for path in sorted(folder.glob("*.parquet"))]
