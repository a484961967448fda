"""What an evaluation on AppWorld says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from appworld_tasks.goal_completion import goal_completion
from appworld_tasks.splits import TaskInfo
from loop_rl.data.rollout import EndReason, Rollout, Usage
from loop_rl.environments.appworld.behaviour import Behaviour, count_behaviour
from loop_rl.environments.appworld.failures import Evidence, count_causes, failed_tests


def describe(tasks: Sequence[TaskInfo], rollouts: Sequence[Rollout]) -> dict:
    """TGC and SGC as fractions with 95% intervals, overall ("all") and by difficulty; return; how episodes ended."""
    successes = {rollout.task_id: rollout.success for rollout in rollouts}
    completion = goal_completion(successes, {task.task_id: task.difficulty for task in tasks})
    figures: dict = {"TGC": {}, "SGC": {}}
    for level, estimate in completion.items():
        for name, figure in (("TGC", estimate.task), ("SGC", estimate.scenario)):
            interval = {"value": figure.value, "low": figure.low, "high": figure.high}
            figures[name][level] = interval | {"num": figure.num}
    figures["return"] = sum(rollout.reward for rollout in rollouts) / len(rollouts)
    figures["num_tasks"] = len(rollouts)
    figures["num_failed"] = sum(not rollout.success for rollout in rollouts)
    figures["end_reasons"] = dict(Counter(rollout.end_reason for rollout in rollouts).most_common())
    figures["num_tampered"] = figures["end_reasons"].get(EndReason.TAMPERED, 0)
    return figures


def analyse(rollouts: Sequence[Rollout], usages: Sequence[Usage], evidence: Evidence) -> dict:
    """What episodes cost, why tasks failed, and what the agent does; docs/metrics.md explains every figure.

    usages: one of each rollout, in the same order.
    """
    behaviour = Behaviour()
    for rollout, usage in zip(rollouts, usages, strict=True):
        behaviour += count_behaviour(rollout.turns, rollout.end_reason, usage.action_tokens)
    return {
        "turns_per_task": behaviour.turns / len(rollouts),
        "action_tokens_per_task": behaviour.action_tokens / len(rollouts),
        "tokens_per_task": sum(usage.tokens for usage in usages) / len(rollouts),
        "failures": count_causes(rollouts, evidence),
        "failed_tests": failed_tests(rollouts),
        "behaviour": asdict(behaviour),
    }
