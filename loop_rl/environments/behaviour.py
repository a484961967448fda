"""What an agent does in its episodes, beside how well it does: ratios of counts, which add up over rollouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class TextTurn(Protocol):
    """What of a `loop_rl.data.rollout.Turn` is looked at."""

    action_text: str
    executed: str
    observation: str
    log: Sequence[str]
    valid: bool


@dataclass(frozen=True)
class Ratio:
    """One behaviour as a ratio of two counts."""

    label: str
    numerator: str
    denominator: str
    percent: bool
    definition: str

    def value(self, counts: Mapping[str, int]) -> float | None:
        """The ratio; None where the denominator is 0, or was not counted."""
        denominator = counts.get(self.denominator)
        return counts.get(self.numerator, 0) / denominator if denominator else None


TURNS = Ratio("turns per rollout", "turns", "rollouts", False, "Actions of the agent.")
ACTION_TOKENS = Ratio("action tokens per rollout", "action_tokens", "rollouts", False, "Tokens that the agent wrote.")
VALID_ACTIONS = Ratio(
    "valid actions",
    "valid",
    "turns",
    True,
    "Share of turns whose text named an action; in place of others a default is done.",
)


def count(turns: Sequence[TextTurn], num_action_tokens: int) -> Counter[str]:
    """What can be counted of one rollout in every environment."""
    return Counter(
        rollouts=1, turns=len(turns), action_tokens=num_action_tokens, valid=sum(turn.valid for turn in turns)
    )
