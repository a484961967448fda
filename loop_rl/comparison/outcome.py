"""What came of one finished run."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.parquet as pq

from loop_rl.config.settings import Config
from loop_rl.store.metrics import read_metrics
from loop_rl.store.run_dir import RunDir


@dataclass(frozen=True)
class Outcome:
    """Of one method with one seed."""

    units: dict[str, float]
    """Share of held-out tasks done by the last version, by what the environment takes as independent: a task, or a family."""
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


def is_finished(config: Config) -> bool:
    """Whether the run is done, its last evaluation included."""
    run, last = RunDir(config.run_dir), config.trainer.num_iterations
    return run.evaluation_file(last, config.evaluation.split).exists()


def read_outcome(run: RunDir, config: Config, unit: str) -> Outcome:
    """Of a finished run.

    unit: column of evaluated rollouts whose values are independent of each other: "task_id" or "family".
    """
    split, last = config.evaluation.split, config.trainer.num_iterations
    after = _success_by(run, last, split, unit)
    before = _success_by(run, 0, split, "task_id")
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


def _success_by(run: RunDir, version: int, split: str, column: str) -> dict[str, list[bool]]:
    table = pq.read_table(run.evaluation_file(version, split).with_suffix(".parquet"), columns=[column, "success"])
    found: dict[str, list[bool]] = {}
    for name, success in zip(table[column].to_pylist(), table["success"].to_pylist(), strict=True):
        found.setdefault(name, []).append(success)
    return found
