"""A data set that is gathered once, before the first update, and then learnt from over and over: no policy is waited for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from loop_rl.agents.episode import Agent, Job
from loop_rl.config.settings import Config
from loop_rl.data.rollout import Rollout
from loop_rl.environments.protocol import Environment, ScoringError, Task
from loop_rl.sampling.collect import collect, in_order
from loop_rl.store.rollout_files import read_rollouts
from loop_rl.store.rollouts import RolloutStore
from loop_rl.store.run_dir import RunDir

_HEARTBEAT_S = 1.0


class NothingToLearn(RuntimeError):
    """The tasks are all too hard or too easy for the policy: none was done, or, with `sampler.drop_uniform`, of group after group
    all rollouts earned the same."""


class Gathering:
    """The episodes of a data set as they are run, a group for each task; what an earlier process has finished is there.

    total: how many there will be at most, for progress.
    """

    def __init__(self, run: RunDir, config: Config, environment: Environment, total: int) -> None:
        self._run, self._config, self._environment = run, config, environment
        self.total = total
        self.store = RolloutStore(run)

    @property
    def rollouts(self) -> dict[str, Rollout]:
        """Finished ones, by their ids."""
        return {r.rollout_id: r for group in self.store.unassigned.values() for r in group.values()}

    async def collect(self, jobs: Iterable[Job], agent_of: Callable[[Job], Agent]) -> None:
        """Run what is not done yet. An episode that cannot be scored is left out."""
        done = self.rollouts

        def unscorable(job: Job, error: ScoringError) -> None:
            print(f"{job.rollout_id}: left out, it cannot be scored: {error}", flush=True)

        await collect(
            in_order(job for job in jobs if job.rollout_id not in done),
            self._environment,
            agent_of,
            num_concurrent=self._config.tasks.num_workers,
            on_finished=self.store.add,
            on_unscorable=unscorable,
        )

    @asynccontextmanager
    async def reported(self) -> AsyncIterator[None]:
        """Writes the heartbeat, for the supervisor and the trainer, while the body works."""

        async def beat() -> None:
            while True:
                done = len(self.rollouts)
                self._run.write_status("sampler", phase="gathering", iteration=0, done=done, total=self.total)
                await asyncio.sleep(_HEARTBEAT_S)

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    def assign_all(self) -> None:
        """Fix the groups of every iteration: those in which a rollout did its task, in shuffled epochs.

        Raises:
            NothingToLearn: there is none.
        """
        run, config, store = self._run, self._config, self.store
        first_uses = {group_id: list(rollouts.values()) for group_id, rollouts in store.unassigned.items()}
        used_before = {group_id: read_rollouts(run.group_file(group_id)) for group_id in store.closed}
        groups = sorted(
            group_id
            for group_id, rollouts in (first_uses | used_before).items()
            if any(rollout.success for rollout in rollouts)
        )
        if not groups:
            raise NothingToLearn(
                f"none of {sum(map(len, first_uses.values()))} rollouts did its task, so there is nothing to imitate; choose easier tasks "
                "(tasks.task_ids) or a stronger model"
            )
        for iteration in range(store.num_assigned, config.trainer.num_iterations):
            chosen = groups_of(groups, config.sampler.tasks_per_iteration, config.seed, iteration)
            again = [group_id for group_id in chosen if group_id in store.closed]
            store.assign(
                iteration, {g: first_uses[g] for g in chosen if g not in store.closed}, dropped=[], again=again
            )


def groups_of(group_ids: Sequence[int], size: int, seed: int, iteration: int) -> list[int]:
    """Groups of an iteration: the next `size` of a shuffled epoch, whose last iteration may be short."""
    epoch, index = divmod(iteration, -(-len(group_ids) // size))
    order = list(group_ids)
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order[index * size : (index + 1) * size]


def job_of(config: Config, task: Task, group_id: int, k: int) -> Job:
    """An episode of the data set."""
    rollout_id = f"g{group_id:06d}-k{k}"
    seed = random.Random(f"{config.seed}/{rollout_id}").getrandbits(62)
    return Job(task, rollout_id, f"{config.name}-{rollout_id}", seed, group_id, iteration=-1)
