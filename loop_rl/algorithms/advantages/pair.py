"""Preferences: of each group its best and its worst rollout, one to be preferred to the other."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from loop_rl.algorithms.protocols import AdvantageEstimator
from loop_rl.config.base import Section
from loop_rl.data.rollout import Rollout
from loop_rl.data.samples import Column


class Settings(Section):
    """Of `advantage: pair`."""

    min_difference: float = Field(0.1, gt=0)
    """Best and worst reward of a group must lie further apart than this, or it gives no pair. Paper: a threshold, not said which."""
    turn_discount: float | None = Field(0.7, gt=0, le=1)
    """DMPO's gamma: how much less later turns count; null counts all alike (DPO). DMPO's authors: 0.7."""


class Advantage(AdvantageEstimator):
    """1 for the best rollout of a group, -1 for the worst, 0 for all others; "preference" is the same, weighted turn by turn."""

    Settings = Settings
    gives = frozenset({"advantage", "preference"})

    def __call__(self, rollouts_K: Sequence[Rollout]) -> list[dict[str, Column]]:
        signs_K = pair([rollout.reward for rollout in rollouts_K], self.settings.min_difference)
        return [
            {"advantage": sign, "preference": self._by_token(rollout, sign)}
            for rollout, sign in zip(rollouts_K, signs_K, strict=True)
        ]

    def _by_token(self, rollout: Rollout, sign: float) -> Column:
        discount = self.settings.turn_discount
        if discount is None:
            return sign
        turns = [turn for turn in rollout.turns if turn.action_ids]
        weights = turn_weights(len(turns), discount)
        return [sign * weight for turn, weight in zip(turns, weights, strict=True) for _ in turn.action_ids]


def pair(rewards_K: Sequence[float], min_difference: float) -> list[float]:
    """1 for the first of the best, -1 for the first of the worst, else 0; all 0 where they are not further apart than
    `min_difference`. LOOP, arXiv 2502.01600, section 5.3: one pair of a task, both from the same policy."""
    best, worst = max(rewards_K), min(rewards_K)
    if best - worst <= min_difference:
        return [0.0] * len(rewards_K)
    signs_K = [0.0] * len(rewards_K)
    signs_K[rewards_K.index(best)], signs_K[rewards_K.index(worst)] = 1.0, -1.0
    return signs_K


def turn_weights(num_turns: int, discount: float) -> list[float]:
    """phi(t, T) = g^t (1 - g^(T - t)) / (1 - g^T) of turns t = 0, ..., T - 1; (T - t) / T where g is 1.

    DMPO, arXiv 2406.14868, as its derivation and its authors' code have it; the paper's equation is printed without g^t.
    """
    if discount == 1:
        return [(num_turns - t) / num_turns for t in range(num_turns)]
    return [discount**t * (1 - discount ** (num_turns - t)) / (1 - discount**num_turns) for t in range(num_turns)]
