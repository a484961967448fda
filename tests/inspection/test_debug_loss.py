"""The loss of a rollout, token by token, against one computed the slow way; and what cannot be debugged."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from peft import PeftModel
from served import make_whole_models
from small_run import make_run
from transformers import AutoModelForCausalLM

from loop_rl.algorithms.protocols import Objective, Terms
from loop_rl.config.base import ConfigError
from loop_rl.config.load import parse_config
from loop_rl.inspection import debug_loss
from loop_rl.inspection.debug_loss import advantage_of, load_policy, token_losses
from loop_rl.inspection.find import find_rollout
from loop_rl.store.rollout_files import read_group, write_rollouts

pytestmark = pytest.mark.slow(20)


@pytest.fixture
def run(tmp_path, served_model, appworld_root):
    return make_run(tmp_path, served_model, appworld_root)


def slow_loss(model, rollout, advantage: float, clip_epsilon: float) -> tuple[float, list[float]]:
    """One rollout's loss and its tokens' log-probabilities: whole logits, one token at a time."""
    (sequence,) = rollout.samples()
    behaviour = iter(sequence.columns["behaviour"])
    with torch.no_grad():
        distributions = torch.log_softmax(model(torch.tensor([sequence.token_ids])).logits[0], dim=-1)
    terms, logprobs = [], []
    for t, is_action in enumerate(sequence.action_mask):
        if is_action:
            logprobs.append(distributions[t - 1, sequence.token_ids[t]].item())
            ratio = torch.tensor(logprobs[-1] - next(behaviour)).exp()
            bounded = ratio.clamp(1 - clip_epsilon, 1 + clip_epsilon)
            terms.append(min((ratio * advantage).item(), (bounded * advantage).item()))
    return -sum(terms) / len(terms), logprobs


@pytest.mark.parametrize(("rollout_id", "version"), [("g000000-k0", 0), ("g000000-k2", 0), ("g000001-k1", 1)])
def test_the_tokens_add_up_to_the_loss_of_the_rollout(run, served_model, rollout_id, version):
    rollout = find_rollout(run, rollout_id)
    advantage, _ = advantage_of(run, rollout)
    tokens, loss = token_losses(rollout, advantage, load_policy(run, run.config, version), run.config)

    model = AutoModelForCausalLM.from_pretrained(served_model / "base", dtype=torch.float32)
    if version:
        model = PeftModel.from_pretrained(model, served_model / f"v{version}")
    expected, logprobs = slow_loss(model.eval(), rollout, advantage, run.config.algorithm.clip_epsilon)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert -sum(token.weight * token.objective for token in tokens) == pytest.approx(loss, abs=1e-5)
    assert [token.logprob for token in tokens] == pytest.approx(logprobs, abs=1e-4)

    (sequence,) = rollout.samples()
    assert [sequence.token_ids[token.position] for token in tokens] == [token.token_id for token in tokens]
    assert all(sequence.action_mask[token.position] for token in tokens)
    assert {token.turn for token in tokens} == {1, 2}
    assert {token.shown["clipped"] for token in tokens} == {True, False}


def test_a_whole_model_is_loaded_from_its_folder(tmp_path, appworld_root):
    models = make_whole_models(tmp_path / "models", tie_word_embeddings=False)
    run = make_run(tmp_path / "runs", models, appworld_root, lora=False)
    rollout = find_rollout(run, "g000001-k1")
    tokens, _ = token_losses(rollout, -0.1, load_policy(run, run.config, 1), run.config)
    _, logprobs = slow_loss(AutoModelForCausalLM.from_pretrained(models / "v1").eval(), rollout, -0.1, 0.1)
    assert [token.logprob for token in tokens] == pytest.approx(logprobs, abs=1e-4)


def test_the_advantage_comes_from_the_updates_file_or_else_from_the_group(run):
    assert advantage_of(run, find_rollout(run, "g000000-k0")) == (-0.75, "trained on")
    assert advantage_of(run, find_rollout(run, "g000000-k1")) == (0.0, "left out of training by the filter")
    advantage, trained = advantage_of(run, find_rollout(run, "g000001-k1"))
    assert advantage == pytest.approx(-0.1) and trained == "not trained on yet"


def test_a_rollout_that_has_no_loss_is_refused(run):
    rollout = read_group(run.group_file(1)).rollouts[0]
    with pytest.raises(ConfigError, match="belongs to no iteration, .* take one of rollouts/train"):
        advantage_of(run, replace(rollout, iteration=-1))
    with pytest.raises(ConfigError, match="ended before its first action"):
        token_losses(replace(rollout, turns=[]), 1.0, load_policy(run, run.config, 0), run.config)
    write_rollouts(run.unfinished_rollouts / "g000001-k0.parquet", [replace(rollout, iteration=-1)])
    run.group_file(1).unlink()
    with pytest.raises(ConfigError, match="groups that are not finished"):
        advantage_of(run, find_rollout(run, "g000001-k0"))
    with pytest.raises(ConfigError, match="no such policy version; the newest are 0, 1, 2"):
        load_policy(run, run.config, 7)


def test_the_command_prints_every_token_inert_and_the_sum(run):
    command = [sys.executable, "-m", "loop_rl", "debug-loss", run.path, "--rollout", "g000000-k2"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "40"})
    assert result.returncode == 0, result.stderr
    rollout = find_rollout(run, "g000000-k2")
    rows = [line for line in result.stdout.splitlines() if line.startswith("│")]
    assert len(rows) == rollout.num_action_tokens
    assert "\x1b" not in result.stdout and "\\x1b" in result.stdout and "'\\n'" in result.stdout
    assert "policy_loss: " in result.stdout and "left out of training by the filter" in result.stdout


def test_a_recomputed_ratio_is_to_the_policy_that_the_iteration_started_from(run, capsys):
    text = run.config_file.read_text()
    recomputed = text.replace("ratio_to: behaviour", "ratio_to: recomputed")
    run.config_file.write_text(recomputed.replace("max_importance_weight: 0.0", "max_importance_weight: 2.0"))
    rollout, epsilon = find_rollout(run, "g000001-k1"), run.config.algorithm.clip_epsilon
    start = load_policy(run, run.config, 1)
    at_start, _ = token_losses(rollout, -0.1, start, run.config, {"recomputed": start})
    tokens, _ = token_losses(rollout, -0.1, load_policy(run, run.config, 2), run.config, {"recomputed": start})
    for token, start_logprob in zip(tokens, [token.logprob for token in at_start], strict=True):
        assert token.columns["recomputed"] == pytest.approx(start_logprob, abs=1e-6)
        weight = min(math.exp(start_logprob) / math.exp(token.columns["behaviour"]), 2.0)
        ratio = math.exp(token.logprob - start_logprob)
        assert token.shown["importance"] == pytest.approx(weight, rel=1e-4)
        assert token.shown["ratio"] == pytest.approx(ratio, rel=1e-4)
        bounded = min(max(ratio, 1 - epsilon), 1 + epsilon)
        assert token.objective == pytest.approx(weight * min(ratio * -0.1, bounded * -0.1), rel=1e-3)
    assert any(token.shown["importance"] == 2.0 for token in tokens)

    debug_loss._debug_loss(argparse.Namespace(run_dir=run.path, rollout=rollout.rollout_id, version=2))
    (header,) = [line for line in capsys.readouterr().out.splitlines() if "behaviour" in line]
    assert "recomputed" in header and "importance" in header


class Silent(Objective):
    """A log pi; shows nothing."""

    def __call__(self, logprobs_N, batch):
        return Terms(batch.columns_N["advantage"] * logprobs_N)


def test_an_objective_that_shows_nothing_has_its_tokens_too(run):
    tree = yaml.safe_load(run.config_file.read_text())
    tree["algorithm"] = {"objective": "test_debug_loss:Silent"}
    rollout, config = find_rollout(run, "g000001-k1"), parse_config(tree, "test")
    tokens, loss = token_losses(rollout, 0.5, load_policy(run, config, 1), config)
    assert len(tokens) == rollout.num_action_tokens and all(token.shown == {} for token in tokens)
    assert loss == pytest.approx(-0.5 * sum(token.logprob for token in tokens) / len(tokens), rel=1e-5)
