"""What the trainer computes of rollouts before there are advantages: what penalties take off rewards, a critic's values, errors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch

from loop_rl.algorithms.protocols import Penalty
from loop_rl.data.rollout import Group, Rollout, Turn
from loop_rl.data.samples import Sample
from loop_rl.training.trainer import Trainer


def known_columns(
    trainer: Trainer,
    groups: Sequence[Group],
    names: Collection[str],
    penalties: Sequence[Penalty],
    has_failed: Callable[[Turn], bool],
) -> dict[str, dict[str, list[float]]]:
    """By the id of each rollout what is known of its action tokens before there are advantages. Every rank must call it.

    names: "value", what the critic expects; "next_value", what it expects after them, one number; "failed", whether the environment says so of the token's turn; "charge", what the
        penalties take off the reward there, known in any case.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    found = {rollout.rollout_id: {"charge": [0.0] * rollout.num_action_tokens} for rollout in rollouts}
    if charged := sorted(frozenset().union(*(penalty.charges for penalty in penalties))):
        _add(found, "charge", rollouts, lambda samples: _charges(trainer, samples, penalties, charged))
    if "value" in names:
        _add(found, "value", rollouts, trainer.values)
    if "next_value" in names:
        cut = [rollout for rollout in rollouts if rollout.next_ids]
        prompts = [Sample.of_prompt(rollout.rollout_id, rollout.next_ids) for rollout in cut]
        following = dict(zip([r.rollout_id for r in cut], trainer.values(prompts) if prompts else [], strict=True))
        for rollout in rollouts:
            found[rollout.rollout_id]["next_value"] = following.get(rollout.rollout_id, [0.0])
    if "failed" in names:
        for rollout in rollouts:
            found[rollout.rollout_id]["failed"] = [float(has_failed(t)) for t in rollout.turns for _ in t.action_ids]
    return found


def _add(
    found: dict[str, dict[str, list[float]]],
    name: str,
    rollouts: Sequence[Rollout],
    compute: Callable[[list[Sample]], list[list[float]]],
) -> None:
    """Give every rollout a column, from what is computed of each of its samples."""
    samples = [sample for rollout in rollouts for sample in rollout.samples()]
    columns: dict[str, list[float]] = {rollout.rollout_id: [] for rollout in rollouts}
    for sample, numbers in zip(samples, compute(samples) if samples else [], strict=True):
        columns[sample.rollout_id] += numbers
    for rollout_id, column in columns.items():
        found[rollout_id][name] = column


def _charges(
    trainer: Trainer, samples: Sequence[Sample], penalties: Sequence[Penalty], names: Sequence[str]
) -> list[list[float]]:
    for name in names:
        trainer.add_column(samples, name)
    charges = []
    for sample in samples:
        columns_N = {name: torch.tensor(sample.columns[name]) for name in names}
        charges.append(sum(penalty.charge(columns_N) for penalty in penalties if penalty.charges).tolist())
    return charges
