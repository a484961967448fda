"""No filter: for advantages with a critic, which learns from what it had foreseen, too."""

from __future__ import annotations

from loop_rl.algorithms.protocols import Columns, RolloutFilter
from loop_rl.data.rollout import Rollout


class Filter(RolloutFilter):
    """Keeps every rollout."""

    def __call__(self, rollout: Rollout, columns: Columns) -> bool:
        return True
