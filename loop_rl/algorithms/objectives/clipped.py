"""The clipped surrogate objective of PPO as LOOP uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from loop_rl.algorithms.importance import ImportanceSettings, WeighedObjective, token_factors
from loop_rl.algorithms.protocols import Batch, Terms
from loop_rl.algorithms.ratio import Level, log_ratio

if TYPE_CHECKING:
    from torch import Tensor


class Settings(ImportanceSettings):
    """Of `objective: clipped`."""

    clip_epsilon: float = Field(0.1, gt=0, lt=1)
    """PPO clip range: the ratio counts from 1 - this to 1 + this. Released: 0.1."""
    clip_high: float | None = Field(None, gt=0)
    """Upper half of the clip range where it differs: to 1 + this (clip-higher, DAPO; there 0.28 with 0.2 below). null: as
    clip_epsilon."""
    dual_clip: float = Field(0.0, ge=0)
    """c of dual-clip PPO: where the advantage is negative, a token's objective is never below c times it, such as 3; 0 sets no
    bound."""
    ratio: Level = "token"
    """What has one importance ratio, and is clipped as one: a token, a turn or a trajectory; `gspo` is the geometric mean of a
    trajectory's. Paper: the first three, token is best."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        self.refuse_contradictions()
        if self.ratio != "token" and self.ratio_to == "behaviour":
            raise ValueError(
                f"algorithm.ratio: {self.ratio} multiplies what sampler and trainer compute differently over all its tokens (in "
                "bfloat16 0.02 nats a token); set algorithm.ratio_to: recomputed"
            )
        if 0 < self.dual_clip <= 1:
            raise ValueError(f"algorithm.dual_clip ({self.dual_clip}): more than 1, such as 3, or 0 for no bound")
        return self


class Objective(WeighedObjective):
    """min(r A, clip(r, 1 - eps, 1 + eps) A), each token's times its importance weight."""

    Settings = Settings

    @property
    def needs_whole_sequences(self) -> bool:
        return self.settings.ratio != "token" or super().needs_whole_sequences

    def __call__(self, logprobs_N: Tensor, batch: Batch) -> Terms:
        columns_N, settings = batch.columns_N, self.settings
        reference_N = columns_N[settings.ratio_to]
        surrogate = clipped_surrogate(
            log_ratio(logprobs_N, reference_N, settings.ratio, batch),
            columns_N["advantage"],
            settings.clip_epsilon,
            settings.clip_high,
            settings.dual_clip,
        )
        importance_N = token_factors(settings, reference_N, columns_N["behaviour"], batch)
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


@dataclass(frozen=True)
class Surrogate:
    """Per-token terms of the objective."""

    objective_N: Tensor
    """min(r A, clip(r) A), bounded from below by dual-clip; carries the gradient."""
    log_ratio_N: Tensor
    """log r, detached."""
    clipped_N: Tensor
    """True where a bound is the smaller term, or dual-clip's the larger, so the token gives no gradient."""


def clipped_surrogate(
    log_ratio_N: Tensor,
    advantages_N: Tensor,
    clip_epsilon: float,
    clip_high: float | None = None,
    dual_clip: float = 0.0,
) -> Surrogate:
    """min(r A, clip(r, 1-eps, 1+eps) A).

    PPO, arXiv 1707.06347, equation 7, with the episode's advantage at each of its tokens, as in LOOP, arXiv 2502.01600,
    Algorithm 1.

    Args:
        log_ratio_N: log r, float32, with gradient.
        advantages_N: float32.
        clip_epsilon: half-width of the range in which the ratio counts.
        clip_high: of its upper half; None is the same. Clip-higher, DAPO, arXiv 2503.14476, equation 10.
        dual_clip: c, for A < 0: max(min(r A, clip(r) A), c A); 0 is none. Dual-clip PPO, arXiv 1912.09729, equation 3.
    """
    ratio_N = log_ratio_N.exp()
    clipped_ratio_N = ratio_N.clamp(1 - clip_epsilon, 1 + (clip_epsilon if clip_high is None else clip_high))
    free_N, bounded_N = ratio_N * advantages_N, clipped_ratio_N * advantages_N
    objective_N, clipped_N = free_N.minimum(bounded_N), bounded_N < free_N
    if dual_clip:
        floor_N = (dual_clip * advantages_N).where(advantages_N < 0, -float("inf"))
        clipped_N = clipped_N | (objective_N < floor_N)
        objective_N = objective_N.maximum(floor_N)
    return Surrogate(objective_N, log_ratio_N.detach(), clipped_N.detach())
