"""Figures of an update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loop_rl.algorithms.importance import importance_weights
from loop_rl.algorithms.objectives.clipped import Surrogate


def weight_figures(proximal_logprobs_N: Tensor, behaviour_logprobs_N: Tensor, max_weight: float) -> dict[str, float]:
    """importance_weight_mean after truncation, importance_weight_max before it, and the share that it changed."""
    weights_N = importance_weights(proximal_logprobs_N, behaviour_logprobs_N, max_weight)
    free_N = importance_weights(proximal_logprobs_N, behaviour_logprobs_N, 0)
    return {
        "importance_weight_mean": weights_N.double().mean().item(),
        "importance_weight_max": free_N.max().item(),
        "importance_truncated_share": (weights_N < free_N).double().mean().item(),
    }


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
