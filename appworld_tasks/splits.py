"""Which tasks there are: AppWorld's splits, and the little about each task that an agent is told."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appworld_tasks.roots import check_root

TEST_SPLITS = ("test_normal", "test_challenge")


class SplitError(ValueError):
    """A split or task that does not exist or must not be used; the message is one line."""


@dataclass(frozen=True)
class TaskInfo:
    """One task."""

    task_id: str
    scenario_id: str
    """Tasks of one scenario differ in details; AppWorld has three of each."""
    difficulty: int
    """1, 2 or 3."""
    instruction: str
    supervisor: dict[str, str]
    """first_name, last_name, email, phone_number of the person who gives the task."""
    datetime: str
    """Date and time in the world, ISO 8601."""


def load_split(root: str | Path, split: str) -> list[TaskInfo]:
    """The tasks of `data/datasets/<split>.txt` of a full root, in its order. Raises SplitError, RootError."""
    data = check_root(root) / "data"
    splits = sorted(path.stem for path in (data / "datasets").glob("*.txt"))
    if split not in splits:
        raise SplitError(f"no split {split!r} in {data / 'datasets'}; {_nearest(split, splits)}")
    lines = (data / "datasets" / f"{split}.txt").read_text().split("\n")
    task_ids = [line.partition(":")[0].strip() for line in lines]  # what follows a colon is a tag
    return [_load_task(data / "tasks" / task_id) for task_id in task_ids if task_id]


def training_tasks(
    root: str | Path, split: str, difficulties: Collection[int] | None = None, task_ids: Sequence[str] = ()
) -> list[TaskInfo]:
    """The tasks of a split to train on: of these difficulties or of all, and of these ids if any are given.

    Raises SplitError, also for a test split.
    """
    if split in TEST_SPLITS:
        raise SplitError(f"split {split!r} is for testing only; train on 'train' or 'dev'")
    tasks = load_split(root, split)
    # A user's own split may list anything; what counts is that no test task is among it.
    for test_split in TEST_SPLITS:
        if (check_root(root) / "data" / "datasets" / f"{test_split}.txt").exists():
            test_ids = {task.task_id for task in load_split(root, test_split)}
            for task in tasks:
                if task.task_id in test_ids:
                    raise SplitError(f"split {split!r} contains task {task.task_id} of {test_split}; remove it")
    chosen = [task for task in tasks if difficulties is None or task.difficulty in difficulties]
    if not chosen:
        raise SplitError(f"split {split!r} has no tasks of difficulty {sorted(difficulties or ())}")
    return select_tasks(chosen, task_ids) if task_ids else chosen


def select_tasks(tasks: Sequence[TaskInfo], task_ids: Iterable[str]) -> list[TaskInfo]:
    """The tasks with these ids, in this order. Raises SplitError for an id that is not among them."""
    by_id = {task.task_id: task for task in tasks}
    selected = []
    for task_id in task_ids:
        if task_id not in by_id:
            raise SplitError(f"no task {task_id!r} in this split; {_nearest(task_id, list(by_id))}")
        selected.append(by_id[task_id])
    return selected


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are {', '.join(names[:10])}" + (" ..." if len(names) > 10 else "")


def _load_task(folder: Path) -> TaskInfo:
    try:
        specs = json.loads((folder / "specs.json").read_text())
        metadata = json.loads((folder / "ground_truth" / "metadata.json").read_text())
    except FileNotFoundError as error:
        raise SplitError(f"task {folder.name} is incomplete: {error.filename} is missing") from None
    person = specs.get("supervisor") or specs["main_user"]  # its older name, which AppWorld reads, too
    return TaskInfo(
        task_id=folder.name,
        scenario_id=folder.name.split("_")[0],
        difficulty=metadata["difficulty"],
        instruction=specs["instruction"],
        supervisor={name: person[name] for name in ("first_name", "last_name", "email", "phone_number")},
        datetime=specs["datetime"],
    )
