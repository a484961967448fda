"""What is trained on: token sequences, with a number for every action token under each name that a formula asks for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

Column = float | Sequence[float]
"""A number for every action token of a rollout, in order, or one number for all of them."""


@dataclass
class Sample:
    """One sequence of T tokens, N of them actions."""

    rollout_id: str
    rollout_tokens: int
    """Action tokens of the whole rollout, of which these N are all or a part; what a mean over rollouts divides by."""
    rollout_turns: int
    """Turns of the whole rollout that hold action tokens; what a mean over turns divides by."""
    token_ids: list[int] = field(default_factory=list)
    """[T]"""
    action_mask: list[bool] = field(default_factory=list)
    """[T], True where the policy wrote the token; what it read is context."""
    turns: list[int] = field(default_factory=list)
    """[N], index of the turn that the action token belongs to."""
    versions: list[int] = field(default_factory=list)
    """[N], policy version that sampled it."""
    columns: dict[str, list[float]] = field(default_factory=dict)
    """[N] each, by name: "behaviour", the log-probability that it was sampled with; "advantage"; ..."""
    group_id: int = -1
    """Of the rollout."""

    @classmethod
    def of_actions(cls, rollout_id: str, token_ids: list[int], columns: Collection[str] = ()) -> Sample:
        """Made up, for a forward that no rollout is needed for: the first token is context, all others are actions of one turn,
        sampled by no version; the columns are 0."""
        num_actions = len(token_ids) - 1
        return cls(
            rollout_id,
            rollout_tokens=num_actions,
            rollout_turns=1,
            token_ids=token_ids,
            action_mask=[False] + [True] * num_actions,
            turns=[0] * num_actions,
            versions=[-1] * num_actions,
            columns={name: [0.0] * num_actions for name in columns},
        )

    @classmethod
    def of_prompt(cls, rollout_id: str, token_ids: list[int]) -> Sample:
        """A prompt, behind which one token stands for whatever would be written: for the value of the state before it."""
        action_mask = [False] * len(token_ids) + [True]
        return cls(rollout_id, 1, 1, [*token_ids, 0], action_mask, turns=[0], versions=[-1])

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_ids)

    @property
    def num_action_tokens(self) -> int:
        """N."""
        return len(self.versions)
