"""What an evaluation on AppWorld says."""

from __future__ import annotations

from collections.abc import Sequence

from appworld_tasks.goal_completion import goal_completion
from loop_rl.data.rollout import Rollout, Usage
from loop_rl.environments.appworld.ends import TAMPERED
from loop_rl.environments.appworld.failures import Evidence, count_causes, failed_tests
from loop_rl.environments.figures import cost, outcomes
from loop_rl.environments.protocol import Task


def describe(tasks: Sequence[Task], rollouts: Sequence[Rollout]) -> dict:
    """TGC and SGC as fractions with 95% intervals, overall ("all") and by difficulty; return; how episodes ended."""
    successes = {rollout.task_id: rollout.success for rollout in rollouts}
    completion = goal_completion(successes, {task.task_id: int(task.labels["difficulty"]) for task in tasks})
    figures: dict = {"TGC": {}, "SGC": {}}
    for level, estimate in completion.items():
        for name, figure in (("TGC", estimate.task), ("SGC", estimate.scenario)):
            interval = {"value": figure.value, "low": figure.low, "high": figure.high}
            figures[name][level] = interval | {"num": figure.num}
    figures |= outcomes(rollouts)
    figures["num_tampered"] = figures["end_reasons"].get(TAMPERED, 0)
    return figures


def analyse(rollouts: Sequence[Rollout], usages: Sequence[Usage], evidence: Evidence) -> dict:
    """What episodes cost and why tasks failed; docs/metrics.md explains every figure.

    usages: one of each rollout, in the same order.
    """
    return {
        **cost(rollouts, usages),
        "failures": count_causes(rollouts, evidence),
        "failed_tests": failed_tests(rollouts),
    }
