"""PPO's advantage: what was earned against what a critic expected, token by token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from loop_rl.algorithms.protocols import AdvantageEstimator, Columns
from loop_rl.config.base import Section
from loop_rl.data.rollout import Rollout
from loop_rl.data.samples import Column


class CriticSettings(Section):
    """Of every advantage that has a critic."""

    critic_learning_rate: float = Field(1e-4, gt=0)
    """AdamW's, of the critic. Paper: not said."""
    critic_warmup_iterations: int = Field(10, ge=0)
    """First iterations, in which the critic alone learns, from the untouched policy's rollouts. Paper: 10."""
    min_value: float = 0.0
    """Values are clipped to the rewards that there can be. Paper: 0 to 1."""
    max_value: float = 1.0
    """See min_value."""

    @model_validator(mode="after")
    def _some_range(self) -> Self:
        if self.min_value >= self.max_value:
            raise ValueError(
                f"algorithm.min_value ({self.min_value}) is not below algorithm.max_value ({self.max_value})"
            )
        return self


class CriticAdvantage(AdvantageEstimator):
    """A number for every action token, and what the critic is to learn: "return"."""

    reads = frozenset({"value"})
    gives = frozenset({"advantage", "return", "value"})

    def __call__(self, rollouts_K: Sequence[Rollout], columns_K: Sequence[Columns] = ()) -> list[dict[str, Column]]:
        found = []
        for rollout, columns in zip(rollouts_K, columns_K, strict=True):
            values_N = columns["value"]
            advantages_N = self.advantages(rollout, values_N)
            returns_N = [advantage + value for advantage, value in zip(advantages_N, values_N, strict=True)]
            found.append({"advantage": advantages_N, "return": returns_N, "value": values_N})
        return found

    @abstractmethod
    def advantages(self, rollout: Rollout, values_N: Sequence[float]) -> list[float]:
        """[N]. values_N: what the critic expects before each action token."""


class Settings(CriticSettings):
    """Of `advantage: critic`."""

    gamma: float = Field(1.0, gt=0, le=1)
    """Discount from token to token. Paper: 1."""
    gae_lambda: float = Field(1.0, ge=0, le=1)
    """How far the advantage looks past the critic's next value. Paper: 1, its other choices (0.95 to 0.999) diverged."""


class Advantage(CriticAdvantage):
    """GAE over the tokens of an episode."""

    Settings = Settings

    def advantages(self, rollout: Rollout, values_N: Sequence[float]) -> list[float]:
        return gae(rewards_of(rollout), values_N, self.settings.gamma, self.settings.gae_lambda)


def rewards_of(rollout: Rollout) -> list[float]:
    """[N], what the environment gave for each action token: a turn's reward at its last one, the episode's score at the last of
    all. Rewards of turns without tokens count where the turn before ends, or at the first token."""
    rewards_N: list[float] = []
    early = 0.0
    for turn in rollout.turns:
        rewards_N += [0.0] * len(turn.action_ids)
        if rewards_N:
            rewards_N[-1] += turn.reward
        else:
            early += turn.reward
    if rewards_N:
        rewards_N[0] += early
        rewards_N[-1] += rollout.score
    return rewards_N


def gae(rewards_N: Sequence[float], values_N: Sequence[float], gamma: float, lam: float) -> list[float]:
    """Generalised advantage estimation, arXiv 1506.02438, equation 16; nothing is worth anything after the last token.

    A_t = sum over l of (gamma lambda)^l delta_(t+l), delta_t = r_t + gamma V_(t+1) - V_t. With both 1 it is R - V_t, where R is
    the episode's reward: arXiv 2502.01600, appendix C.5.
    """
    advantages_N = [0.0] * len(rewards_N)
    advantage, next_value = 0.0, 0.0
    for t in reversed(range(len(rewards_N))):
        advantage = rewards_N[t] + gamma * next_value - values_N[t] + gamma * lam * advantage
        advantages_N[t], next_value = advantage, values_N[t]
    return advantages_N
