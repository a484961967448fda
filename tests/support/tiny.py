"""A policy of a million parameters and made-up rollouts, for the trainer's tests."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from loop_rl.algorithms.learning import advantages_of
from loop_rl.algorithms.protocols import Columns
from loop_rl.config.load import parse_config
from loop_rl.config.parts import ADVANTAGE, FILTER, make_part
from loop_rl.config.settings import Config
from loop_rl.data.rollout import Group, Rollout, Turn
from loop_rl.data.samples import Column, Sample

VOCAB_SIZE = 2048


def save_model(folder: Path, tied: bool = False) -> None:
    """A random Qwen2; `tied`: input and output embedding are one. Its embeddings, head and MLPs are just large enough for ZeRO-3 to split them over the ranks: it
    leaves parameters below 100,000 elements whole."""
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=2048,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=2,
        initializer_range=0.2,  # ten times the usual, so that the distributions are not flat
        tie_word_embeddings=tied,
    )
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)


def make_config(
    model: Path,
    dtype: str = "float32",
    temperature: float = 1.0,
    max_context_tokens: int = 100,
    algorithm: dict | None = None,
    lora: bool = True,
    **trainer,
) -> Config:
    """A config around the model, which `lora` gives an adapter; keywords override settings of the trainer section."""
    defaults = {
        "learning_rate": 3e-3,
        "minibatch_rollouts": 5,
        "max_tokens_per_microbatch": 120,
        "logprob_chunk_tokens": 16,
        "zero_stage": 2,
        "collective_timeout_s": 60,
    }
    tree = {
        "name": "test",
        "seed": 3,
        "model": {"path": str(model), "dtype": dtype, "lora": {"rank": 4, "alpha": 8} if lora else None},
        "agent": {"temperature": temperature, "max_new_tokens": 20, "max_observation_tokens": 20}
        | {"max_context_tokens": max_context_tokens},
        "algorithm": algorithm or {},
        "trainer": defaults | trainer,
    }
    return parse_config(tree, source="test")


def make_groups(num_groups: int, version: int = 0, window: bool = False, pieces: bool = False) -> list[Group]:
    """Groups of 2 to 4 rollouts of very different lengths; the last group scored alike and teaches nothing.

    window: each turn starts anew, as with a memory window.
    pieces: every second one is a piece of an episode, every third one was ended by a limit.
    """
    rng = random.Random(0)

    def tokens(longest: int) -> list[int]:
        return [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, longest))]

    def make_turn() -> Turn:
        actions = tokens(20)
        # Near what a random model gives, so that ratios are of order one and both sides of the clip range occur.
        logprobs = [rng.gauss(-8, 1) for _ in actions]
        return Turn(
            tokens(12), actions, logprobs, version, action_text="", executed="", observation="", extends=not window
        )

    def make_rollout(group_id: int, reward: float) -> Rollout:
        turns = [make_turn() for _ in range(rng.randint(1, 3))]
        fields = dict.fromkeys(("started_at", "duration_s", "generation_s", "environment_s"), 0.0)
        fields |= dict.fromkeys(("task_id", "family", "instruction"), "task") | {"labels": {}, "iteration": 0}
        fields |= {"end_reason": "completed", "ending": "terminated", "passes": [], "failures": []}
        fields["success"] = reward > 0.5
        return Rollout(rollout_id=f"r{rng.random()}", group_id=group_id, score=reward, turns=turns, **fields)

    sizes = [rng.randint(2, 4) for _ in range(num_groups)]
    groups = [
        Group(i, 0, [make_rollout(i, 0.5 if i == num_groups - 1 else rng.random()) for _ in range(size)])
        for i, size in enumerate(sizes)
    ]
    for number, rollout in enumerate(rollout for group in groups for rollout in group.rollouts if pieces):
        if number % 2 == 0 or number % 3 == 0:
            rollout.end_reason = "goes_on" if number % 2 == 0 else "max_turns"
            rollout.ending, rollout.next_ids = "truncated", tokens(12)
    return groups


def kept(
    groups: list[Group], config: Config | None = None, known: Mapping[str, Columns] | None = None
) -> list[tuple[Rollout, dict[str, Column]]]:
    """The rollouts that are trained on, with their advantages; by default LOOP's. known: see `known_columns`; by default no penalties."""
    config = config or make_config(Path("none"))
    estimator, is_kept = make_part(ADVANTAGE, config), make_part(FILTER, config)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    known = known or {rollout.rollout_id: {"charge": [0.0] * rollout.num_action_tokens} for rollout in rollouts}
    columns = advantages_of(estimator, groups, known)
    return [(r, columns[r.rollout_id]) for r in rollouts if is_kept(r, columns[r.rollout_id])]


def samples_of(pairs: list[tuple[Rollout, dict[str, Column]]]) -> list[Sample]:
    """What train.py hands to the trainer."""
    return [sample for rollout, columns in pairs for sample in rollout.samples(columns)]


def fill_in_logprobs(rollouts: list[Rollout], model: Path, temperature: float) -> None:
    """Give every action token the log-probability the model samples it with, as an exact sampler would."""
    policy = Qwen2ForCausalLM.from_pretrained(model, dtype=torch.float32)
    for rollout in rollouts:
        (sample,) = rollout.samples()
        token_ids = torch.tensor(sample.token_ids)
        with torch.no_grad():
            distributions = torch.log_softmax(policy(input_ids=token_ids[None]).logits[0] / temperature, dim=-1)
        position = 0
        for turn in rollout.turns:
            position += len(turn.context_ids)
            turn.logprobs = [distributions[position + t - 1, token].item() for t, token in enumerate(turn.action_ids)]
            position += len(turn.action_ids)
