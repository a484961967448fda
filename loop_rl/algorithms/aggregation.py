"""From a number per token to the loss of a minibatch: what a token counts, so that the parts of a minibatch add up to its mean."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from loop_rl.data.samples import Sample

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["rollout", "turn", "token", "sum"]


@dataclass(frozen=True)
class Average:
    """What counts alike in a minibatch."""

    kind: Kind = "rollout"
    tokens: int = 1
    """What "sum" divides a rollout's sum by."""
    full_rollouts: int = 0
    """Rollouts of a full minibatch, where a shorter one is divided by as many; 0: by its own."""


@dataclass(frozen=True)
class Size:
    """Of a whole minibatch, over all ranks."""

    num_rollouts: int
    num_action_tokens: int


def token_weights(sample: Sample, average: Average, minibatch: Size) -> list[float]:
    """[N], what each action token of a sample counts in the mean over the minibatch.

    `rollout`: mean over rollouts of the mean over a rollout's action tokens; LOOP, arXiv 2502.01600, Algorithm 1.
    `turn`: mean over rollouts of the mean over turns of the mean over a turn's action tokens.
    `token`: mean over all action tokens, so that long rollouts weigh more; DAPO, arXiv 2503.14476, equation 8.
    `sum`: mean over rollouts of the sum over a rollout's action tokens, divided by a constant; with 1 the sum of RLOO, arXiv
        2502.01600, equation 2, with the most tokens a rollout can have Dr. GRPO, arXiv 2503.20783.

    With `full_rollouts` a minibatch of fewer rollouts counts as if the missing ones were there and weighed nothing.
    """
    share = minibatch.num_rollouts / average.full_rollouts if average.full_rollouts else 1.0
    if average.kind == "token":
        return [share / minibatch.num_action_tokens] * sample.num_action_tokens
    if average.kind == "rollout":
        return [share / (minibatch.num_rollouts * sample.rollout_tokens)] * sample.num_action_tokens
    if average.kind == "sum":
        return [share / (minibatch.num_rollouts * average.tokens)] * sample.num_action_tokens
    length_of = Counter(sample.turns)
    return [share / (minibatch.num_rollouts * sample.rollout_turns * length_of[turn]) for turn in sample.turns]


def policy_loss(objective_N: Tensor, weights_N: Tensor) -> Tensor:
    """Minus the objective's mean over a minibatch, or the part of it that these N tokens make up.

    weights_N: of `token_weights`. A minibatch may be cut into any parts: their losses add up to the minibatch's loss.
    """
    return -(weights_N * objective_N).sum()
