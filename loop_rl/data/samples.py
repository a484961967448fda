"""What is trained on: token sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A rollout ready for training: its tokens and its advantage."""

    sequence: TokenSequence
    advantage: float
    proximal_logprobs: Sequence[float] | None = None
    """Of the action tokens, where the importance ratio is not to the behaviour policy."""

    @property
    def num_tokens(self) -> int:
        return len(self.sequence.token_ids)


@dataclass(frozen=True)
class TokenSequence:
    """A rollout laid out flat; the four lists have the same length T."""

    token_ids: list[int]
    action_mask: list[bool]
    """True where the policy wrote the token; prompts and REPL output are context."""
    logprobs: list[float]
    """Behaviour log-probability; 0 at context tokens."""
    versions: list[int]
    """Policy version that sampled the token; -1 at context tokens."""
