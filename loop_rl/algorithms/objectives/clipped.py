"""The clipped surrogate objective of LOOP with one importance ratio per token; pure functions on tensors.

Shapes: N is the number of action tokens of a micro-batch, all its rollouts one after another. Context tokens never get
here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Surrogate:
    """Per-token terms of the objective."""

    objective_N: Tensor
    """min(r A, clip(r, 1 - eps, 1 + eps) A); carries the gradient."""
    log_ratio_N: Tensor
    """log r = log pi_theta - log pi_proximal, detached."""
    clipped_N: Tensor
    """True where the clipped term is the smaller one, so the token gives no gradient."""


def clipped_surrogate(
    logprobs_N: Tensor, proximal_logprobs_N: Tensor, advantages_N: Tensor, clip_epsilon: float
) -> Surrogate:
    """min(r_t A, clip(r_t, 1-eps, 1+eps) A) with r_t = exp(log pi_theta - log pi_proximal).

    PPO, arXiv 1707.06347, equation 7, with the episode's advantage at each of its tokens, as in LOOP, arXiv 2502.01600,
    Algorithm 1.

    Args:
        logprobs_N: log-probabilities under the policy being trained, float32, with gradient.
        proximal_logprobs_N: log-probabilities under the policy that the ratio is to, float32: those that the tokens were
            sampled with, or where `algorithm.ratio_to` says so, recomputed ones.
        advantages_N: advantage of the rollout each token belongs to, float32.
        clip_epsilon: half-width of the range in which the ratio counts.
    """
    log_ratio_N = logprobs_N - proximal_logprobs_N
    ratio_N = log_ratio_N.exp()
    clipped_ratio_N = ratio_N.clamp(1 - clip_epsilon, 1 + clip_epsilon)
    free_N, bounded_N = ratio_N * advantages_N, clipped_ratio_N * advantages_N
    return Surrogate(torch.minimum(free_N, bounded_N), log_ratio_N.detach(), (bounded_N < free_N).detach())
