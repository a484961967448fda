"""GVPO's advantage: turns that ended in an error are never encouraged, and blamed a little where nothing else is."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from loop_rl.algorithms.advantages.group_mean import group_mean
from loop_rl.algorithms.protocols import AdvantageEstimator, Columns
from loop_rl.config.base import Section
from loop_rl.data.rollout import Rollout
from loop_rl.data.samples import Column

_NOTHING = 1e-9


class Settings(Section):
    """Of `advantage: error_shaped`."""

    error_penalty: float = Field(0.2, gt=0)
    """b. GVPO: 0.2; 0.1 did little, 0.4 was unstable."""


class Advantage(AdvantageEstimator):
    """A number for each token: the rollout's distance from the mean of its group, and another one where its turn failed."""

    Settings = Settings
    reads = frozenset({"failed"})

    def __call__(self, rollouts_K: Sequence[Rollout], columns_K: Sequence[Columns] = ()) -> list[dict[str, Column]]:
        advantages_K = group_mean([rollout.reward for rollout in rollouts_K])
        return [
            {
                "advantage": [
                    shaped(advantage, bool(failed), self.settings.error_penalty) for failed in columns["failed"]
                ]
            }
            for advantage, columns in zip(advantages_K, columns_K, strict=True)
        ]


def shaped(advantage: float, failed: bool, penalty: float) -> float:
    """A of a token whose turn failed or did not, of a rollout with `advantage`; b the penalty.

    GVPO (ICLR 2026): A where it did not fail; else -b for A = 0, (1 + b) A for A < 0, and 0 for A > 0. So a group that scored
    alike teaches, too, where something failed.
    """
    if not failed:
        return advantage
    if abs(advantage) < _NOTHING:
        return -penalty
    return (1 + penalty) * advantage if advantage < 0 else 0.0
