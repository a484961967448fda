"""The sampler's decisions: which rollout starts next, which groups an iteration takes, which episodes are cut off.

The only state is which groups are under way; it is made from the run directory, so a sampler that was killed goes on.
The rules themselves are pure functions in `loop_rl.sampling.assignment`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from loop_rl.agents.episode import Job, training_job
from loop_rl.config.parts import load
from loop_rl.config.settings import Config
from loop_rl.data.rollout import EndReason, Rollout, training_id
from loop_rl.environments.protocol import ScoringError, Task
from loop_rl.sampling.assignment import Outstanding, choose, max_outstanding, too_old
from loop_rl.sampling.curriculum import Curriculum
from loop_rl.sampling.sources.dataset import NothingToLearn
from loop_rl.store.rollouts import RolloutStore
from loop_rl.store.run_dir import RunDir

_FEWEST_ROLLOUTS = 2
"""Of a group: leave-one-out needs another one to compare with."""
_MOST_UNSCORABLE_IN_A_ROW = 12
_MOST_UNIFORM_ITERATIONS = 10
"""So many iterations' groups may be dropped in a row because their rollouts all earned the same."""


class StalenessError(RuntimeError):
    """A group is older than `sampler.max_staleness` allows, although none may become so."""


@dataclass
class _Group:
    """A group that has begun and belongs to no iteration yet."""

    group_id: int
    task: Task
    first_version: int
    to_start: deque[int]
    """Rollouts that have not begun, by their k."""
    in_flight: dict[str, Job] = field(default_factory=dict)
    finished: list[Rollout] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        return not self.to_start and not self.in_flight

    @property
    def num_usable(self) -> int:
        return len(self._usable)

    @property
    def is_uniform(self) -> bool:
        """All its rollouts earned the same, so each has an advantage of 0."""
        return len({rollout.reward for rollout in self._usable}) == 1

    @property
    def _usable(self) -> list[Rollout]:
        return [rollout for rollout in self.finished if rollout.end_reason != EndReason.CUT_OFF]


class Dispatcher:
    """Hands out jobs, takes rollouts back, and assigns finished groups to iterations.

    newest_version: policy version that answers now.
    waiting: entered while no job may start, with the iteration that is next to be assigned; for the timeline.

    Raises ConfigError where `sampler.curriculum` names no function.
    """

    def __init__(
        self,
        run: RunDir,
        config: Config,
        tasks: Sequence[Task],
        newest_version: Callable[[], int],
        waiting: Callable[[int], AbstractContextManager],
    ) -> None:
        self._config = config
        self._tasks = sorted(tasks, key=lambda task: task.task_id)
        self._newest_version = newest_version
        self._waiting = waiting
        self._curriculum: Curriculum = load("sampler.curriculum", config.sampler.curriculum)
        self._changed = asyncio.Event()
        self._store = RolloutStore(run)
        self.num_assigned = self._store.num_assigned
        """Iterations whose groups are fixed."""
        self._dropped: list[int] = []
        """Since the last assignment."""
        self._ending: dict[int, set[str]] = {}
        """Rollouts in flight of groups that have been dropped."""
        self._num_unscorable_in_a_row = 0
        self._num_uniform_in_a_row = 0
        self._groups: dict[int, _Group] = {}
        """Outstanding ones, by their numbers."""
        for group_id, rollouts in sorted(self._store.unassigned.items()):
            self._groups[group_id] = self._found_again(group_id, list(rollouts.values()))
            self._drop_if_useless(self._groups[group_id])

    @property
    def num_in_flight(self) -> int:
        return sum(len(group.in_flight) for group in self._groups.values()) + sum(map(len, self._ending.values()))

    @property
    def num_finished(self) -> int:
        """Finished rollouts of the iteration that is next to be assigned, as far as can be foretold."""
        nearest = sorted((len(group.finished) for group in self._groups.values()), reverse=True)
        return sum(nearest[: self._config.sampler.tasks_per_iteration])

    def wake(self) -> None:
        """Look again: a policy version has been loaded."""
        self._changed.set()

    async def jobs(self) -> AsyncIterator[Job]:
        """Jobs as they may start, until the groups of all iterations are fixed."""
        while self.num_assigned < self._config.trainer.num_iterations:
            job = self._next_job()
            if job is None:
                with self._waiting(self.num_assigned):
                    while job is None and self.num_assigned < self._config.trainer.num_iterations:
                        await self._change()
                        job = self._next_job()
            if job is not None:
                yield job

    def finished(self, rollout: Rollout) -> None:
        """Take a rollout that has ended. Raises OSError when it cannot be stored."""
        self._store.add(rollout)
        self._num_unscorable_in_a_row = 0
        if group := self._groups.get(rollout.group_id):
            group.finished.append(rollout)
        self._ended(rollout.group_id, rollout.rollout_id)

    def unscorable(self, job: Job, error: ScoringError) -> None:
        """Go on without a rollout that could not be scored, however often it was tried. Raises `error` when there are too
        many of them."""
        self._num_unscorable_in_a_row += 1
        if self._num_unscorable_in_a_row >= _MOST_UNSCORABLE_IN_A_ROW:
            raise error
        self._ended(job.group_id, job.rollout_id)

    def _ended(self, group_id: int, rollout_id: str) -> None:
        if group := self._groups.get(group_id):
            del group.in_flight[rollout_id]
            self._drop_if_useless(group)
        else:
            self._ending[group_id].remove(rollout_id)
            self._put_aside_if_ended(group_id)
        self._changed.set()

    def _drop_if_useless(self, group: _Group) -> None:
        """Drop a finished group that nothing can be learnt from. Raises NothingToLearn when there are too many of them."""
        if not group.is_finished:
            return
        sampler = self._config.sampler
        if group.num_usable < _FEWEST_ROLLOUTS:
            self._drop(group.group_id)
        elif sampler.drop_uniform:
            self._num_uniform_in_a_row = self._num_uniform_in_a_row + 1 if group.is_uniform else 0
            if self._num_uniform_in_a_row > _MOST_UNIFORM_ITERATIONS * sampler.tasks_per_iteration:
                raise NothingToLearn(
                    f"in {self._num_uniform_in_a_row} groups in a row all rollouts earned the same (sampler.drop_uniform): the tasks "
                    "are too hard or too easy for this policy; choose others, or a larger sampler.rollouts_per_task"
                )
            if group.is_uniform:
                self._drop(group.group_id)

    async def assign(self) -> None:
        """Fix the groups of each iteration as soon as its policy version answers and enough groups are finished.

        Raises:
            StalenessError: see there.
        """
        sampler, num_iterations = self._config.sampler, self._config.trainer.num_iterations
        while (iteration := self.num_assigned) < num_iterations:
            self._drop_what_is_too_old(iteration)
            chosen = None
            if self._newest_version() >= iteration:
                self._cut_off()
                chosen = choose(
                    self._outstanding(),
                    iteration,
                    sampler.tasks_per_iteration,
                    sampler.max_staleness,
                    wait=sampler.over_stale == "refuse",
                )
            if chosen is None:
                await self._change()
                continue
            rollouts = {group_id: _by_id(self._groups.pop(group_id).finished) for group_id in chosen}
            dropped, self._dropped = self._dropped, []
            # Jobs are handed out while the files are written, by what is decided already.
            self.num_assigned += 1
            self._store.closed.update(chosen)
            await asyncio.to_thread(self._store.assign, iteration, rollouts, dropped)
            self._changed.set()

    def _next_job(self) -> Job | None:
        """The oldest group's first, so that groups are finished soon; None while none may start."""
        for group_id in sorted(self._groups):
            if (group := self._groups[group_id]).to_start:
                break
        else:
            sampler = self._config.sampler
            num_wanted = max_outstanding(
                self._newest_version(),
                self.num_assigned,
                sampler.tasks_per_iteration,
                sampler.max_staleness,
                self._config.trainer.num_iterations,
            )
            if len(self._groups) >= num_wanted:
                return None
            group = self._begin()
        job = training_job(self._config, group.task, group.group_id, group.to_start.popleft())
        group.in_flight[job.rollout_id] = job
        return job

    def _begin(self) -> _Group:
        """Open the group with the lowest number that is free."""
        group_id = next(g for g in range(len(self._groups) + len(self._store.closed) + 1) if self._is_free(g))
        outcomes = [outcome for _, outcome in sorted(self._store.outcomes.items())]
        task = self._curriculum(self._tasks, group_id, self._config.seed, outcomes)
        group = _Group(group_id, task, self._newest_version(), deque(range(self._config.sampler.rollouts_per_task)))
        self._groups[group_id] = group
        return group

    def _is_free(self, group_id: int) -> bool:
        return group_id not in self._groups and group_id not in self._store.closed

    def _found_again(self, group_id: int, rollouts: list[Rollout]) -> _Group:
        """A group that an earlier process began."""
        (task,) = (task for task in self._tasks if task.task_id == rollouts[0].task_id)
        versions = [version for rollout in rollouts for version in rollout.policy_versions]
        # A rollout without turns has no version; what is unassigned is young enough.
        first_version = min(versions, default=self.num_assigned)
        done = {rollout.rollout_id for rollout in rollouts}
        size = self._config.sampler.rollouts_per_task
        to_start = deque(k for k in range(size) if training_id(group_id, k) not in done)
        return _Group(group_id, task, first_version, to_start, finished=rollouts)

    def _outstanding(self) -> list[Outstanding]:
        return [Outstanding(g.group_id, g.first_version, g.is_finished) for g in self._groups.values()]

    def _drop_what_is_too_old(self, iteration: int) -> None:
        sampler = self._config.sampler
        for group_id in too_old(self._outstanding(), iteration, sampler.max_staleness):
            if sampler.over_stale == "refuse":
                raise StalenessError(
                    f"group {group_id} was begun by policy version {self._groups[group_id].first_version}, too old for "
                    f"iteration {iteration} with sampler.max_staleness={sampler.max_staleness}; sampler.over_stale is refuse"
                )
            self._drop(group_id)

    def _drop(self, group_id: int) -> None:
        """Leave a group out of training. Its episodes in flight end before their next turn."""
        group = self._groups.pop(group_id)
        self._dropped.append(group_id)
        self._store.closed.add(group_id)
        for job in group.in_flight.values():
            job.cut.set()
        self._ending[group_id] = set(group.in_flight)
        self._put_aside_if_ended(group_id)

    def _put_aside_if_ended(self, group_id: int) -> None:
        if not self._ending[group_id]:
            del self._ending[group_id]
            self._store.drop(group_id)

    def _cut_off(self) -> None:
        """Cut off what is left of the next iteration's groups, once enough of their rollouts are finished."""
        sampler = self._config.sampler
        if sampler.cut_off_at == 1:
            return
        size = sampler.tasks_per_iteration
        next_ones = sorted(self._groups.values(), key=lambda group: (group.first_version, group.group_id))[:size]
        num_finished = sum(group.num_usable for group in next_ones)
        if num_finished < sampler.cut_off_at * size * sampler.rollouts_per_task:
            return
        if any(group.num_usable < sampler.cut_off_min for group in next_ones):
            return
        for group in next_ones:
            if not group.to_start:
                for job in group.in_flight.values():
                    job.cut.set()

    async def _change(self) -> None:
        await self._changed.wait()
        self._changed.clear()


def _by_id(rollouts: list[Rollout]) -> list[Rollout]:
    return sorted(rollouts, key=lambda rollout: rollout.rollout_id)
