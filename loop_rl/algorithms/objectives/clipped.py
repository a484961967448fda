"""The clipped surrogate objective of PPO as LOOP uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from loop_rl.algorithms.importance import importance_weights, weight_figures
from loop_rl.algorithms.protocols import Batch, Terms
from loop_rl.algorithms.protocols import Objective as Base
from loop_rl.algorithms.ratio import Level, log_ratio
from loop_rl.config.base import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class Settings(Section):
    """Of `objective: clipped`."""

    clip_epsilon: float = Field(0.1, gt=0, lt=1)
    """PPO clip range. Released: 0.1."""
    ratio: Level = "token"
    """What has one importance ratio, and is clipped as one: a token, a turn or a trajectory. Paper: all three, token is best."""
    ratio_to: Literal["behaviour", "recomputed"] = "behaviour"
    """What the importance ratio divides by: `behaviour`, the log-probabilities that the tokens were sampled with, or
    `recomputed`, those of the policy that the iteration starts from as the trainer computes them. See docs/loop.md."""
    max_importance_weight: float = Field(0.0, ge=0)
    """C of truncated importance sampling: a token's objective is multiplied by min(pi_recomputed / pi_behaviour, C); 0
    truncates nothing. Refused with `ratio_to: behaviour`, where all of these weights are 1."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        if self.max_importance_weight and self.ratio_to == "behaviour":
            raise ValueError(
                f"algorithm.max_importance_weight ({self.max_importance_weight}) has no effect with "
                f"algorithm.ratio_to: behaviour; set algorithm.ratio_to: recomputed"
            )
        if self.ratio != "token" and self.ratio_to == "behaviour":
            raise ValueError(
                f"algorithm.ratio: {self.ratio} multiplies what sampler and trainer compute differently over all its tokens (in "
                "bfloat16 0.02 nats a token); set algorithm.ratio_to: recomputed"
            )
        return self


class Objective(Base):
    """min(r A, clip(r, 1 - eps, 1 + eps) A), each token's times its importance weight."""

    Settings = Settings

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"advantage", "behaviour", self.settings.ratio_to})

    def __call__(self, logprobs_N: Tensor, batch: Batch) -> Terms:
        columns_N, settings = batch.columns_N, self.settings
        reference_N = columns_N[settings.ratio_to]
        surrogate = clipped_surrogate(
            log_ratio(logprobs_N, reference_N, settings.ratio, batch), columns_N["advantage"], settings.clip_epsilon
        )
        importance_N = importance_weights(reference_N, columns_N["behaviour"], settings.max_importance_weight)
        token_log_ratio_N = (logprobs_N.detach() - reference_N).double()
        ratio_N = surrogate.log_ratio_N.double().exp()
        return Terms(
            objective_N=importance_N * surrogate.objective_N,
            means={
                "ratio_mean": ratio_N,
                "clip_share": surrogate.clipped_N,
                # k3 estimator of KL(reference || theta), unbiased and never negative: Schulman, "Approximating KL divergence"
                # (2020, joschu.net/blog/kl-approx.html), (r - 1) - log r for samples of the reference policy.
                "approx_kl": token_log_ratio_N.expm1() - token_log_ratio_N,
            },
            maxima={"ratio_max": ratio_N},
            shown={"ratio": surrogate.log_ratio_N.exp(), "clipped": surrogate.clipped_N, "importance": importance_N},
        )

    def describe(self, columns_M: Mapping[str, Tensor]) -> dict[str, float]:
        if self.settings.ratio_to == "behaviour":
            return {}
        return weight_figures(columns_M["recomputed"], columns_M["behaviour"], self.settings.max_importance_weight)


@dataclass(frozen=True)
class Surrogate:
    """Per-token terms of the objective."""

    objective_N: Tensor
    """min(r A, clip(r, 1 - eps, 1 + eps) A); carries the gradient."""
    log_ratio_N: Tensor
    """log r, detached."""
    clipped_N: Tensor
    """True where the clipped term is the smaller one, so the token gives no gradient."""


def clipped_surrogate(log_ratio_N: Tensor, advantages_N: Tensor, clip_epsilon: float) -> Surrogate:
    """min(r A, clip(r, 1-eps, 1+eps) A).

    PPO, arXiv 1707.06347, equation 7, with the episode's advantage at each of its tokens, as in LOOP, arXiv 2502.01600,
    Algorithm 1.

    Args:
        log_ratio_N: log r, float32, with gradient.
        advantages_N: float32.
        clip_epsilon: half-width of the range in which the ratio counts.
    """
    ratio_N = log_ratio_N.exp()
    clipped_ratio_N = ratio_N.clamp(1 - clip_epsilon, 1 + clip_epsilon)
    free_N, bounded_N = ratio_N * advantages_N, clipped_ratio_N * advantages_N
    return Surrogate(free_N.minimum(bounded_N), log_ratio_N.detach(), (bounded_N < free_N).detach())
