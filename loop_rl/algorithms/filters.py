"""Which rollouts of a group are trained on: those that teach something."""

from __future__ import annotations

from collections.abc import Sequence


def keep_informative(advantages_K: Sequence[float], min_abs_advantage: float) -> list[int]:
    """Indices of the rollouts with |A| >= min_abs_advantage, in order; empty when the whole group scored alike.

    Algorithm 1 of arXiv 2502.01600 drops |A| < 0.01: such a rollout costs as much to train on as any other and moves
    the policy by next to nothing.
    """
    return [k for k, advantage in enumerate(advantages_K) if abs(advantage) >= min_abs_advantage]
