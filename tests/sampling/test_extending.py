"""An advantage, an objective and an environment in a folder of their own, trained and evaluated through config alone.

docs/extending.md shows the two files of tests/extending/.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from served import SECRET, served_config

from loop_rl.config.base import ConfigError
from loop_rl.running.ranks import accelerate_command
from loop_rl.store.metrics import read_metrics
from loop_rl.store.rollout_files import read_group, read_rollouts
from loop_rl.store.run_dir import RunDir
from loop_rl.store.updates import read_updates

pytestmark = pytest.mark.slow(40)

REPO = Path(__file__).resolve().parents[2]
OURS = REPO / "tests" / "extending"
ENV = os.environ | {"PYTHONPATH": f"{REPO}:{OURS}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def config(served_model, folder, **algorithm):
    return served_config(
        served_model,
        name="outside",
        runs_dir=str(folder),
        tasks={"environment": "guessing:Guessing", "num_workers": 4},
        algorithm={"advantage": "to_go:ToGo", "objective": "to_go:Reinforce", "strength": 2.0} | algorithm,
        agent={"max_turns": 9, "max_eval_turns": 9},
        sampler={"tasks_per_iteration": 3, "rollouts_per_task": 3},
        trainer={"num_iterations": 1},
        evaluation={"split": "test"},
    )


def run_ours(command: list[str]) -> str:
    done = subprocess.run(command, cwd=REPO, env=ENV, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.syspath_prepend(OURS)


def test_parts_from_outside_are_sampled_trained_and_evaluated(tmp_path, served_model, vllm_url, importable):
    run = RunDir.create(config(served_model, tmp_path))
    (run.path / "secret").write_text(SECRET)
    run_ours([sys.executable, "-m", "loop_rl.sampling.sampler", "--run-dir", str(run.path), "--server", vllm_url])
    run_ours([*accelerate_command(1), "-m", "loop_rl.train", "--run-dir", str(run.path)])
    server = ["--server", vllm_url]
    shown = run_ours([sys.executable, "-m", "loop_rl.evaluate", "--run-dir", str(run.path), "--version", "0", *server])
    assert "success" in shown and "vowels" in shown and "TGC" not in shown

    groups = [read_group(path) for path in sorted(run.train_rollouts.glob("*.parquet"))]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert {rollout.end_reason for rollout in rollouts} == {"over"} and len(rollouts) == 9
    assert {rollout.ending for rollout in rollouts} == {"terminated"}
    assert all(rollout.reward == sum(turn.reward for turn in rollout.turns) for rollout in rollouts)
    assert all(turn.executed == "x" for rollout in rollouts for turn in rollout.turns if not turn.valid)

    (line,) = read_metrics(run)
    assert line["end/over"] == 1 and line["policy/logprob_mean"] < 0 and "policy/ratio_mean" not in line
    assert (run.policy_folder(1) / "adapter_model.safetensors").exists()
    updates = {update.rollout_id: update for update in read_updates(run.update_file(0))}
    for group in groups:
        mean = sum(rollout.reward for rollout in group.rollouts) / len(group.rollouts)
        for rollout in group.rollouts:
            to_go = [sum(later.reward for later in rollout.turns[i:]) for i in range(len(rollout.turns))]
            expected = [left - mean for left, turn in zip(to_go, rollout.turns, strict=True) for _ in turn.action_ids]
            assert updates[rollout.rollout_id].advantages == pytest.approx(expected, abs=1e-6)
            assert updates[rollout.rollout_id].trained == any(abs(advantage) >= 0.01 for advantage in expected)

    figures = json.loads(run.evaluation_file(0, "test").read_text())
    evaluated = read_rollouts(run.evaluation_file(0, "test").with_suffix(".parquet"))
    assert figures["success"]["all"]["value"] == sum(rollout.success for rollout in evaluated) / 4


def test_what_does_not_go_together_is_refused_when_the_config_is_read(tmp_path, served_model, importable):
    for algorithm, message in (
        ({"strenght": 1.0}, "unknown setting algorithm.strenght; did you mean algorithm.strength?"),
        ({"strength": 0}, "algorithm.strength: Input should be greater than 0"),
        ({"objective": "clipped"}, "unknown setting algorithm.strength"),
        ({"objective": "to_go:Nothing"}, "algorithm.objective=to_go:Nothing"),
        (
            {"advantage": "leave_one_in"},
            "algorithm.advantage=leave_one_in: there are critic, dual_gae, error_shaped, group_mean, imitate, leave_one_out, pair, or module:Class",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            config(served_model, tmp_path, **algorithm)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_the_documentation_shows_these_files():
    text = (REPO / "docs" / "extending.md").read_text()
    for file in OURS.glob("*.py"):
        assert file.read_text() in text, file.name
