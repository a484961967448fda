"""LOOP's advantage: each rollout is compared with the others of its task."""

from __future__ import annotations

from collections.abc import Sequence

from loop_rl.algorithms.advantages.standard_deviation import divided_by_std
from loop_rl.algorithms.protocols import AdvantageEstimator
from loop_rl.config.base import Section
from loop_rl.data.rollout import Rollout
from loop_rl.data.samples import Column


class Settings(Section):
    """Of `advantage: leave_one_out`."""

    divide_by_std: bool = False
    """Divide a group's advantages by the standard deviation of its rewards. Paper: LOOP RwNorm, worse than without."""


class Advantage(AdvantageEstimator):
    """One number for all tokens of a rollout."""

    Settings = Settings

    def __call__(self, rollouts_K: Sequence[Rollout]) -> list[dict[str, Column]]:
        rewards_K = [rollout.reward for rollout in rollouts_K]
        advantages_K = leave_one_out(rewards_K)
        if self.settings.divide_by_std:
            advantages_K = divided_by_std(advantages_K, rewards_K)
        return [{"advantage": advantage} for advantage in advantages_K]


def leave_one_out(rewards_K: Sequence[float]) -> list[float]:
    """A_k = R_k - mean of R_j over j != k.

    LOOP, arXiv 2502.01600, Algorithm 1; the estimator is that of RLOO (arXiv 2402.14740). It equals
    K / (K - 1) * (R_k - mean R), so the K advantages sum to zero; unlike GRPO's it is not divided by the group's
    standard deviation.

    Args:
        rewards_K: episode rewards, of AppWorld in [0, 1].

    Raises:
        ValueError: K < 2, so there is nothing to compare with.
    """
    num_rollouts = len(rewards_K)
    if num_rollouts < 2:
        raise ValueError(f"leave-one-out needs at least 2 rollouts of a task, got {num_rollouts}")
    total = sum(rewards_K)
    return [reward - (total - reward) / (num_rollouts - 1) for reward in rewards_K]
