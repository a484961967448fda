"""Keeping the policy undecided: entropy is worth something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from loop_rl.algorithms.protocols import Batch, Terms
from loop_rl.algorithms.protocols import Penalty as Base
from loop_rl.config.base import Section

if TYPE_CHECKING:
    from torch import Tensor


class Settings(Section):
    """Of `penalties: [entropy]`."""

    entropy_coefficient: float = Field(1e-3, gt=0)
    """What a nat of a token's entropy is worth."""


class Penalty(Base):
    """-c H: PPO's entropy bonus, arXiv 1707.06347, equation 9."""

    Settings = Settings
    needs_entropies = True

    def __call__(self, logprobs_N: Tensor, batch: Batch) -> Terms:
        return Terms(-self.settings.entropy_coefficient * batch.entropies_N)
