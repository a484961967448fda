"""What the trainer made of a rollout, token by token."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TokenValues:
    """What the trainer computed at a rollout's action tokens, in the order of `Rollout.samples`, as of the last
    epoch, before the step that used it."""

    logprobs: list[float]
    """log pi_theta."""
    entropies: list[float]
    """Of the policy's distribution, in nats."""

    def __add__(self, other: TokenValues) -> TokenValues:
        """Of the tokens of one rollout, cut in two."""
        return TokenValues(self.logprobs + other.logprobs, self.entropies + other.entropies)


@dataclass(frozen=True)
class RolloutUpdate:
    """One rollout of the iteration, trained on or not."""

    rollout_id: str
    advantage: float
    """Where each action token has its own, their mean."""
    trained: bool
    """False where the filter dropped the rollout or it held no action token; the two lists are then empty."""
    logprobs: list[float]
    entropies: list[float]
    """As in `TokenValues`."""
    advantages: list[float] = field(default_factory=list)
    """Of each action token, where they are not all `advantage`."""
