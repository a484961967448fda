"""Splits and what may be done with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appworld_tasks.splits import SplitError, load_split, select_tasks, training_tasks


def write_root(root: Path, splits: dict[str, list[str]]) -> Path:
    """A root with nothing but splits, and tasks whose difficulty is the last digit of their scenario."""
    for folder in ("datasets", "base_dbs", "api_docs"):
        (root / "data" / folder).mkdir(parents=True)
    for split, lines in splits.items():
        (root / "data/datasets" / f"{split}.txt").write_text("\n".join(lines) + "\n")
        for task_id in (line.partition(":")[0] for line in lines):
            ground_truth = root / "data/tasks" / task_id / "ground_truth"
            ground_truth.mkdir(parents=True, exist_ok=True)
            (ground_truth / "metadata.json").write_text(json.dumps({"difficulty": int(task_id.split("_")[0][-1])}))
            person = {"first_name": "Ada", "last_name": "Long", "email": "a@x.com", "phone_number": "1"}
            specs = {"instruction": f"Do {task_id}.", "supervisor": person, "datetime": "2023-05-18T12:00:00"}
            (ground_truth.parent / "specs.json").write_text(json.dumps(specs))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    splits = {"train": ["a1_1:tag", "a1_2", "b2_1", "c3_1"], "dev": ["d1_1"], "test_normal": ["e1_1"]}
    return write_root(tmp_path / "root", splits)


def test_tasks_are_read_in_order(root: Path) -> None:
    tasks = load_split(root, "train")
    assert [task.task_id for task in tasks] == ["a1_1", "a1_2", "b2_1", "c3_1"]
    assert (tasks[0].scenario_id, tasks[0].difficulty, tasks[0].instruction) == ("a1", 1, "Do a1_1.")
    assert (tasks[0].supervisor["first_name"], tasks[0].datetime) == ("Ada", "2023-05-18T12:00:00")


def test_the_supervisor_may_have_its_older_name(root: Path) -> None:
    file = root / "data/tasks/d1_1/specs.json"
    file.write_text(file.read_text().replace('"supervisor"', '"main_user"'))
    assert load_split(root, "dev")[0].supervisor["email"] == "a@x.com"


def test_training_tasks_are_chosen_by_difficulty(root: Path) -> None:
    assert [task.task_id for task in training_tasks(root, "train", [1, 2])] == ["a1_1", "a1_2", "b2_1"]
    assert len(training_tasks(root, "train")) == 4
    with pytest.raises(SplitError, match=r"no tasks of difficulty \[3\]"):
        training_tasks(root, "dev", [3])


def test_test_tasks_are_refused_in_training(root: Path) -> None:
    for split in ("test_normal", "test_challenge"):
        with pytest.raises(SplitError, match="for testing only"):
            training_tasks(root, split)
    (root / "data/datasets/mine.txt").write_text("a1_1\ne1_1\n")
    with pytest.raises(SplitError, match="contains task e1_1 of test_normal"):
        training_tasks(root, "mine")
    assert load_split(root, "test_normal")[0].task_id == "e1_1"  # evaluation may


def test_wrong_names_are_met_with_the_nearest(root: Path) -> None:
    with pytest.raises(SplitError, match=r"no split 'trian' .* did you mean 'train'"):
        load_split(root, "trian")
    with pytest.raises(SplitError, match=r"no task 'a1_3' in this split; did you mean 'a1_[12]'"):
        select_tasks(load_split(root, "train"), ["b2_1", "a1_3"])
    assert [task.task_id for task in select_tasks(load_split(root, "train"), ["b2_1", "a1_1"])] == ["b2_1", "a1_1"]


def test_incomplete_task_is_named(root: Path) -> None:
    (root / "data/tasks/d1_1/specs.json").unlink()
    with pytest.raises(SplitError, match=r"task d1_1 is incomplete: .*specs.json is missing"):
        load_split(root, "dev")
