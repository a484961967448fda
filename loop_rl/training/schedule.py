"""The learning rate of an iteration: a function of its number alone, so that a run that was stopped goes on alike."""

from __future__ import annotations

import math

from loop_rl.config.settings import TrainerConfig


def learning_rate(trainer: TrainerConfig, iteration: int) -> float:
    """In iteration 0 ... num_iterations - 1: rises over `warmup_iterations`, then stays, or falls towards 0, which it would reach in
    the iteration after the last, by a straight line or half a cosine."""
    warmup, total = trainer.warmup_iterations, trainer.num_iterations
    if iteration < warmup:
        return trainer.learning_rate * (iteration + 1) / (warmup + 1)
    gone = (iteration - warmup) / (total - warmup)
    factor = {"constant": 1.0, "linear": 1.0 - gone, "cosine": (1.0 + math.cos(math.pi * gone)) / 2}
    return trainer.learning_rate * factor[trainer.learning_rate_schedule]
