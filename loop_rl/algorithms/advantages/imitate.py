"""No advantage: whatever the filter keeps is to be imitated."""

from __future__ import annotations

from collections.abc import Sequence

from loop_rl.algorithms.protocols import AdvantageEstimator
from loop_rl.data.rollout import Rollout
from loop_rl.data.samples import Column


class Advantage(AdvantageEstimator):
    """1 for every rollout: with `objective: likelihood` the cross-entropy of supervised fine-tuning."""

    def __call__(self, rollouts_K: Sequence[Rollout]) -> list[dict[str, Column]]:
        return [{"advantage": 1.0} for _ in rollouts_K]
