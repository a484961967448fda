"""The rollout files: what goes in comes out, damage is recognised, a full disk leaves nothing half-written."""

import os
import subprocess
import sys
from dataclasses import replace

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop_rl.data.rollout import Rollout, Turn
from loop_rl.store.rollout_files import read_group, read_rollouts, write_rollouts

ids = st.lists(st.integers(0, 2**31 - 1), max_size=5)
text = st.text(max_size=20)


@st.composite
def turns(draw):
    action_ids = draw(ids)
    logprobs = draw(st.lists(st.floats(-50, 0, width=32), min_size=len(action_ids), max_size=len(action_ids)))
    calls = st.lists(text, max_size=3)
    return Turn(
        draw(ids), action_ids, logprobs, draw(st.integers(0, 99)), draw(text), draw(text), draw(text), draw(calls)
    )


def make_rollout(turns: list[Turn], k: int = 0, reward: float = 0.5) -> Rollout:
    return Rollout(
        rollout_id=f"g000003-k{k}",
        group_id=3,
        iteration=1,
        task_id="abc_1",
        family="abc",
        labels={"difficulty": "2"},
        instruction="Do it.",
        end_reason="completed",
        score=reward,
        ending="terminated",
        success=reward == 1,
        passes=["a"],
        failures=[],
        turns=turns,
        started_at=1.5,
        duration_s=2.0,
        generation_s=1.0,
        environment_s=1.0,
    )


TURN = Turn([1, 2], [3, 4], [-0.5, -0.25], 7, "text", "print(1)", "1\n", ["GET /a {}"])


@settings(max_examples=30, deadline=None)
@given(st.lists(turns(), max_size=3))
def test_a_rollout_survives_the_file(tmp_path_factory, some_turns):
    path = tmp_path_factory.mktemp("rollouts") / "group.parquet"
    rollout = make_rollout(some_turns)
    write_rollouts(path, [rollout])
    assert read_rollouts(path) == [rollout]


def test_turns_that_extend_each_other_are_one_sample():
    second = Turn([5], [6], [-1.0], 8, "", "", "")
    (sample,) = make_rollout([TURN, second]).samples({"advantage": 0.5, "return": [1.0, 2.0, 3.0]})
    assert sample.token_ids == [1, 2, 3, 4, 5, 6]
    assert sample.action_mask == [False, False, True, True, False, True]
    assert sample.versions == [7, 7, 8] and sample.turns == [0, 0, 1]
    assert (sample.rollout_tokens, sample.rollout_turns) == (3, 2)
    assert sample.columns == {"behaviour": [-0.5, -0.25, -1.0], "advantage": [0.5] * 3, "return": [1.0, 2.0, 3.0]}


def test_a_turn_that_starts_anew_is_a_sample_of_its_own():
    anew, further = Turn([5], [6], [-1.0], 8, "", "", "", extends=False), Turn([7], [8, 9], [-2.0, -3.0], 9, "", "", "")
    silent = Turn([5, 5], [], [], 9, "", "", "", extends=False)
    rollout = make_rollout([TURN, anew, further, silent])
    first, second = rollout.samples({"advantage": [1.0, 2.0, 3.0, 4.0, 5.0]})
    assert (first.token_ids, second.token_ids) == ([1, 2, 3, 4], [5, 6, 7, 8, 9])
    assert second.action_mask == [False, True, False, True, True] and second.turns == [1, 2, 2]
    assert first.columns["advantage"] == [1.0, 2.0] and second.columns["advantage"] == [3.0, 4.0, 5.0]
    assert {(s.rollout_id, s.rollout_tokens, s.rollout_turns) for s in (first, second)} == {(rollout.rollout_id, 5, 3)}
    assert make_rollout([silent]).samples() == make_rollout([]).samples() == []


def test_datasets_reads_rollout_files(tmp_path):
    write_rollouts(tmp_path / "group.parquet", [make_rollout([TURN], k=k) for k in range(3)])
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert table["rollout_id"][:] == ["g000003-k0", "g000003-k1", "g000003-k2"]
    assert table[0]["turns"][0]["action_ids"] == [3, 4]


def test_lone_surrogates_in_repl_output_can_be_stored(tmp_path):
    path = tmp_path / "group.parquet"
    write_rollouts(path, [make_rollout([replace(TURN, observation="bad \ud800 text")])])
    assert read_rollouts(path)[0].turns[0].observation == "bad ? text"


def test_a_truncated_file_is_refused_by_name(tmp_path):
    path = tmp_path / "group.parquet"
    write_rollouts(path, [make_rollout([TURN])])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="group.parquet: not a readable rollout file"):
        read_group(path)


def test_another_schema_version_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "group.parquet"
    pq.write_table(pa.table({"reward": [1.0]}), path)
    with pytest.raises(ValueError, match="schema version none, this code reads version 4"):
        read_rollouts(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_a_clear_error_and_leaves_no_half_file(tmp_path):
    """On a real file system of 64 KiB, in a mount namespace of its own."""
    code = f"""
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
from test_rollout import TURN, make_rollout
from loop_rl.store.rollout_files import write_rollouts
from dataclasses import replace
import random
noise = random.Random(0).randbytes(200_000).hex()
try:
    write_rollouts(Path("{tmp_path}/disk/group.parquet"), [make_rollout([replace(TURN, observation=noise)])])
except OSError as error:
    print(error); print(list(Path("{tmp_path}/disk").iterdir()))
"""
    script = (
        f'mkdir {tmp_path}/disk && mount -t tmpfs -o size=64k tmpfs {tmp_path}/disk && exec {sys.executable} -c "$CODE"'
    )
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], env=os.environ | {"CODE": code}, capture_output=True, text=True
    )
    assert "cannot write rollouts: No space left on device" in result.stdout, result.stderr
    assert "group.parquet" in result.stdout.splitlines()[0]
    assert result.stdout.splitlines()[1] == "[]"
