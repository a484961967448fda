"""What came of one finished run."""

from __future__ import annotations

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
    """Share of held-out tasks done by the run's result (the last version, or the selected one), by what the environment takes as independent: a task, or a family."""
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
    after: dict[str, list[bool]] = {}
    for evaluation in final_evaluations(config, result_version(run, config)):
        if evaluation.split == split:
            for name, successes in _success_by(evaluation.file(run), unit).items():
                after.setdefault(name, []).extend(successes)
    before = _success_by(run.evaluation_file(0, split), "task_id")
    metrics = read_metrics(run)
    times = ("time/wait_s", "time/train_s", "time/publish_s")
    return Outcome(
        {name: sum(values) / len(values) for name, values in after.items()},
        sum(sum(values) for values in before.values()) / sum(len(values) for values in before.values()),
        sum(line["rollout/num_rollouts"] for line in metrics),
        sum(line["rollout/num_rollouts"] * line["rollout/action_tokens"] for line in metrics),
        sum(line["policy/num_steps"] for line in metrics),
        sum(line[name] for line in metrics for name in times),
    )


def _success_by(figures: Path, column: str) -> dict[str, list[bool]]:
    """Of the rollouts of an evaluation, whose figures' file this is."""
    table = pq.read_table(figures.with_suffix(".parquet"), columns=[column, "success"])
    found: dict[str, list[bool]] = {}
    for name, success in zip(table[column].to_pylist(), table["success"].to_pylist(), strict=True):
        found.setdefault(name, []).append(success)
    return found
