"""The viewer's index: it follows the run's files, finds what is asked for, and survives every state a run can be in."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loop_rl.config.load import parse_config
from loop_rl.data.rollout import EndReason, Rollout, Turn
from loop_rl.data.updates import TokenValues
from loop_rl.inspection.viewer import index as index_module
from loop_rl.inspection.viewer.index import Index, Progress
from loop_rl.inspection.viewer.listing import PAGE_SIZE, Lister, QueryError, parse_query
from loop_rl.store.rollout_files import write_rollouts
from loop_rl.store.run_dir import RunDir
from loop_rl.store.updates import write_updates

END_REASONS = ("completed", "no_code", *EndReason)


def make_run(folder: Path, model: str = "models/tiny") -> RunDir:
    config = {"name": "r", "runs_dir": str(folder), "model": {"path": model}, "sampler": {"rollouts_per_task": 2}}
    return RunDir.create(parse_config(config, source="test"))


def make_rollout(rollout_id: str, group_id: int = 0, iteration: int = 0, reward: float = 0.5, **fields) -> Rollout:
    turn = Turn([1, 2], [3, 4], [-0.5, -0.25], iteration, "hm", "", "", [])
    rollout = Rollout(
        rollout_id=rollout_id,
        group_id=group_id,
        iteration=iteration,
        task_id=f"abc{group_id}_1",
        family=f"abc{group_id}",
        labels={"difficulty": str(1 + group_id % 3)},
        instruction=f"Do task {group_id}.",
        end_reason="completed",
        score=reward,
        ending="terminated",
        success=reward == 1,
        passes=["one"],
        failures=[] if reward == 1 else ["other"],
        turns=[turn],
        started_at=1000.0 + group_id,
        duration_s=2.0,
        generation_s=1.0,
        environment_s=1.0,
    )
    return replace(rollout, **fields)


def write_group(run: RunDir, group_id: int, rewards=(0.0, 1.0), **fields) -> None:
    rollouts = [
        make_rollout(f"g{group_id:06d}-k{k}", group_id, score=reward, **fields) for k, reward in enumerate(rewards)
    ]
    write_rollouts(run.group_file(group_id), rollouts)


def updated(run: RunDir) -> Index:
    index = Index(run)
    index.update()
    return index


def found(index: Index, **parameters: str) -> list[str]:
    return [row["rollout_id"] for row in Lister(index).find(parse_query(parameters, END_REASONS)).rows]


def test_training_unfinished_and_evaluation_rollouts_are_listed_by_where_they_lie(tmp_path):
    run = make_run(tmp_path)
    write_group(run, 0)
    write_rollouts(run.unfinished_rollouts / "g000001-k0.parquet", [make_rollout("g000001-k0", 1)])
    write_rollouts(run.eval_rollouts / "v000003-dev.parquet", [make_rollout("v000003-x_1", iteration=-1)])
    write_rollouts(run.eval_rollouts / ".v000004-dev" / "x_1.parquet", [make_rollout("v000004-x_1", iteration=-1)])
    index = updated(run)
    assert Lister(index).choices("source") == ["dev v3", "dev v4", "training", "unfinished"]
    assert found(index, source="dev v4") == ["v000004-x_1"]
    assert index.progress == Progress(4, 4)


def test_only_what_is_new_or_changed_is_read_again(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    write_group(run, 0)
    write_group(run, 1)
    index = updated(run)
    read, real = [], index_module.read_rows
    monkeypatch.setattr(index_module, "read_rows", lambda path: read.append(path.name) or real(path))
    write_group(run, 1, rewards=(0.25, 0.75, 1.0))
    write_group(run, 2)
    index.update()
    assert sorted(read) == ["group-000001.parquet", "group-000002.parquet"]
    assert found(index, task="abc1", sort="rollout_id", order="asc") == [f"g000001-k{k}" for k in range(3)]
    assert len(found(updated(run))) == 7  # opened again: nothing twice


def test_a_group_that_is_finished_moves_from_its_pieces_to_its_file(tmp_path):
    run = make_run(tmp_path)
    piece = run.unfinished_rollouts / "g000000-k0.parquet"
    write_rollouts(piece, [make_rollout("g000000-k0", instruction="early words")])
    index = updated(run)
    write_group(run, 0)
    index.update()  # the piece is still there: the sampler writes the group first
    assert found(index, source="unfinished") == []
    piece.unlink()
    index.update()
    assert sorted(found(index, source="training")) == ["g000000-k0", "g000000-k1"]
    assert found(index, text="early") == []


def test_a_piece_that_vanishes_between_listing_and_reading_is_no_problem(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    write_group(run, 0)
    gone = os.stat(run.group_file(0))
    index = Index(run)
    real = index._scan
    monkeypatch.setattr(index, "_scan", lambda: [("rollouts/unfinished/g000001-k0.parquet", gone), *real()])
    index.update()
    assert index.problems() == ([], 0)
    assert len(found(index)) == 2


def test_files_that_cannot_be_read_are_problems_with_a_reason_until_they_are_mended(tmp_path):
    run = make_run(tmp_path)
    write_group(run, 0)
    write_group(run, 1)
    whole = run.group_file(1).read_bytes()
    run.group_file(1).write_bytes(whole[:-20])
    pq.write_table(pa.table({"reward": [1.0]}), run.group_file(2))
    old = pa.table({"reward": [1.0]}).replace_schema_metadata({"loop_rl.schema_version": "1"})
    pq.write_table(old, run.group_file(3))
    run.group_file(4).write_bytes(b"")
    run.update_file(0).parent.mkdir()
    pq.write_table(pa.table({"x": [1]}), run.update_file(0))
    index = updated(run)
    problems = dict(index.problems()[0])
    assert "Parquet" in problems["rollouts/train/group-000001.parquet"]
    assert problems["rollouts/train/group-000002.parquet"].startswith("rollout schema version none")
    assert problems["rollouts/train/group-000003.parquet"].startswith("rollout schema version 1, this code reads")
    assert "rollouts/train/group-000004.parquet" in problems
    assert "not an update file" in problems["updates/iteration-000000.parquet"]
    assert len(found(index)) == 2

    run.group_file(1).write_bytes(whole)
    index.update()
    assert "rollouts/train/group-000001.parquet" not in dict(index.problems()[0])
    assert len(found(index)) == 4


@pytest.mark.parametrize("update_first", [True, False])
def test_advantages_are_known_whichever_file_comes_first(tmp_path, update_first):
    run = make_run(tmp_path)
    index = Index(run)

    def write_update():
        advantages = {"g000000-k0": -1.0, "g000000-k1": 1.0}
        write_updates(run.update_file(0), advantages, {"g000000-k0": TokenValues([0.0] * 2, [0.0] * 2)})

    steps = [write_update, lambda: write_group(run, 0)]
    for step in steps if update_first else reversed(steps):
        step()
        index.update()
    assert found(index, sort="advantage") == ["g000000-k1", "g000000-k0"]
    assert found(index, advantage="0..") == ["g000000-k1"]


def test_filters_and_sorting(tmp_path):
    run = make_run(tmp_path)
    for group_id in range(4):
        write_group(run, group_id, rewards=(group_id / 4, 1.0), iteration=group_id // 2)
    turns = [Turn([1], [2], [-0.1], version, "t", "", "", []) for version in (2, 3)]
    write_rollouts(run.group_file(9), [make_rollout("g000009-k0", 9, 3, turns=turns, end_reason="max_turns")])
    index = updated(run)
    assert found(index, scenario="abc2", sort="reward", order="asc") == ["g000002-k0", "g000002-k1"]
    assert found(index, task="abc9") == ["g000009-k0"]
    assert len(found(index, iteration="0")) == 4
    assert len(found(index, iteration="1..")) == 5
    assert found(index, version="3") == found(index, version="2..2") == ["g000009-k0"]
    assert found(index, reward="..0.3", sort="reward") == ["g000001-k0", "g000000-k0"]
    assert found(index, end="max_turns", label="1") == ["g000009-k0"]
    assert found(index, sort="num_turns")[0] == found(index, sort="action_tokens", order="asc")[0] == "g000009-k0"


def test_text_is_searched_in_instruction_action_and_output(tmp_path):
    run = make_run(tmp_path)
    turn = Turn([1], [2], [-0.1], 0, "print(apis.spotify.show_album(album_id=7))", "", "{'title': 'Ünïque'}", [])
    write_rollouts(run.group_file(0), [make_rollout("a", turns=[turn]), make_rollout("b", instruction="Buy socks.")])
    index = updated(run)
    assert found(index, text="apis.spotify") == ["a"]
    assert found(index, text="show_alb") == ["a"]
    assert found(index, text="spotify.album") == []
    assert found(index, text="ünïque TITLE") == ["a"]
    assert found(index, text='socks" OR "apis') == []
    assert found(index, text="sock\0 shoes") == []
    assert found(index, text='"buy socks"') == found(index, text="buy") == ["b"]
    assert found(index, text='"socks buy"') == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"reward": "high"}, "reward=high: expected a number or a range"),
        ({"iteration": ".."}, "iteration=..: expected a number or a range"),
        ({"version": "nan"}, "version=nan: expected a number"),
        ({"sort": "row; DROP TABLE rollouts"}, "cannot sort by that; there are rollout_id"),
        ({"order": "up"}, "expected asc or desc"),
        ({"end": "bored"}, "end=bored: no reason of ending; there are completed"),
        ({"page": "0"}, "page=0: expected a whole number from 1"),
        ({"text": "==="}, "only letters, digits and _ are searched"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_with_what_would(parameters, message):
    with pytest.raises(QueryError) as error:
        parse_query(parameters, END_REASONS)
    assert message in str(error.value)


def test_pages_and_counts_follow_the_index(tmp_path):
    run = make_run(tmp_path)
    write_rollouts(run.group_file(0), [make_rollout(f"r{k:04d}", started_at=k) for k in range(PAGE_SIZE + 5)])
    index = updated(run)
    lister = Lister(index)
    second = lister.find(parse_query({"page": "2"}, END_REASONS))
    assert (len(second.rows), second.num_matching, second.num_pages) == (5, PAGE_SIZE + 5, 2)
    assert lister.find(parse_query({"page": "3"}, END_REASONS)).rows == []
    write_group(run, 1)
    index.update()
    assert lister.find(parse_query({}, END_REASONS)).num_rollouts == PAGE_SIZE + 7


def test_a_large_listing_walks_the_index_of_its_order(tmp_path, monkeypatch):
    """Many matches are answered by another plan than few; both give the same rows."""
    run = make_run(tmp_path)
    for group_id in range(3):
        write_group(run, group_id, rewards=(0.5, 0.25, 1.0))
    index = updated(run)
    few = found(index, sort="reward", reward="0.3..")
    monkeypatch.setattr("loop_rl.inspection.viewer.listing._FEW", 0)
    assert sorted(found(index, sort="reward", reward="0.3..")) == sorted(few)
    assert found(index, sort="advantage", order="asc", text="task") != []


@pytest.mark.parametrize("damage", ["older", "garbage"])
def test_an_older_or_damaged_index_is_made_anew(tmp_path, damage):
    run = make_run(tmp_path)
    write_group(run, 0)
    path = updated(run).path
    if damage == "older":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 0")
            connection.execute("DROP TABLE state")
    else:
        path.write_bytes(b"no database" * 500)
    index = updated(run)
    assert index.path == run.path / ".index.sqlite"
    assert len(found(index)) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a read-only folder needs root")
def test_a_run_that_cannot_be_written_is_indexed_elsewhere(tmp_path):
    run = make_run(tmp_path)
    write_group(run, 0)
    code = f"""
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
from test_index import RunDir, found, updated
index = updated(RunDir(Path({str(run.path)!r})))
print(index.path, len(found(index)))
"""
    script = f'mount --bind -o ro {run.path} {run.path} && exec {sys.executable} -c "$CODE"'
    command = ["unshare", "--mount", "sh", "-c", script]
    result = subprocess.run(command, env=os.environ | {"CODE": code}, capture_output=True, text=True)
    path, number = result.stdout.split()
    assert number == "2", result.stderr
    assert not path.startswith(str(run.path))
    assert not (run.path / ".index.sqlite").exists()
