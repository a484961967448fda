"""Truncated importance sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def importance_weights(recomputed_N: Tensor, behaviour_N: Tensor, max_weight: float) -> Tensor:
    """w_t = min(pi_recomputed / pi_behaviour, C), the factor of a token's objective; 1 where the two are the same.

    The sampler computes log-probabilities a little differently from the trainer, and tokens may be a policy version old,
    so the behaviour policy is not the one that the iteration starts from. Without truncation this is the decoupled
    objective of AReaL (arXiv 2505.24298, after arXiv 2110.00641); the truncation is that of TIS (Yao et al.
    2025, "Your efficient RL framework secretly brings you off-policy RL training").

    Args:
        recomputed_N: of the policy that the iteration starts from, float32, without gradient.
        behaviour_N: log-probabilities the tokens were sampled with, float32.
        max_weight: C; 0 truncates nothing.
    """
    weights_N = (recomputed_N - behaviour_N).exp()
    return weights_N.clamp(max=max_weight) if max_weight else weights_N


def weight_figures(recomputed_N: Tensor, behaviour_N: Tensor, max_weight: float) -> dict[str, float]:
    """importance_weight_mean after truncation, importance_weight_max before it, and the share that it changed."""
    weights_N = importance_weights(recomputed_N, behaviour_N, max_weight)
    free_N = importance_weights(recomputed_N, behaviour_N, 0)
    return {
        "importance_weight_mean": weights_N.double().mean().item(),
        "importance_weight_max": free_N.max().item(),
        "importance_truncated_share": (weights_N < free_N).double().mean().item(),
    }
