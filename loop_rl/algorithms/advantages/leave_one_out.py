"""Advantages of the K rollouts of one task, and the filter that drops rollouts that teach nothing.

An advantage estimator is a function from the K rewards of a group to its K advantages; another one is another function
in this file.
"""

from __future__ import annotations

from collections.abc import Sequence


def leave_one_out(rewards_K: Sequence[float]) -> list[float]:
    """A_k = R_k - mean of R_j over j != k: each rollout is compared with the other K-1 of its task.

    LOOP, arXiv 2502.01600, Algorithm 1; the estimator is that of RLOO (arXiv 2402.14740). It equals
    K / (K - 1) * (R_k - mean R), so the K advantages sum to zero; unlike GRPO's it is not divided by the group's
    standard deviation.

    Args:
        rewards_K: episode rewards in [0, 1].

    Raises:
        ValueError: K < 2, so there is nothing to compare with.
    """
    num_rollouts = len(rewards_K)
    if num_rollouts < 2:
        raise ValueError(f"leave-one-out needs at least 2 rollouts of a task, got {num_rollouts}")
    total = sum(rewards_K)
    return [reward - (total - reward) / (num_rollouts - 1) for reward in rewards_K]
