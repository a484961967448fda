"""An algorithm of one's own: REINFORCE with what is still to come as the return of an action."""

from __future__ import annotations

from pydantic import Field

from loop_rl.algorithms.protocols import AdvantageEstimator, Objective, Terms
from loop_rl.config.base import Section


class ToGo(AdvantageEstimator):
    """What an action's turn and those after it are worth, against the mean of the group: a number for each token."""

    def __call__(self, rollouts_K):
        mean = sum(rollout.reward for rollout in rollouts_K) / len(rollouts_K)
        columns_K = []
        for rollout in rollouts_K:
            advantages, left = [], rollout.reward
            for turn in rollout.turns:
                advantages += [left - mean] * len(turn.action_ids)
                left -= turn.reward
            columns_K.append({"advantage": advantages})
        return columns_K


class Settings(Section):
    """They stand in the `algorithm` section."""

    strength: float = Field(1.0, gt=0)
    """What the objective is multiplied by."""


class Reinforce(Objective):
    """A log pi."""

    Settings = Settings

    def __call__(self, logprobs_N, batch):
        objective_N = self.settings.strength * batch.columns_N["advantage"] * logprobs_N
        return Terms(
            objective_N, means={"logprob_mean": logprobs_N.detach()}, shown={"advantage": objective_N.detach()}
        )
