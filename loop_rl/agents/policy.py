"""What an agent needs of a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Policy(Protocol):
    """What the agent needs of `loop_rl.serving.client.PolicyClient`."""

    async def sample(
        self, prompt_ids: list[int], max_tokens: int, temperature: float, seed: int, version: int | None
    ) -> Generation: ...


class ContextFull(RuntimeError):
    """The policy cannot read a conversation of this length; the episode is at its end."""


class PolicyError(RuntimeError):
    """No server answers, or one answers with nonsense. Ends the run: no episode may be scored for it."""


@dataclass(frozen=True)
class Generation:
    """What the policy wrote in one turn."""

    token_ids: list[int]
    """The end-of-turn token included when it was sampled."""
    logprobs: list[float]
    """Log-probability of each token under the distribution that it was sampled from."""
    policy_version: int
