"""The importance ratio of a token, of its whole turn, or of its whole trajectory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from loop_rl.algorithms.protocols import Batch

if TYPE_CHECKING:
    from torch import Tensor

Level = Literal["token", "turn", "trajectory", "gspo"]


def log_ratio(logprobs_N: Tensor, reference_N: Tensor, level: Level, batch: Batch) -> Tensor:
    """[N], for each token log of prod r_t over the tokens t of its `level`, r_t = exp(logprobs - reference).

    LOOP, arXiv 2502.01600, section 4 and figure 2: the ratio of a turn or trajectory is the product of those of its
    tokens, and all of these share it, and one decision of the clip. "gspo": the geometric mean of a trajectory's, GSPO, arXiv
    2507.18071, equation 7.

    Args:
        logprobs_N: under the policy being trained, float32, with gradient.
        reference_N: under the policy that the ratio is to, float32.
    """
    log_ratio_N = logprobs_N - reference_N
    if level == "token":
        return log_ratio_N
    if level == "gspo":
        lengths_N = batch.sum_by(reference_N.new_ones(reference_N.shape), "trajectory")
        return batch.sum_by(log_ratio_N, "trajectory") / lengths_N
    return batch.sum_by(log_ratio_N, level)
