"""Which task comes next: `sampler.curriculum` names a function of this shape, here or in any module that can be imported.

A curriculum remembers nothing. It is asked again after a restart, and sees then what it saw before.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from loop_rl.config import ConfigError
from loop_rl.environment import Task


@dataclass(frozen=True)
class Outcome:
    """How a group that is finished went."""

    group_id: int
    task_id: str
    rewards: tuple[float, ...]
    """Of its rollouts, in [0, 1]."""


class Curriculum(Protocol):
    """Chooses the task of a group that is about to begin."""

    def __call__(self, tasks: Sequence[Task], group_id: int, seed: int, outcomes: Sequence[Outcome]) -> Task:
        """
        Args:
            tasks: all tasks to train on, by their ids.
            group_id: number of the group, counted from 0.
            seed: the run's.
            outcomes: of the groups that are finished by now, by their numbers.
        """


def shuffled_epochs(tasks: Sequence[Task], group_id: int, seed: int, outcomes: Sequence[Outcome]) -> Task:
    """Every task once, in random order, then all again in another order: none comes twice before all have come."""
    epoch, index = divmod(group_id, len(tasks))
    order = list(range(len(tasks)))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tasks[order[index]]


def load_curriculum(name: str) -> Curriculum:
    """The function `module:function`. Raises ConfigError when there is none."""
    module_name, _, function_name = name.partition(":")
    try:
        curriculum = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"sampler.curriculum={name}: {error}") from error
    if not callable(curriculum):
        raise ConfigError(f"sampler.curriculum={name}: not a function")
    return curriculum
