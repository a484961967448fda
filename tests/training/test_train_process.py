"""The trainer's process on rollouts that are there already: sequence parallelism and recomputed ratios through train.py."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import tiny
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from loop_rl.running.ranks import accelerate_command
from loop_rl.store.metrics import read_metrics
from loop_rl.store.rollouts import RolloutStore
from loop_rl.store.run_dir import RunDir
from loop_rl.store.updates import read_updates

pytestmark = pytest.mark.slow(60)

REPO = Path(__file__).parents[2]
SETTINGS = {
    "zero_stage": 3,
    "num_iterations": 1,
    "num_processes": 2,
    "sequence_parallel_size": 2,
    "algorithm": {"ratio_to": "recomputed", "max_importance_weight": 2.0},
}


def make_run(folder: Path, version: int = -1, **settings) -> RunDir:
    """A run that has the rollouts of its first iteration."""
    if not (folder / "model").exists():
        tiny.save_model(folder / "model")
    # Of no version that trains: what made-up policies say is not compared.
    groups = tiny.make_groups(3, version=version)
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


SMALL = {"vocab_size": tiny.VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}


def a_model_with_a_cap() -> PreTrainedModel:
    sizes = {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 64, "w_init_variance_scale": 1.0}
    return RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**SMALL, **sizes, logits_soft_cap=0.5))


def a_model_with_noise_in_its_router() -> PreTrainedModel:
    sizes = {"num_hidden_layers": 2, "num_key_value_heads": 2, "num_local_experts": 4, "initializer_range": 0.3}
    return MixtralForCausalLM(MixtralConfig(**SMALL, **sizes, router_jitter_noise=0.2))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_model_with_a_cap, "the trainer's log-probabilities differ from the model's own by"),
        (a_model_with_noise_in_its_router, "in training mode differ from those in evaluation mode by"),
    ],
)
def test_a_model_that_does_more_than_the_trainer_knows_is_refused_with_the_figures(make, reason, tmp_path):
    make().save_pretrained(tmp_path / "model")
    result = train(make_run(tmp_path, sequence_parallel_size=1, num_processes=1, zero_stage=2), num_ranks=1)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode != 0 and len(errors) == 1, result.stderr[-2000:]
    assert reason in errors[0] and "nats a token" in errors[0]


def test_rollouts_of_another_policy_than_they_say_end_the_run_and_nothing_is_published(tmp_path):
    run = make_run(tmp_path, version=0, sequence_parallel_size=1, num_processes=1)
    result = train(run, num_ranks=1)
    assert result.returncode != 0 and "log-probabilities of trainer and vLLM differ by" in result.stderr
    assert run.latest_version() == 0 and not read_metrics(run)
