"""LOOP's filter: a rollout whose advantage is next to nothing teaches nothing."""

from __future__ import annotations

from pydantic import Field

from loop_rl.algorithms.protocols import Columns, RolloutFilter
from loop_rl.config.base import Section
from loop_rl.data.rollout import Rollout
from loop_rl.data.samples import Column


class Settings(Section):
    """Of `filter: informative`."""

    min_abs_advantage: float = Field(0.01, ge=0)
    """Rollouts with |A| below this are dropped. Paper: 0.01."""


class Filter(RolloutFilter):
    """Keeps what teaches something."""

    Settings = Settings

    def __call__(self, rollout: Rollout, columns: Columns) -> bool:
        return is_informative(columns["advantage"], self.settings.min_abs_advantage)


def is_informative(advantage: Column, min_abs_advantage: float) -> bool:
    """Whether |A| >= min_abs_advantage, at any token where each has its own.

    Algorithm 1 of arXiv 2502.01600 drops |A| < 0.01: such a rollout costs as much to train on as any other and moves
    the policy by next to nothing.
    """
    advantages = [advantage] if isinstance(advantage, float) else advantage
    return any(abs(value) >= min_abs_advantage for value in advantages)
