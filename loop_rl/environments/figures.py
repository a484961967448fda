"""What an evaluation says in every environment."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from appworld_tasks.goal_completion import Z_95, task_goal_completion
from loop_rl.data.rollout import Rollout, Usage
from loop_rl.environments.protocol import Task


def outcomes(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Mean return, how many tasks there are and how many failed, and how episodes ended."""
    return {
        "return": sum(rollout.reward for rollout in rollouts) / len(rollouts),
        "num_tasks": len(rollouts),
        "num_failed": sum(not rollout.success for rollout in rollouts),
        "end_reasons": dict(Counter(str(rollout.end_reason) for rollout in rollouts).most_common()),
    }


def cost(rollouts: Sequence[Rollout], usages: Sequence[Usage]) -> dict[str, float]:
    """Turns and tokens of a task. usages: one of each rollout, in the same order."""
    return {
        "turns_per_task": sum(len(rollout.turns) for rollout in rollouts) / len(rollouts),
        "action_tokens_per_task": sum(usage.action_tokens for usage in usages) / len(rollouts),
        "tokens_per_task": sum(usage.tokens for usage in usages) / len(rollouts),
    }


def success_rate(tasks: Sequence[Task], rollouts: Sequence[Rollout]) -> dict[str, dict[str, float]]:
    """Fraction of tasks that succeed, of all ("all") and of those of each value of their label, with 95% intervals
    (Wilson 1927). Tasks must be independent of each other."""
    label_of = {task.task_id: next(iter(task.labels.values()), "") for task in tasks}
    groups = {"all": rollouts}
    for label in sorted({*label_of.values()} - {""}):
        groups[label] = [rollout for rollout in rollouts if label_of[rollout.task_id] == label]
    return {name: share([rollout.success for rollout in group]) for name, group in groups.items()}


def share(done: Sequence[bool]) -> dict[str, float]:
    """Of independent tasks, with Wilson's 95% interval."""
    # By number: AppWorld's measure takes what stands before a "_" in an id for a scenario, whose tasks are not independent.
    return asdict(task_goal_completion({str(number): is_done for number, is_done in enumerate(done)}))


def mean(shares: Sequence[float]) -> dict[str, float]:
    """Of shares in [0, 1] of independent tasks, with a 95% interval by the normal distribution."""
    value = statistics.fmean(shares)
    half = Z_95 * statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else 0.0
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "num": len(shares)}
