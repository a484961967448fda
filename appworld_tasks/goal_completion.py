"""AppWorld's two measures over a set of tasks, with 95% confidence intervals.

Task goal completion (TGC) is the fraction of tasks that succeed; scenario goal completion (SGC) the fraction of
scenarios all of whose tasks succeed. Everything here is a fraction in [0, 1]; AppWorld and the papers print percent,
which is `Estimate.percent`. The numbers equal those of `appworld evaluate`.

Intervals are Wilson's (1927): unlike p +- 1.96 sqrt(p(1-p)/n) they are right near 0 and 1 and for few tasks. SGC counts
scenarios, which are independent. The tasks of one scenario are not, so TGC puts in the *effective* number of tasks
(Korn and Graubard 1998): the number of independent tasks whose mean would vary as much as this one does between
scenarios (cluster-robust variance, as recommended for evaluations of LLMs in arXiv 2411.00640). The intervals tell how
far other tasks of the same kind could differ, not how far another sample from the policy on these tasks could.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

Z_95 = 1.959964  # standard normal quantile for a two-sided 95% interval


@dataclass(frozen=True)
class Estimate:
    """A fraction in [0, 1] and its 95% confidence interval."""

    value: float
    low: float
    high: float
    num: int
    """How many tasks (TGC) or scenarios (SGC) it is the mean of."""

    @property
    def percent(self) -> float:
        """As AppWorld prints it: percent, one decimal."""
        return round(100 * round(self.value, 4), 1)


@dataclass(frozen=True)
class GoalCompletion:
    """Both measures of one set of tasks."""

    task: Estimate
    scenario: Estimate


def goal_completion(successes: Mapping[str, bool], difficulty_of: Mapping[str, int]) -> dict[str, GoalCompletion]:
    """Both measures over all tasks ("all") and over those of each difficulty that occurs ("1", "2", "3").

    successes: task id -> whether all its tests pass; difficulty_of: task id -> difficulty.
    """
    groups = {"all": dict(successes)}
    for difficulty in sorted({difficulty_of[task_id] for task_id in successes}):
        groups[str(difficulty)] = {
            task_id: success for task_id, success in successes.items() if difficulty_of[task_id] == difficulty
        }
    return {
        name: GoalCompletion(task_goal_completion(group), scenario_goal_completion(group))
        for name, group in groups.items()
    }


def task_goal_completion(successes: Mapping[str, bool]) -> Estimate:
    """TGC of task id -> success. Raises ValueError without tasks."""
    if not successes:
        raise ValueError("no tasks to average over")
    num = len(successes)
    mean = sum(successes.values()) / num
    scenarios = _by_scenario(successes)
    variance = sum(sum(success - mean for success in scenario) ** 2 for scenario in scenarios.values()) / num**2
    # All alike: nothing shows how alike tasks of one scenario are, so count each scenario once.
    num_effective = min(num, mean * (1 - mean) / variance) if variance > 0 else len(scenarios)
    return Estimate(mean, *_wilson(mean, num_effective), num)


def scenario_goal_completion(successes: Mapping[str, bool]) -> Estimate:
    """SGC of task id -> success. Raises ValueError without tasks."""
    if not successes:
        raise ValueError("no tasks to average over")
    scenarios = _by_scenario(successes)
    mean = sum(all(scenario) for scenario in scenarios.values()) / len(scenarios)
    return Estimate(mean, *_wilson(mean, len(scenarios)), len(scenarios))


def _by_scenario(successes: Mapping[str, bool]) -> dict[str, list[bool]]:
    scenarios = defaultdict(list)
    for task_id, success in successes.items():
        scenarios[task_id.split("_")[0]].append(success)
    return scenarios


def _wilson(mean: float, num: float) -> tuple[float, float]:
    """Wilson's 95% score interval of a fraction observed over `num` independent trials."""
    centre = (mean + Z_95**2 / (2 * num)) / (1 + Z_95**2 / num)
    half_width = Z_95 / (1 + Z_95**2 / num) * math.sqrt(mean * (1 - mean) / num + Z_95**2 / (4 * num**2))
    return max(0.0, centre - half_width), min(1.0, centre + half_width)
