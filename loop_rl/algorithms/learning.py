"""The objective of a run: the one that its config names, less its penalties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from loop_rl.algorithms.protocols import Batch, Objective, Penalty, Terms
from loop_rl.config.parts import OBJECTIVE, PENALTIES, make_part, make_parts
from loop_rl.config.settings import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def make_objective(config: Config) -> Objective:
    """What the trainer maximises."""
    objective, penalties = make_part(OBJECTIVE, config), make_parts(PENALTIES, config)
    return Penalised(objective, penalties) if penalties else objective


class Penalised(Objective):
    """An objective, less penalties."""

    def __init__(self, objective: Objective, penalties: Sequence[Penalty]) -> None:
        super().__init__(objective.settings)
        self._objective, self._penalties = objective, penalties
        self.compares_pairs = objective.compares_pairs

    @property
    def reads(self) -> frozenset[str]:
        return self._objective.reads.union(*(penalty.reads for penalty in self._penalties))

    @property
    def needs_whole_sequences(self) -> bool:
        return self._objective.needs_whole_sequences

    @property
    def needs_entropies(self) -> bool:
        return any(penalty.needs_entropies for penalty in self._penalties)

    def __call__(self, logprobs_N: Tensor, batch: Batch) -> Terms:
        terms = self._objective(logprobs_N, batch)
        for penalty in self._penalties:
            less = penalty(logprobs_N, batch)
            terms = replace(
                terms, objective_N=terms.objective_N - less.objective_N, means={**terms.means, **less.means}
            )
        return terms

    def describe(self, columns_M: Mapping[str, Tensor]) -> dict[str, float]:
        return self._objective.describe(columns_M)
