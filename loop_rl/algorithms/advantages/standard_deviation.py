"""Division of a group's advantages by how far its rewards lie apart; no estimator of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

_SMALLEST = 1e-7


def divided_by_std(advantages_K: Sequence[float], rewards_K: Sequence[float]) -> list[float]:
    """A_k / max(std of R, 1e-7), the standard deviation of a population (divided by K).

    GRPO, arXiv 2402.03300, section 4.1.2; LOOP RwNorm of arXiv 2502.01600, with the smallest divisor of its released code. It
    makes groups count alike however far their rewards lie apart: a group with one failed unit test of twenty as much as one with
    all or nothing.
    """
    mean = math.fsum(rewards_K) / len(rewards_K)
    std = math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards_K) / len(rewards_K))
    return [advantage / max(std, _SMALLEST) for advantage in advantages_K]
