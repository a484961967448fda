"""What the trainer computes of rollouts before there are advantages: what penalties take off rewards, a critic's values, errors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch

from loop_rl.algorithms.protocols import Penalty
from loop_rl.data.rollout import Group, Rollout, Turn
from loop_rl.training.trainer import Trainer


def charge_rollouts(trainer: Trainer, groups: Sequence[Group], penalties: Sequence[Penalty]) -> dict[str, float]:
    """By the id of each rollout what its reward is lowered by; empty where no penalty is on rewards. Every rank must call it."""
    names = sorted(frozenset().union(*(penalty.charges for penalty in penalties)))
    if not names:
        return {}
    samples = [sample for group in groups for rollout in group.rollouts for sample in rollout.samples()]
    for name in names:
        trainer.add_column(samples, name)
    charges = {rollout.rollout_id: 0.0 for group in groups for rollout in group.rollouts}
    for sample in samples:
        columns_N = {name: torch.tensor(sample.columns[name]) for name in names}
        charges[sample.rollout_id] += sum(penalty.charge(columns_N) for penalty in penalties if penalty.charges)
    return charges


def less(rollout: Rollout, charges: Mapping[str, float]) -> Rollout:
    """The rollout with its reward lowered."""
    return replace(rollout, score=rollout.score - charges.get(rollout.rollout_id, 0.0)) if charges else rollout


def known_columns(
    trainer: Trainer, groups: Sequence[Group], names: Collection[str], has_failed: Callable[[Turn], bool]
) -> dict[str, dict[str, list[float]]]:
    """By the id of each rollout what is known of its action tokens before there are advantages. Every rank must call it.

    names: "value", what the critic expects; "failed", whether the environment says so of the token's turn.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    found: dict[str, dict[str, list[float]]] = {r.rollout_id: {name: [] for name in names} for r in rollouts}
    if "value" in names and (samples := [sample for rollout in rollouts for sample in rollout.samples()]):
        for sample, values in zip(samples, trainer.values(samples), strict=True):
            found[sample.rollout_id]["value"] += values
    if "failed" in names:
        for rollout in rollouts:
            for turn in rollout.turns:
                found[rollout.rollout_id]["failed"] += [float(has_failed(turn))] * len(turn.action_ids)
    return found
