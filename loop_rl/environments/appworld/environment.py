"""AppWorld as an environment."""

from __future__ import annotations

import math

from appworld_tasks.environment import AppWorldEnvironment
from loop_rl.config.settings import TasksConfig

_WORKERS_PER_SCORER = 8


def make_environment(tasks: TasksConfig) -> AppWorldEnvironment:
    """The environment that a config asks for, to be entered."""
    return AppWorldEnvironment(
        tasks.root,
        tasks.python,
        tasks.num_workers,
        execute_timeout_s=tasks.execute_timeout_s,
        scoring=tasks.scoring,
        # Scoring does an episode's API calls again, and most of an episode is waiting for the policy.
        num_scorers=math.ceil(tasks.num_workers / _WORKERS_PER_SCORER),
    )
