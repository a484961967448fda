"""A policy of a few thousand parameters and made-up rollouts, for the trainer's tests."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from loop_rl.config import Config, parse_config
from loop_rl.rollout import Rollout, Turn

VOCAB_SIZE = 96


def save_model(folder: Path) -> None:
    """A random Qwen2 with heads of size 32, the smallest that vLLM serves."""
    torch.manual_seed(1)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCAB_SIZE, initializer_range=0.2, tie_word_embeddings=False, **shape))
    model.save_pretrained(folder)


def make_config(model: Path, dtype: str = "float32", temperature: float = 1.0, **trainer) -> Config:
    """A config around the model; keywords override settings of the trainer section."""
    defaults = {
        "learning_rate": 1e-2,
        "minibatch_rollouts": 5,
        "max_tokens_per_microbatch": 120,
        "logprob_chunk_tokens": 16,
        "zero_stage": 2,
        "collective_timeout_s": 60,
    }
    tree = {
        "name": "test",
        "seed": 3,
        "model": {"path": str(model), "dtype": dtype, "lora": {"rank": 4, "alpha": 8}},
        "agent": {"temperature": temperature},
        "trainer": defaults | trainer,
    }
    return parse_config(tree, source="test")


def make_rollouts(num_rollouts: int, seed: int = 0, version: int = 0) -> tuple[list[Rollout], list[float]]:
    """Rollouts of 1 to 3 turns and very different lengths, with advantages of either sign."""
    rng = random.Random(seed)

    def tokens(longest: int) -> list[int]:
        return [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, longest))]

    def turn() -> Turn:
        actions = tokens(20)
        # Near what a random model gives, so that ratios are of order one and both sides of the clip range occur.
        logprobs = [rng.gauss(-4.6, 1.0) for _ in actions]
        return Turn(tokens(12), actions, logprobs, version, "", "", "")

    rollouts = [
        Rollout(
            f"r{i}", i, 0, "task_1", "task", 1, "", "completed", rng.random(), False, [], [], [turn() for _ in range(rng.randint(1, 3))], 0, 0, 0, 0
        )
        for i in range(num_rollouts)
    ]
    return rollouts, [rng.uniform(-1, 1) for _ in rollouts]
