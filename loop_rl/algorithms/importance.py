"""Truncated importance sampling."""

from __future__ import annotations

from torch import Tensor


def importance_weights(proximal_logprobs_N: Tensor, behaviour_logprobs_N: Tensor, max_weight: float) -> Tensor:
    """w_t = min(pi_proximal / pi_behaviour, C), the factor of a token's objective; 1 where the two are the same.

    The sampler computes log-probabilities a little differently from the trainer, and tokens may be a policy version old,
    so the behaviour policy is not the one that the iteration starts from. Without truncation this is the decoupled
    objective of AReaL (arXiv 2505.24298, after arXiv 2110.00641); the truncation is that of TIS (Yao et al.
    2025, "Your efficient RL framework secretly brings you off-policy RL training").

    Args:
        proximal_logprobs_N: of the policy that the iteration starts from, float32, without gradient.
        behaviour_logprobs_N: log-probabilities the tokens were sampled with, float32.
        max_weight: C; 0 truncates nothing.
    """
    weights_N = (proximal_logprobs_N - behaviour_logprobs_N).exp()
    return weights_N.clamp(max=max_weight) if max_weight else weights_N
