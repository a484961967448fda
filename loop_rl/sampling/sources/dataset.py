"""A data set that is gathered once, before the first update, and then learnt from over and over: no policy is waited for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from loop_rl.agents.episode import Agent, Job, first_seeds
from loop_rl.agents.policy import ContextFull, Generation, Policy
from loop_rl.config.settings import Config
from loop_rl.data.rollout import Rollout, Turn, number_in_group
from loop_rl.environments.protocol import Environment, ScoringError
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
        self._run, self._config, self.environment = run, config, environment
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
            self.environment,
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

    def searched(self, group_id: int) -> list[Rollout]:
        """Finished rollouts of a task, in the order of their numbers."""
        rollouts = self.store.unassigned.get(group_id, {}).values()
        return sorted(rollouts, key=lambda rollout: number_in_group(rollout.rollout_id))

    def assign_successful(self) -> None:
        """Fix the groups of every iteration: those in which a rollout did its task.

        Raises:
            NothingToLearn: there is none.
        """
        unused = {group_id: list(rollouts.values()) for group_id, rollouts in self.store.unassigned.items()}
        used = {group_id: read_rollouts(self._run.group_file(group_id)) for group_id in self.store.closed}
        groups = {
            group_id: rollouts
            for group_id, rollouts in (unused | used).items()
            if any(rollout.success for rollout in rollouts)
        }
        if not groups:
            raise NothingToLearn(
                f"none of {sum(map(len, unused.values()))} rollouts did its task, so there is nothing to imitate; choose easier tasks "
                "(tasks.task_ids) or a stronger model"
            )
        self.assign(groups)

    def assign(self, groups: Mapping[int, Sequence[Rollout]]) -> None:
        """Fix the groups of every iteration, in shuffled epochs of these."""
        config, store = self._config, self.store
        for iteration in range(store.num_assigned, config.trainer.num_iterations):
            chosen = groups_of(sorted(groups), config.sampler.tasks_per_iteration, config.seed, iteration)
            again = [group_id for group_id in chosen if group_id in store.closed]
            store.assign(iteration, {g: groups[g] for g in chosen if g not in store.closed}, dropped=[], again=again)


class Remembered:
    """A policy that writes again what was written before, a generation a turn, and then, if there is one, asks another."""

    def __init__(self, job: Job, generations: Sequence[Generation], then: Policy | None = None) -> None:
        self._generations, self._then = generations, then
        self._first_seeds = first_seeds(job)
        self._num_written = 0

    async def sample(
        self, prompt_ids: list[int], max_tokens: int, temperature: float, seed: int, version: int | None
    ) -> Generation:
        """The next one; the first again where the episode begins anew, as after a lost world. Raises ContextFull."""
        if seed in self._first_seeds:
            self._num_written = 0
        self._num_written += 1
        if self._num_written > len(self._generations):
            return await self._then.sample(prompt_ids, max_tokens, temperature, seed, version)
        known = self._generations[self._num_written - 1]
        if len(known.token_ids) > max_tokens:
            raise ContextFull(f"a turn of {len(known.token_ids)} tokens, and {max_tokens} are left")
        return known


def generation_of(turn: Turn) -> Generation:
    """What the policy wrote in a turn."""
    return Generation(turn.action_ids, turn.logprobs, turn.policy_version)


def groups_of(group_ids: Sequence[int], size: int, seed: int, iteration: int) -> list[int]:
    """Groups of an iteration: the next `size` of a shuffled epoch, whose last iteration may be short."""
    epoch, index = divmod(iteration, -(-len(group_ids) // size))
    order = list(group_ids)
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order[index * size : (index + 1) * size]
