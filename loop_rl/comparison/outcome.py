"""What came of one finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from loop_rl.config.settings import Config
from loop_rl.evaluation.selection import final_evaluations, result_version
from loop_rl.store.metrics import read_metrics
from loop_rl.store.run_dir import RunDir


@dataclass(frozen=True)
class Outcome:
    """Of one method with one seed."""

    units: dict[str, float]
    """Share of held-out tasks done by the run's result (the last version, or the selected one), by what the environment takes as
    independent: a task, or a family."""
    before: float
    """Share of held-out tasks done by version 0."""
    num_rollouts: int
    """Sampled for training."""
    num_tokens: float
    """Written by the policy in these."""
    num_steps: float
    """Of the optimiser."""
    seconds: float
    """Of the trainer, waiting for rollouts included."""


def read_outcome(run: RunDir, config: Config, unit: str) -> Outcome:
    """Of a finished run.

    unit: column of evaluated rollouts whose values are independent of each other: "task_id" or "family".
    """
    split = config.evaluation.split
    final = final_evaluations(config, result_version(run, config))
    units = read_units([evaluation.file(run) for evaluation in final if evaluation.split == split], unit)
    return outcome_of(read_metrics(run), units, read_units([run.evaluation_file(0, split)], "task_id"))


def outcome_of(metrics: Sequence[Mapping[str, float]], units: dict[str, float], before: Mapping[str, float]) -> Outcome:
    """Of the iterations that these lines are of. before: share of each held-out task done by version 0."""
    return Outcome(
        units,
        sum(before.values()) / len(before),
        sum(line["rollout/num_rollouts"] for line in metrics),
        sum(line["rollout/num_rollouts"] * line["rollout/action_tokens"] for line in metrics),
        sum(line["policy/num_steps"] for line in metrics),
        sum(map(_seconds_of, metrics)),
    )


def read_units(figures: Sequence[Path], unit: str) -> dict[str, float]:
    """Share of tasks done by what is independent, of one or more evaluations, whose figures' files these are."""
    found: dict[str, list[bool]] = {}
    for file in figures:
        table = pq.read_table(file.with_suffix(".parquet"), columns=[unit, "success"])
        for name, success in zip(table[unit].to_pylist(), table["success"].to_pylist(), strict=True):
            found.setdefault(name, []).append(success)
    return {name: sum(values) / len(values) for name, values in found.items()}


def version_after(run: RunDir, seconds: float) -> int:
    """The policy version that a run had published after so many seconds of training."""
    spent, version = 0.0, 0
    for line in read_metrics(run):
        spent += _seconds_of(line)
        if spent > seconds:
            break
        version += 1
    return version


def _seconds_of(line: Mapping[str, float]) -> float:
    return line["time/wait_s"] + line["time/train_s"] + line["time/publish_s"]
