"""Log-likelihood of what was done, weighted by its advantage: REINFORCE, RLOO, and with advantage 1 imitation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loop_rl.algorithms.protocols import Batch, Terms
from loop_rl.algorithms.protocols import Objective as Base

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Base):
    """A log pi.

    Its gradient is that of REINFORCE with the advantage as its return: RLOO, arXiv 2402.14740, equation 7, as LOOP has it in
    arXiv 2502.01600, equation 2, where the tokens were sampled by the policy that is trained. With A = 1 it is the cross-entropy
    of supervised fine-tuning.
    """

    def __call__(self, logprobs_N: Tensor, batch: Batch) -> Terms:
        return Terms(
            objective_N=batch.columns_N["advantage"] * logprobs_N, means={"logprob_mean": logprobs_N.detach().double()}
        )
