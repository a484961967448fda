"""CISPO: every token keeps its gradient, and what is clipped is its weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from loop_rl.algorithms.importance import ImportanceSettings, WeighedObjective, token_factors
from loop_rl.algorithms.protocols import Batch, Terms

if TYPE_CHECKING:
    from torch import Tensor


class Settings(ImportanceSettings):
    """Of `objective: cispo`."""

    max_ratio: float = Field(1.28, gt=0)
    """The ratio that weighs a token's log-probability is cut to this."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        self.refuse_contradictions()
        return self


class Objective(WeighedObjective):
    """sg(min(r, max_ratio)) A log pi, each token's times its importance weight.

    MiniMax-M1, arXiv 2506.13585, equations 4 and 5, without a lower bound, as there. sg: without gradient. Where PPO's clip
    silences a rare token once and for all, here it goes on teaching with a bounded weight.
    """

    Settings = Settings

    def __call__(self, logprobs_N: Tensor, batch: Batch) -> Terms:
        columns_N, settings = batch.columns_N, self.settings
        reference_N = columns_N[settings.ratio_to]
        log_ratio_N = logprobs_N.detach() - reference_N
        ratio_N = log_ratio_N.exp()
        importance_N = token_factors(settings, reference_N, columns_N["behaviour"], batch)
        cut_N = ratio_N > settings.max_ratio
        log_ratio_64_N = log_ratio_N.double()
        return Terms(
            objective_N=importance_N * ratio_N.clamp(max=settings.max_ratio) * columns_N["advantage"] * logprobs_N,
            means={
                "ratio_mean": ratio_N.double(),
                "clip_share": cut_N,
                "approx_kl": log_ratio_64_N.expm1() - log_ratio_64_N,  # as in `clipped`
            },
            maxima={"ratio_max": ratio_N.double()},
            shown={"ratio": ratio_N, "clipped": cut_N, "importance": importance_N},
        )
