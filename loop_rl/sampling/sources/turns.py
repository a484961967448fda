"""Batches of a fixed number of turns, from whatever episodes are under way: Verlog's fixed-turn batching, without its lockstep.

A turn gets its batch when it begins: the first that has room, none of which the turn's policy version would be too old for. So every
batch has its number of turns, all within `sampler.max_staleness`, and a slow environment delays its own turn's batch
and no other's. A batch is full when its last turn is done. Then what each episode has in it becomes a rollout: the whole episode, or
a piece of it, with what the policy reads next, for a critic to say what the rest is worth. Episodes go on; they know nothing of it.

Every turn is on disk as soon as it is done. What a sampler that was killed had under way is lost, not what it had done.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence

from loop_rl.agents.episode import Job
from loop_rl.config.settings import Config
from loop_rl.data.rollout import Ending, EndReason, Rollout, Turn, training_id
from loop_rl.environments.protocol import ScoringError, Task
from loop_rl.sampling.curriculum import shuffled_epochs
from loop_rl.store.rollouts import RolloutStore
from loop_rl.store.run_dir import RunDir
from loop_rl.store.turn_journal import DoneTurn, TurnJournal, in_order


class TurnBatches:
    """Begins episodes, lets them take their turns, and gives each iteration its batch.

    newest_version: policy version that answers now.
    """

    def __init__(self, run: RunDir, config: Config, tasks: Sequence[Task], newest_version: Callable[[], int]) -> None:
        self._config = config
        self._tasks = sorted(tasks, key=lambda task: task.task_id)
        self._task_of = {task.task_id: task for task in tasks}
        self._newest_version = newest_version
        self._size = config.sampler.turns_per_iteration
        self._store = RolloutStore(run)
        self.num_assigned = self._store.num_assigned
        """Iterations whose turns are fixed."""
        for iteration in list(self._store.unassigned):  # its rollouts were written, but not that it has them
            self._store.forget(iteration)
        self._journal = TurnJournal(run)
        self._done: dict[int, list[DoneTurn]] = defaultdict(list) | self._journal.read(self.num_assigned)
        """By batch."""
        self._begun = Counter({batch: len(turns) for batch, turns in self._done.items()})
        """Turns of each batch that are done or under way."""
        found = [done for turns in self._done.values() for done in turns]
        self._lost = {done.episode for done in found} - {done.episode for done in found if done.end}
        """Episodes whose world went with an earlier process."""
        self._live: dict[str, _Live] = {}
        self._next_episode = 0
        if self.num_assigned or found:  # beyond all numbers that there can have been
            batches = self.num_assigned + config.sampler.max_staleness + 2
            self._next_episode = max([batches * self._size, *(done.episode + 1 for done in found)])
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def num_in_flight(self) -> int:
        return len(self._live)

    @property
    def num_finished(self) -> int:
        """Turns of the batch that is next to be full."""
        return len(self._done[self.num_assigned])

    def wake(self) -> None:
        """Look again: a policy version has been loaded."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def jobs(self) -> AsyncIterator[Job]:
        """Episodes, until all batches are full."""
        while self.num_assigned < self._config.trainer.num_iterations:
            number, self._next_episode = self._next_episode, self._next_episode + 1
            live = _Live(self, number, shuffled_epochs(self._tasks, number, self._config.seed, ()))
            self._live[live.job.rollout_id] = live
            yield live.job

    def finished(self, rollout: Rollout) -> None:
        """Take an episode that has ended. Raises OSError when it cannot be stored."""
        live = self._live.pop(rollout.rollout_id)
        end = {
            name: getattr(rollout, name) for name in ("end_reason", "ending", "score", "success", "passes", "failures")
        }
        if len(live.batches) > len(rollout.turns):  # it was let go, but the policy could not
            self._begun[live.batches.pop()] -= 1
        self.settle(live, rollout.turns, rollout.next_ids, rollout.generation_s, rollout.environment_s, end)
        self.wake()

    def unscorable(self, job: Job, error: ScoringError) -> None:
        raise error

    async def assign(self) -> None:
        """Give each iteration its batch as soon as that is full."""
        while (batch := self.num_assigned) < self._config.trainer.num_iterations:
            if len(self._done[batch]) < self._size:
                await self._change()
                continue
            rollouts = self._rollouts(batch)
            self.num_assigned += 1
            await asyncio.to_thread(self._store.assign, batch, {batch: rollouts}, [])
            self._journal.close(batch)
            del self._done[batch]
            self.wake()
        for live in self._live.values():
            live.job.cut.set()
        self.wake()

    async def let_go(self, live: _Live) -> None:
        """Wait until a batch has room for a turn of this episode."""
        while not live.job.cut.is_set():
            if (batch := self._batch_with_room()) is not None:
                self._begun[batch] += 1
                live.batches.append(batch)
                live.started_at = time.time()
                return
            await self._change()

    def settle(
        self,
        live: _Live,
        turns: Sequence[Turn],
        next_ids: list[int],
        generation_s: float,
        environment_s: float,
        end: dict | None = None,
    ) -> None:
        """Keep the turn that an episode has done since it was let go, if it has."""
        if len(turns) == live.num_settled:
            return
        number = live.num_settled
        done = DoneTurn(
            live.number,
            live.job.task.task_id,
            number,
            turns[number],
            next_ids,
            sum(turn.reward for turn in turns[:number]),
            live.started_at,
            time.time() - live.started_at,
            generation_s - live.generation_s,
            environment_s - live.environment_s,
            end or {},
        )
        live.num_settled, live.generation_s, live.environment_s = number + 1, generation_s, environment_s
        self._journal.append(live.batches[number], done)
        self._done[live.batches[number]].append(done)
        self.wake()

    def _batch_with_room(self) -> int | None:
        last = min(self._newest_version() + self._config.sampler.max_staleness, self._config.trainer.num_iterations - 1)
        batches = range(self.num_assigned, last + 1)
        return next((batch for batch in batches if self._begun[batch] < self._size), None)

    def _rollouts(self, batch: int) -> list[Rollout]:
        """A rollout for each episode that has turns in the batch."""
        later = {done.episode for other, turns in self._done.items() if other > batch for done in turns}
        found = []
        for k, (episode, pieces) in enumerate(in_order(self._done[batch]).items()):
            first, last = pieces[0], pieces[-1]
            is_lost = episode in self._lost and episode not in later
            goes_on = {
                "end_reason": EndReason.INTERRUPTED if is_lost else EndReason.GOES_ON,
                "ending": Ending.TRUNCATED,
                "score": 0.0,
                "success": False,
                "passes": [],
                "failures": [],
            }
            task = self._task_of[first.task_id]
            rollout = Rollout(
                rollout_id=training_id(batch, k),
                group_id=batch,
                iteration=batch,
                task_id=task.task_id,
                family=task.family,
                labels=dict(task.labels),
                instruction=task.instruction,
                turns=[done.turn for done in pieces],
                started_at=first.started_at,
                duration_s=last.started_at + last.duration_s - first.started_at,
                generation_s=sum(done.generation_s for done in pieces),
                environment_s=sum(done.environment_s for done in pieces),
                next_ids=last.next_ids,
                episode_id=_episode_id(episode),
                first_turn=first.number,
                earlier_reward=first.earlier_reward,
                **last.end or goes_on,
            )
            found.append(rollout)
        return found

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter


class _Live:
    """An episode under way; the `Pace` of its job."""

    def __init__(self, batches: TurnBatches, number: int, task: Task) -> None:
        config = batches._config
        self._all = batches
        self.number = number
        self.batches: list[int] = []
        """That its turns count in."""
        self.num_settled = 0
        """Turns that are done and kept."""
        self.started_at = self.generation_s = self.environment_s = 0.0
        name = _episode_id(number)
        seed = random.Random(f"{config.seed}/{name}").getrandbits(62)
        self.job = Job(task, name, f"{config.name}-{name}", seed, group_id=-1, iteration=-1, pace=self)

    async def before_turn(
        self, turns: Sequence[Turn], next_ids: list[int], generation_s: float, environment_s: float
    ) -> None:
        self._all.settle(self, turns, next_ids, generation_s, environment_s)
        await self._all.let_go(self)


def _episode_id(number: int) -> str:
    return f"e{number:06d}"
