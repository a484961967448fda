"""The trainer's process on rollouts that are there already: sequence parallelism and recomputed ratios through train.py."""

import os
import re
import subprocess
from pathlib import Path

import tiny

from loop_rl.running.ranks import accelerate_command
from loop_rl.store.metrics import read_metrics
from loop_rl.store.rollouts import RolloutStore
from loop_rl.store.run_dir import RunDir
from loop_rl.store.updates import read_updates

REPO = Path(__file__).parents[2]
SETTINGS = {
    "zero_stage": 3,
    "num_iterations": 1,
    "num_processes": 2,
    "sequence_parallel_size": 2,
    "algorithm": {"ratio_to": "recomputed", "max_importance_weight": 2.0},
}


def make_run(folder: Path, **settings) -> RunDir:
    """A run that has the rollouts of its first iteration."""
    tiny.save_model(folder / "model")
    groups = tiny.make_groups(3)
    config = tiny.make_config(folder / "model", **SETTINGS | settings)
    sampler = config.sampler.model_copy(update={"tasks_per_iteration": len(groups)})
    run = RunDir.create(config.model_copy(update={"runs_dir": str(folder / "runs"), "sampler": sampler}))
    RolloutStore(run).assign(0, {group.group_id: group.rollouts for group in groups}, dropped=[])
    return run


def train(run: RunDir, num_ranks: int) -> subprocess.CompletedProcess:
    command = [*accelerate_command(num_ranks), "-m", "loop_rl.train", "--run-dir", str(run.path)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=300)


def test_two_ranks_that_share_every_rollout_train_after_a_stress_step(tmp_path):
    run = make_run(tmp_path)
    result = train(run, num_ranks=2)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "stress step of 1 x 100 tokens on each rank: peak " in result.stdout
    (line,) = read_metrics(run)
    documented = re.findall(r"^\| `([^`]+)` \|", (REPO / "docs" / "metrics.md").read_text(), flags=re.MULTILINE)
    assert line.keys() <= set(documented)
    assert 0 < line["policy/importance_truncated_share"] < 1 and line["policy/importance_weight_mean"] <= 2
    assert line["policy/peak_memory_gib"] > 0.1
    assert line["policy/ratio_max"] < line["policy/importance_weight_max"]  # the made-up sampler is far off
    lengths = {
        rollout.rollout_id: rollout.num_action_tokens for group in tiny.make_groups(3) for rollout in group.rollouts
    }
    trained = [update for update in read_updates(run.update_file(0)) if update.trained]
    assert trained and all(len(update.logprobs) == lengths[update.rollout_id] for update in trained)
    assert run.latest_version() == 1


def test_heads_that_cannot_be_shared_out_end_the_process_in_one_line(tmp_path):
    run = make_run(tmp_path, num_processes=3, sequence_parallel_size=3)
    result = train(run, num_ranks=1)
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "trainer.sequence_parallel_size=3" in errors[0] and "choose one of [1, 2]" in errors[0]
