"""Which task comes next: `sampler.curriculum` names a function of this shape, here or in any module that can be imported.

A curriculum remembers nothing. After a restart it gets the same arguments.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from loop_rl.data.rollout import Outcome
from loop_rl.environments.protocol import Task


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
