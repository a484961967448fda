"""Is what the trainer computes what the model itself computes, and what vLLM sampled from? If not, the run ends.

The trainer goes around the model's own forward: it is in training mode, asks for hidden states, and has an output head of its
own. Where a model does more than it knows of (a cap on its logits, dropout, noise in a router), every importance ratio would be
wrong, and nothing would say so.
"""

from __future__ import annotations

import torch

from loop_rl.config.base import ConfigError
from loop_rl.config.settings import Config
from loop_rl.data.samples import Sample
from loop_rl.training.totals import Update
from loop_rl.training.trainer import Trainer

NUM_TOKENS = 64
MAX_DIFFERENCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
"""Nats, mean over tokens; a model's own logits are of its dtype, the trainer's are float32."""
MAX_NOISE = 1e-4
"""Nats, mean over tokens: training mode and evaluation mode do the same arithmetic."""
MAX_FROM_SAMPLER = {"float32": 0.01, "bfloat16": 0.2, "float16": 0.1}
"""Nats, mean over tokens: ten times what is usual."""


def check_own_forward(trainer: Trainer) -> None:
    """Compare log-probabilities of some tokens before the first rollout. Every rank must call it.

    Raises:
        ConfigError: the model cannot be trained, with the figures.
    """
    samples = [_sample(trainer, number) for number in range(trainer.num_ranks)]
    in_training = trainer.logprobs(samples)
    module = trainer.engine.module
    # Ulysses attends to a rank's own piece alone in evaluation mode; there, noise shows between two forwards all the same.
    module.train(trainer.config.trainer.sequence_parallel_size > 1)
    in_evaluation, own = trainer.logprobs(samples), trainer.logprobs(samples, own_forward=True)
    module.train()
    model, dtype = trainer.config.model.path, trainer.config.model.dtype
    noise = _mean_difference(in_training, in_evaluation)
    if not noise <= MAX_NOISE:
        raise ConfigError(
            f"model.path={model}: log-probabilities in training mode differ from those in evaluation mode by {noise:.2g} nats a "
            f"token (at most {MAX_NOISE:g}): something in it is random in training, and rollouts are sampled without it"
        )
    difference = _mean_difference(in_evaluation, own)
    if not difference <= MAX_DIFFERENCE[dtype]:
        raise ConfigError(
            f"model.path={model}: the trainer's log-probabilities differ from the model's own by {difference:.2g} nats a token (in "
            f"{dtype} at most {MAX_DIFFERENCE[dtype]:g}): it does something to its logits that the trainer does not know of "
            "(loop_rl/training/heads.py)"
        )


def check_sampler(update: Update, config: Config, iteration: int) -> None:
    """After the first update of an iteration: was it sampled from the policy that the trainer started from?

    Raises:
        RuntimeError: no; nothing of this iteration should be kept.
    """
    difference, bound = update.figures.get("logprob_diff_mean", 0.0), MAX_FROM_SAMPLER[config.model.dtype]
    if not difference <= bound:
        raise RuntimeError(
            f"iteration {iteration}: log-probabilities of trainer and vLLM differ by {difference:.2g} nats a token (in "
            f"{config.model.dtype} at most {bound:g}; mean over {update.figures['logprob_diff_tokens']:.0f} tokens), so every "
            "importance ratio is wrong; nothing of this iteration was kept"
        )


def _mean_difference(one: list[list[float]], other: list[list[float]]) -> float:
    return (torch.tensor(one).double() - torch.tensor(other).double()).abs().mean().item()


def _sample(trainer: Trainer, seed: int) -> Sample:
    """Tokens without meaning: any will do, and no tokenizer is needed."""
    vocabulary = trainer.llm.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (NUM_TOKENS + 1,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Sample.of_actions(f"own-forward-{seed}", ids)
