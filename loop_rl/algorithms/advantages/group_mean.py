"""GRPO's advantage: each rollout is compared with the mean of its task, itself included."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loop_rl.algorithms.advantages.standard_deviation import divided_by_std
from loop_rl.algorithms.protocols import AdvantageEstimator
from loop_rl.config.base import Section
from loop_rl.data.rollout import Rollout
from loop_rl.data.samples import Column


class Settings(Section):
    """Of `advantage: group_mean`."""

    divide_by_std: bool = True
    """Divide a group's advantages by the standard deviation of its rewards. GRPO: true; Dr. GRPO and GVPO: false."""


class Advantage(AdvantageEstimator):
    """One number for all tokens of a rollout."""

    Settings = Settings

    def __call__(self, rollouts_K: Sequence[Rollout]) -> list[dict[str, Column]]:
        rewards_K = [rollout.reward for rollout in rollouts_K]
        advantages_K = group_mean(rewards_K)
        if self.settings.divide_by_std:
            advantages_K = divided_by_std(advantages_K, rewards_K)
        return [{"advantage": advantage} for advantage in advantages_K]


def group_mean(rewards_K: Sequence[float]) -> list[float]:
    """A_k = R_k - mean of R: GRPO, arXiv 2402.03300, section 4.1.2, before its division.

    It is (K - 1) / K of leave-one-out's.
    """
    mean = math.fsum(rewards_K) / len(rewards_K)
    return [reward - mean for reward in rewards_K]
