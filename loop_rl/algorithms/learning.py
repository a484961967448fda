"""The objective of a run: the one that its config names, less its penalties; and the advantages, whatever they need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from loop_rl.algorithms.protocols import AdvantageEstimator, Batch, Columns, Objective, Penalty, Terms
from loop_rl.config.parts import OBJECTIVE, PENALTIES, make_part, make_parts
from loop_rl.config.settings import Config
from loop_rl.data.rollout import Group
from loop_rl.data.samples import Column

if TYPE_CHECKING:
    from torch import Tensor


def make_objective(config: Config) -> Objective:
    """What the trainer maximises."""
    objective, penalties = make_part(OBJECTIVE, config), make_parts(PENALTIES, config)
    return Penalised(objective, penalties) if penalties else objective


def advantages_of(
    estimator: AdvantageEstimator, groups: Sequence[Group], known: Mapping[str, Columns]
) -> dict[str, dict[str, Column]]:
    """The columns of every rollout of an iteration, by its id. known: by the same, what the estimator reads, and the "charge" of
    penalties on the reward."""
    columns: dict[str, dict[str, Column]] = {}
    for group in groups:
        rollouts_K, columns_K = group.rollouts, [known[rollout.rollout_id] for rollout in group.rollouts]
        if "charge" not in estimator.reads:
            rollouts_K = [
                replace(rollout, score=rollout.score - math.fsum(of_rollout["charge"]))
                for rollout, of_rollout in zip(rollouts_K, columns_K, strict=True)
            ]
        found_K = estimator(rollouts_K, columns_K) if estimator.reads else estimator(rollouts_K)
        columns |= {rollout.rollout_id: found for rollout, found in zip(rollouts_K, found_K, strict=True)}
    return estimator.over_iteration(columns)


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
