"""Importance weights: what a token counts for having been sampled by another policy than the one an iteration starts from.

Shapes: N action tokens of a micro-batch, M of an iteration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from loop_rl.algorithms.protocols import Batch, Objective
from loop_rl.algorithms.ratio import log_ratio
from loop_rl.config.base import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class ImportanceSettings(Section):
    """Of the objectives that weigh tokens."""

    ratio_to: Literal["behaviour", "recomputed"] = "behaviour"
    """What the importance ratio divides by: `behaviour`, the log-probabilities that the tokens were sampled with, or
    `recomputed`, those of the policy that the iteration starts from as the trainer computes them. See docs/loop.md."""
    max_importance_weight: float = Field(0.0, ge=0)
    """C of truncated importance sampling: a token's objective is multiplied by min(pi_recomputed / pi_behaviour, C); 0
    truncates nothing. Refused with `ratio_to: behaviour`, where all of these weights are 1."""
    importance: Literal["truncate", "mask"] = "truncate"
    """What becomes of a weight beyond its bounds: `truncate` cuts it to C, `mask` takes the token out (IcePop)."""
    min_importance_weight: float = Field(0.0, ge=0)
    """Lower bound of `importance: mask`, such as 0.5; below it a token is taken out."""
    max_mean_log_weight: float = Field(0.0, ge=0)
    """The geometric mask: a rollout is taken out where the mean of log(pi_recomputed / pi_behaviour) over its tokens is further
    from 0 than this, such as 0.002; 0 takes none out."""

    def refuse_contradictions(self) -> None:
        """Raises ValueError."""
        if self.ratio_to == "behaviour":
            for name in ("max_importance_weight", "min_importance_weight", "max_mean_log_weight"):
                if value := getattr(self, name):
                    raise ValueError(
                        f"algorithm.{name} ({value}) has no effect with algorithm.ratio_to: behaviour; set algorithm.ratio_to: "
                        "recomputed"
                    )
        if self.importance == "mask" and not self.max_importance_weight:
            raise ValueError("algorithm.importance: mask needs algorithm.max_importance_weight, such as 5")
        if self.importance == "truncate" and self.min_importance_weight:
            raise ValueError(
                f"algorithm.min_importance_weight ({self.min_importance_weight}) has no effect without algorithm.importance: mask"
            )
        if self.importance == "mask" and self.min_importance_weight >= self.max_importance_weight:
            raise ValueError(
                f"algorithm.min_importance_weight ({self.min_importance_weight}) leaves nothing below "
                f"algorithm.max_importance_weight ({self.max_importance_weight})"
            )


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


def masked_weights(recomputed_N: Tensor, behaviour_N: Tensor, min_weight: float, max_weight: float) -> Tensor:
    """w_t where min <= w_t <= max, else 0: a token that the two policies see too differently teaches nothing.

    IcePop (Ling team, "Small leak can sink a great ship", 2025; there with 0.5 and 5). Arguments as for `importance_weights`.
    """
    weights_N = (recomputed_N - behaviour_N).exp()
    return weights_N.where((weights_N >= min_weight) & (weights_N <= max_weight), 0.0)


def rollouts_within(recomputed_N: Tensor, behaviour_N: Tensor, max_mean_log: float, batch: Batch) -> Tensor:
    """[N], 1 where |mean over the rollout's tokens of log w_t| <= max_mean_log, else 0.

    The geometric mean of a rollout's weights does not grow with its length, as their product does (Liu et al. 2025, "When
    speed kills stability", geometric sequence mask).
    """
    means_N = log_ratio(recomputed_N, behaviour_N, "gspo", batch)
    return (means_N.abs() <= max_mean_log).to(means_N.dtype)


def bounded_weights(settings: ImportanceSettings, recomputed_N: Tensor, behaviour_N: Tensor) -> Tensor:
    """The weights of tokens, truncated or masked as `settings` say."""
    if settings.importance == "mask":
        return masked_weights(recomputed_N, behaviour_N, settings.min_importance_weight, settings.max_importance_weight)
    return importance_weights(recomputed_N, behaviour_N, settings.max_importance_weight)


def token_factors(settings: ImportanceSettings, reference_N: Tensor, behaviour_N: Tensor, batch: Batch) -> Tensor:
    """What each token's objective is multiplied by, as `settings` say.

    reference_N: what the ratio is to; where that is the behaviour itself, every factor is 1.
    """
    factors_N = bounded_weights(settings, reference_N, behaviour_N)
    if settings.max_mean_log_weight:
        factors_N = factors_N * rollouts_within(reference_N, behaviour_N, settings.max_mean_log_weight, batch)
    return factors_N


def weight_figures(settings: ImportanceSettings, recomputed_M: Tensor, behaviour_M: Tensor) -> dict[str, float]:
    """importance_weight_mean after truncation or mask, importance_weight_max before it, and the share that it changed."""
    free_M = importance_weights(recomputed_M, behaviour_M, 0)
    weights_M = bounded_weights(settings, recomputed_M, behaviour_M)
    return {
        "importance_weight_mean": weights_M.double().mean().item(),
        "importance_weight_max": free_M.max().item(),
        "importance_truncated_share": (weights_M != free_M).double().mean().item(),
    }


class WeighedObjective(Objective):
    """One whose `Settings` are or extend `ImportanceSettings`: what it reads for them, and their figures."""

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"advantage", "behaviour", self.settings.ratio_to})

    @property
    def needs_whole_sequences(self) -> bool:
        return self.settings.max_mean_log_weight > 0

    def describe(self, columns_M: Mapping[str, Tensor]) -> dict[str, float]:
        if self.settings.ratio_to == "behaviour":
            return {}
        return weight_figures(self.settings, columns_M["recomputed"], columns_M["behaviour"])
