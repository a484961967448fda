"""From a number per token to the loss of a minibatch."""

from __future__ import annotations

from torch import Tensor


def policy_loss(objective_N: Tensor, weights_N: Tensor) -> Tensor:
    """Minus the objective's mean over rollouts of its mean over a rollout's action tokens.

    weights_N holds 1 / (num_rollouts * |a|), with num_rollouts that of the whole minibatch and |a| the action tokens of
    the token's own rollout. A minibatch may so be cut into any parts: their losses add up to the minibatch's loss.
    """
    return -(weights_N * objective_N).sum()
