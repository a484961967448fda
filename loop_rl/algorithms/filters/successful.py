"""The filter of expert iteration and of rejection sampling: only what succeeded is learnt from."""

from __future__ import annotations

from loop_rl.algorithms.protocols import Columns, RolloutFilter
from loop_rl.data.rollout import Rollout


class Filter(RolloutFilter):
    """Keeps rollouts in which everything that was asked for was done: EI and RFT of arXiv 2502.01600, appendix C, R = 1."""

    def __call__(self, rollout: Rollout, columns: Columns) -> bool:
        return rollout.success
