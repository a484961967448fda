"""PPO's advantage: what was earned against what a critic expected, token by token."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from loop_rl.algorithms.protocols import AdvantageEstimator, Columns
from loop_rl.config.base import Section
from loop_rl.data.rollout import Rollout
from loop_rl.data.samples import Column

_SMALLEST = 1e-8


class CriticSettings(Section):
    """Of every advantage that has a critic."""

    critic: Literal["head", "adapter"] = "head"
    """What the critic is: a small head on the policy's hidden states, into which no gradient goes, at next to no cost; or an adapter
    of its own on the same frozen model, of the policy's size, with a forward and backward pass of its own. Paper: head."""
    critic_learning_rate: float = Field(1e-4, gt=0)
    """AdamW's, of the critic. Paper: not said."""
    critic_warmup_iterations: int = Field(10, ge=0)
    """First iterations, in which the critic alone learns, from the untouched policy's rollouts. Paper: 10."""
    value_clip: float | None = Field(None, gt=0)
    """A value counts at least the error that it had this far from what it was when the iteration began; null: nothing of the kind.
    Verlog: 0.5."""
    first_token_weight: float = Field(1.0, gt=0)
    """What the value at a turn's first token counts in the critic's loss, the others counting 1. Verlog: 3."""
    bootstrap_limits: bool = False
    """What the critic expects next stands for the rest of an episode that a limit ended (`agent.max_turns`, a time limit, the
    environment's own limit of steps); false: nothing does. It does in any case where a batch of turns was full. Paper: false."""
    whiten: bool = False
    """Advantages less their mean, divided by their standard deviation, over all action tokens of an iteration. Verlog: true."""
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
    """A number for every action token, and what the critic is to learn: "return", weighted."""

    reads = frozenset({"value", "charge", "next_value"})
    gives = frozenset({"advantage", "return", "value", "value_weight"})

    def __call__(self, rollouts_K: Sequence[Rollout], columns_K: Sequence[Columns] = ()) -> list[dict[str, Column]]:
        found = []
        for rollout, columns in zip(rollouts_K, columns_K, strict=True):
            rewards_N = [reward - charge for reward, charge in zip(rewards_of(rollout), columns["charge"], strict=True)]
            lengths_T = [len(turn.action_ids) for turn in rollout.turns if turn.action_ids]
            (next_value,) = columns["next_value"]
            if rollout.has_ended and not self.settings.bootstrap_limits:
                next_value = 0.0
            advantages_N = self.advantages(rewards_N, columns["value"], lengths_T, next_value)
            returns_N = [a + value for a, value in zip(advantages_N, columns["value"], strict=True)]
            weights_N = [weight for n in lengths_T for weight in (self.settings.first_token_weight, *[1.0] * (n - 1))]
            found.append(
                {"advantage": advantages_N, "return": returns_N, "value": columns["value"], "value_weight": weights_N}
            )
        return found

    def over_iteration(self, columns: dict[str, dict[str, Column]]) -> dict[str, dict[str, Column]]:
        if not self.settings.whiten:
            return columns
        white = iter(whitened([a for of_rollout in columns.values() for a in of_rollout["advantage"]]))
        return {
            rollout_id: of_rollout | {"advantage": [next(white) for _ in of_rollout["advantage"]]}
            for rollout_id, of_rollout in columns.items()
        }

    @abstractmethod
    def advantages(
        self, rewards_N: Sequence[float], values_N: Sequence[float], lengths_T: Sequence[int], next_value: float
    ) -> list[float]:
        """[N]. rewards_N: what each action token earned; values_N: what the critic expects before each; lengths_T: tokens of each
        turn that has any; next_value: what it expects after the last."""


class Settings(CriticSettings):
    """Of `advantage: critic`."""

    gamma: float = Field(1.0, gt=0, le=1)
    """Discount from token to token. Paper: 1."""
    gae_lambda: float = Field(1.0, ge=0, le=1)
    """How far the advantage looks past the critic's next value. Paper: 1, its other choices (0.95 to 0.999) diverged."""


class Advantage(CriticAdvantage):
    """GAE over the tokens of an episode."""

    Settings = Settings

    def advantages(
        self, rewards_N: Sequence[float], values_N: Sequence[float], lengths_T: Sequence[int], next_value: float
    ) -> list[float]:
        return gae(rewards_N, values_N, self.settings.gamma, self.settings.gae_lambda, next_value)


def rewards_of(rollout: Rollout) -> list[float]:
    """[N], what the environment gave for each action token: a turn's reward at its last one, the episode's score at the last of
    all. The reward of a turn without tokens counts where the last turn before with any ends, or where the first of them does."""
    rewards_T, early = [], 0.0
    for turn in rollout.turns:
        if turn.action_ids:
            rewards_T.append([0.0] * (len(turn.action_ids) - 1) + [turn.reward])
        elif rewards_T:
            rewards_T[-1][-1] += turn.reward
        else:
            early += turn.reward
    if rewards_T:
        rewards_T[0][-1] += early
        rewards_T[-1][-1] += rollout.score
    return [reward for rewards_L in rewards_T for reward in rewards_L]


def gae(
    rewards_N: Sequence[float], values_N: Sequence[float], gamma: float, lam: float, next_value: float = 0.0
) -> list[float]:
    """Generalised advantage estimation, arXiv 1506.02438, equation 16; next_value: of the state after the last token.

    A_t = sum over l of (gamma lambda)^l delta_(t+l), delta_t = r_t + gamma V_(t+1) - V_t. With both 1 it is R - V_t, where R is
    the episode's reward: arXiv 2502.01600, appendix C.5.
    """
    advantages_N = [0.0] * len(rewards_N)
    advantage = 0.0
    for t in reversed(range(len(rewards_N))):
        advantage = rewards_N[t] + gamma * next_value - values_N[t] + gamma * lam * advantage
        advantages_N[t], next_value = advantage, values_N[t]
    return advantages_N


def whitened(numbers_M: Sequence[float]) -> list[float]:
    """Less their mean, divided by their standard deviation (of a population); zeros where they are alike."""
    mean = math.fsum(numbers_M) / max(len(numbers_M), 1)
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers_M) / max(len(numbers_M), 1))
    return [(x - mean) / max(std, _SMALLEST) for x in numbers_M]
