"""Staying near the untouched model: the KL divergence to it costs something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from loop_rl.algorithms.protocols import Batch, Terms
from loop_rl.algorithms.protocols import Penalty as Base
from loop_rl.config.base import Section

if TYPE_CHECKING:
    from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


class Settings(Section):
    """Of `penalties: [kl]`."""

    kl_coefficient: float = Field(0.04, gt=0)
    """beta. GRPO: 0.04 (Shao et al., which the paper refers to)."""
    kl_estimator: Estimator = "k3"
    """What stands for the divergence at a token: k1, k2 or k3 of Schulman's note."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where it is taken off: every token's objective, or the reward: token by token where a critic gives the advantages, else
    the rollout's, summed over its tokens."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        if self.kl_estimator == "k1" and self.kl_in == "loss":
            raise ValueError(
                "algorithm.kl_estimator: k1 has a gradient that is 0 in expectation, whatever the divergence, with algorithm.kl_in: "
                "loss; set kl_in: reward, or take k3"
            )
        return self


class Penalty(Base):
    """beta KL(theta || reference), the reference being the model without its adapter."""

    Settings = Settings

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"reference"}) if self.settings.kl_in == "loss" else frozenset()

    @property
    def charges(self) -> frozenset[str]:
        return frozenset({"reference", "recomputed"}) if self.settings.kl_in == "reward" else frozenset()

    def __call__(self, logprobs_N: Tensor, batch: Batch) -> Terms:
        if self.settings.kl_in == "reward":
            return Terms(logprobs_N.new_zeros(logprobs_N.shape))
        kl_N = kl(logprobs_N, batch.columns_N["reference"], self.settings.kl_estimator)
        return Terms(self.settings.kl_coefficient * kl_N, means={"kl_to_base": kl_N.detach().double()})

    def charge(self, columns_N: Mapping[str, Tensor]) -> Tensor:
        kl_N = kl(columns_N["recomputed"], columns_N["reference"], self.settings.kl_estimator)
        return self.settings.kl_coefficient * kl_N.double()


def kl(logprobs_N: Tensor, reference_N: Tensor, estimator: Estimator) -> Tensor:
    """[N], what stands at each token for KL(theta || reference), tokens being samples of theta; d = log theta - log reference.

    k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d: Schulman, "Approximating KL divergence" (2020). k3 is GRPO's, arXiv 2402.03300,
    equation 4; the gradient of k2 is that of the divergence itself.
    """
    d_N = logprobs_N - reference_N
    if estimator == "k1":
        return d_N
    return d_N**2 / 2 if estimator == "k2" else (-d_N).expm1() + d_N
