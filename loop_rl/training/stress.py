"""The largest step that training can ask for, done once before the first rollout: so that too little memory shows at once.

One optimiser step on made-up rollouts of `agent.max_context_tokens` tokens, all of them actions, as many on every rank as
a micro-batch may hold. Advantage and learning rate are zero, so gradients are zeros and every weight stays as it is, bit
by bit; AdamW's state, which the step allocates, is zero but for its count of steps, which is taken back. Nothing draws
a random number.
"""

from __future__ import annotations

import time
from collections.abc import Collection

import torch

from loop_rl.algorithms.protocols import Objective
from loop_rl.config.base import ConfigError
from loop_rl.config.settings import Config
from loop_rl.data.samples import Sample
from loop_rl.training.trainer import Trainer


def stress_step(trainer: Trainer, objective: Objective) -> None:
    """Do the step and print the peak memory. Every rank must call it, before the trainer has trained or loaded anything.

    Raises:
        ConfigError: out of memory; names the settings to change.
    """
    config = trainer.config
    started = time.monotonic()
    num_rollouts = microbatch_rollouts(config, objective.compares_pairs)
    what = f"stress step of {num_rollouts} x {config.agent.max_context_tokens} tokens on each rank"
    if trainer.is_main:
        # Before the step: without memory left the system may kill the process, and then this is the log's last line.
        print(f"{what} begins; if the process is killed here, memory ran out: {advice(config)}", flush=True)
    try:
        peak_memory = trainer.rehearse([longest_sample(config, trainer.reads(objective))] * num_rollouts, objective)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise ConfigError(f"{what}: out of memory; {advice(config)}") from error
    if trainer.is_main:
        seconds = time.monotonic() - started
        print(f"{what}: peak {peak_memory / 2**30:.2f} GiB, {seconds:.1f} s", flush=True)


def longest_sample(config: Config, columns: Collection[str]) -> Sample:
    """As many tokens as an episode can have, the first one context; all columns 0, so no ratio above 1 and no gradient."""
    return Sample.of_actions("stress", [0] * config.agent.max_context_tokens, {"behaviour", *columns})


def microbatch_rollouts(config: Config, pairs: bool = False) -> int:
    """How many of the longest rollouts one micro-batch holds; pairs: they come in twos."""
    if config.trainer.sequence_parallel_size > 1:
        return 1
    together = 2 if pairs else 1
    return together * max(1, config.trainer.max_tokens_per_microbatch // (together * config.agent.max_context_tokens))


def advice(config: Config) -> str:
    """What a user can change to need less memory, of these settings."""
    trainer = config.trainer
    changes = []
    if microbatch_rollouts(config) > 1:
        changes.append(f"lower trainer.max_tokens_per_microbatch ({trainer.max_tokens_per_microbatch})")
    if not trainer.activation_checkpointing:
        changes.append("set trainer.activation_checkpointing=true")
    changes.append(f"lower trainer.logprob_chunk_tokens ({trainer.logprob_chunk_tokens})")
    changes.append(f"raise trainer.sequence_parallel_size ({trainer.sequence_parallel_size}, up to num_processes)")
    if trainer.zero_stage < 3:
        changes.append(f"raise trainer.zero_stage ({trainer.zero_stage})")
    if torch.cuda.is_available() and not trainer.offload_optimizer:
        changes.append("set trainer.offload_optimizer=true")
    changes.append(f"or lower agent.max_context_tokens ({config.agent.max_context_tokens})")
    return ", ".join(changes)


def _is_out_of_memory(error: Exception) -> bool:
    on_gpu_or_python = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return on_gpu_or_python or "can't allocate memory" in str(error)  # torch's words on a CPU
