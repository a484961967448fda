"""DPO's objective on pairs of whole episodes, and DMPO's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from pydantic import Field

from loop_rl.algorithms.protocols import Batch, Terms
from loop_rl.algorithms.protocols import Objective as Base
from loop_rl.config.base import Section

if TYPE_CHECKING:
    from torch import Tensor


class Settings(Section):
    """Of `objective: preference`."""

    beta: float = Field(0.1, gt=0)
    """How far the policy may go for a preference: the smaller, the further. DMPO's authors: 0.1."""
    preferred_to: Literal["recomputed", "reference"] = "recomputed"
    """The policy that log-ratios are taken to: that which the iteration starts from, or the untouched model. Paper: the first."""


class Objective(Base):
    """log sigmoid(beta (sum over the better one's tokens of w log r - the same of the worse one's)), at every token of both.

    r = pi_theta / pi_ref. DPO, arXiv 2305.18290, equation 7, with w = 1; DMPO, arXiv 2406.14868, with w of the token's turn, which
    the column "preference" holds with the sign of its side.
    """

    Settings = Settings
    compares_pairs = True
    needs_whole_sequences = True

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"preference", self.settings.preferred_to})

    def __call__(self, logprobs_N: Tensor, batch: Batch) -> Terms:
        log_ratio_N = logprobs_N - batch.columns_N[self.settings.preferred_to]
        margin_N = self.settings.beta * batch.sum_by(batch.columns_N["preference"] * log_ratio_N, "pair")
        return Terms(
            objective_N=F.logsigmoid(margin_N),
            means={
                "preference_margin": margin_N.detach().double(),
                "preference_accuracy": (margin_N.detach() > 0).double(),
            },
        )
