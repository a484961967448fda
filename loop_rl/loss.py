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


def weight_figures(proximal_logprobs_N: Tensor, behaviour_logprobs_N: Tensor, max_weight: float) -> dict[str, float]:
    """importance_weight_mean after truncation, importance_weight_max before it, and the share that it changed."""
    weights_N = importance_weights(proximal_logprobs_N, behaviour_logprobs_N, max_weight)
    free_N = importance_weights(proximal_logprobs_N, behaviour_logprobs_N, 0)
    return {
        "importance_weight_mean": weights_N.double().mean().item(),
        "importance_weight_max": free_N.max().item(),
        "importance_truncated_share": (weights_N < free_N).double().mean().item(),
    }


def policy_loss(objective_N: Tensor, weights_N: Tensor) -> Tensor:
    """Minus the objective's mean over rollouts of its mean over a rollout's action tokens.

    weights_N holds 1 / (num_rollouts * |a|), with num_rollouts that of the whole minibatch and |a| the action tokens of
    the token's own rollout. A minibatch may so be cut into any parts: their losses add up to the minibatch's loss.
    """
    return -(weights_N * objective_N).sum()


@dataclass
class TokenStats:
    """Sums over action tokens, so that micro-batches and ranks combine exactly whatever their sizes."""

    num_tokens: int = 0
    ratio: float = 0.0
    clipped: int = 0
    kl: float = 0.0
    entropy: float = 0.0
    ratio_max: float = 0.0

    @classmethod
    def of(cls, surrogate: Surrogate, entropies_N: Tensor) -> TokenStats:
        log_ratio_N = surrogate.log_ratio_N.double()
        ratio_N = log_ratio_N.exp()
        # k3 estimator of KL(proximal || theta), unbiased and never negative: Schulman, "Approximating KL divergence"
        # (2020, joschu.net/blog/kl-approx.html), (r - 1) - log r for samples of the proximal policy.
        kl_N = torch.expm1(log_ratio_N) - log_ratio_N
        return cls(
            num_tokens=ratio_N.numel(),
            ratio=ratio_N.sum().item(),
            clipped=int(surrogate.clipped_N.sum().item()),
            kl=kl_N.sum().item(),
            entropy=entropies_N.double().sum().item(),
            ratio_max=ratio_N.max().item() if ratio_N.numel() else 0.0,
        )

    def __add__(self, other: TokenStats) -> TokenStats:
        return TokenStats(
            self.num_tokens + other.num_tokens,
            self.ratio + other.ratio,
            self.clipped + other.clipped,
            self.kl + other.kl,
            self.entropy + other.entropy,
            max(self.ratio_max, other.ratio_max),
        )

    def means(self) -> dict[str, float]:
        """The figures to log. Entropy in nats."""
        return {
            "ratio_mean": self.ratio / self.num_tokens,
            "ratio_max": self.ratio_max,
            "clip_share": self.clipped / self.num_tokens,
            "approx_kl": self.kl / self.num_tokens,
            "entropy": self.entropy / self.num_tokens,
        }
