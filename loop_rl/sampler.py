"""The sampler: rolls out K episodes of every task that an iteration calls for, and writes them to the run directory.

    python -m loop_rl.sampler --run-dir runs/tiny --server http://127.0.0.1:8000

Iteration i trains on groups i*G ... i*G+G-1, each K episodes of one task; which task is fixed by the run's seed. The
groups are rolled out in order, `tasks.num_workers` episodes at a time, so while an iteration's last episodes are under
way the next one's have begun, as far as `sampler.max_staleness` allows: groups of iteration i start when policy version
i - max_staleness is published. Each turn is answered by the newest version there is.

What is finished is on disk: a rollout under rollouts/unfinished/ at once, a group under rollouts/train/ when all its K
rollouts are there. Starting again reads both and goes on; nothing else is remembered. No unfinished episode is ever
dropped to be on time, because that would favour short ones.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from appworld_tasks.pool import EngineError
from appworld_tasks.scoring import ScoringError
from appworld_tasks.splits import training_tasks
from loop_rl.agent import EpisodeSettings, Job, collect
from loop_rl.chat import Chat
from loop_rl.command import run_async, run_command
from loop_rl.config import Config
from loop_rl.environment import Environment, Task, make_environment
from loop_rl.policy import PolicyClient, PolicyDirectory, PolicyError
from loop_rl.rollout import Rollout, read_rollouts, write_rollouts
from loop_rl.run_dir import RunDir
from loop_rl.timeline import Timeline

_HEARTBEAT_S = 1.0


class Schedule:
    """Which rollouts a run consists of. The same config and tasks always give the same schedule."""

    def __init__(self, config: Config, tasks: Sequence[Task]) -> None:
        self._config = config
        self._tasks = sorted(tasks, key=lambda task: task.task_id)
        self.group_size = config.sampler.rollouts_per_task
        self.num_groups = config.trainer.num_iterations * config.sampler.tasks_per_iteration

    def iteration(self, group_id: int) -> int:
        return group_id // self._config.sampler.tasks_per_iteration

    def task(self, group_id: int) -> Task:
        """Tasks come in shuffled epochs: none comes again before all have been seen."""
        epoch, index = divmod(group_id, len(self._tasks))
        order = list(range(len(self._tasks)))
        random.Random(f"{self._config.seed}/{epoch}").shuffle(order)
        return self._tasks[order[index]]

    def job(self, group_id: int, k: int) -> Job:
        """Rollout k of a group."""
        rollout_id = f"g{group_id:06d}-k{k}"
        return Job(
            task=self.task(group_id),
            rollout_id=rollout_id,
            experiment_name=f"{self._config.name}-{rollout_id}",
            seed=random.Random(f"{self._config.seed}/{rollout_id}").getrandbits(62),
            group_id=group_id,
            iteration=self.iteration(group_id),
        )


class RolloutStore:
    """What has been rolled out so far, in memory and on disk.

    Raises OSError when the disk is full; what was stored before stays whole.
    """

    def __init__(self, run: RunDir, schedule: Schedule) -> None:
        self._run = run
        self._schedule = schedule
        self._finished_groups = {g for g in range(schedule.num_groups) if run.group_file(g).exists()}
        self._pieces: dict[int, dict[str, Rollout]] = defaultdict(dict)
        for path in sorted(run.unfinished_rollouts.glob("*.parquet")):
            (rollout,) = read_rollouts(path)
            if rollout.group_id in self._finished_groups:
                path.unlink()  # the process ended between writing the group and removing its pieces
            else:
                self._pieces[rollout.group_id][rollout.rollout_id] = rollout
        for group_id in sorted(self._pieces):
            self._finish_if_whole(group_id)

    @property
    def num_finished_groups(self) -> int:
        return len(self._finished_groups)

    def missing_jobs(self) -> Iterator[Job]:
        """Jobs of the run that are not done, in order. Does not see what is added while it is being read."""
        for group_id in range(self._schedule.num_groups):
            if group_id in self._finished_groups:
                continue
            done = set(self._pieces[group_id]) if group_id in self._pieces else set()
            jobs = (self._schedule.job(group_id, k) for k in range(self._schedule.group_size))
            yield from (job for job in jobs if job.rollout_id not in done)

    def first_unfinished_iteration(self) -> int:
        """The iteration that the trainer waits for, or would next."""
        groups = (g for g in range(self._schedule.num_groups) if g not in self._finished_groups)
        return self._schedule.iteration(next(groups, self._schedule.num_groups - 1))

    def num_rollouts(self, iteration: int) -> int:
        """Finished rollouts of an iteration."""
        whole = sum(self._schedule.iteration(g) == iteration for g in self._finished_groups)
        pieces = sum(len(p) for g, p in self._pieces.items() if self._schedule.iteration(g) == iteration)
        return whole * self._schedule.group_size + pieces

    def add(self, rollout: Rollout) -> None:
        """Store a rollout, and its group when it is whole."""
        write_rollouts(self._piece_file(rollout), [rollout])
        self._pieces[rollout.group_id][rollout.rollout_id] = rollout
        self._finish_if_whole(rollout.group_id)

    def _finish_if_whole(self, group_id: int) -> None:
        if len(self._pieces[group_id]) < self._schedule.group_size:
            return
        pieces = self._pieces[group_id]
        rollouts = [pieces[self._schedule.job(group_id, k).rollout_id] for k in range(self._schedule.group_size)]
        write_rollouts(self._run.group_file(group_id), rollouts)
        self._finished_groups.add(group_id)
        del self._pieces[group_id]
        for rollout in rollouts:
            self._piece_file(rollout).unlink()

    def _piece_file(self, rollout: Rollout) -> Path:
        return self._run.unfinished_rollouts / f"{rollout.rollout_id}.parquet"


class Progress:
    """Heartbeat for the supervisor, and the timeline of what was waited for."""

    def __init__(self, run: RunDir, config: Config, store: RolloutStore, policy: PolicyClient) -> None:
        self._run = run
        self._store = store
        self._policy = policy
        self._num_rollouts = config.sampler.tasks_per_iteration * config.sampler.rollouts_per_task
        self._timeline = Timeline(run, "sampler")
        self._waiting = False
        self.num_in_flight = 0

    async def wait_for_policy(self, job: Job, directory: PolicyDirectory, version: int) -> None:
        """Wait for a policy version on behalf of a job, and record the time."""
        self._waiting = True
        with self._timeline.span("waiting for the policy", job.iteration, at_least_s=_HEARTBEAT_S):
            await directory.wait_for(version)
        self._waiting = False

    async def beat(self) -> None:
        """Write the heartbeat every second, until cancelled."""
        while True:
            self.write()
            await asyncio.sleep(_HEARTBEAT_S)

    def write(self) -> None:
        iteration = self._store.first_unfinished_iteration()
        idle = self._waiting and self.num_in_flight == 0
        self._run.write_status(
            "sampler",
            phase="waiting for the policy" if idle else "sampling",
            iteration=iteration,
            done=self._store.num_rollouts(iteration),
            total=self._num_rollouts,
            groups_finished=self._store.num_finished_groups,
            rollouts_in_flight=self.num_in_flight,
            generated_tokens=self._policy.num_generated_tokens,
            policy_version=self._policy.latest_version,
        )


async def sample_run(
    run: RunDir, config: Config, tasks: Sequence[Task], environment: Environment, chat: Chat, policy: PolicyClient
) -> None:
    """Roll out what the run still lacks.

    Raises:
        PolicyError: a vLLM server failed.
        ScoringError: episodes cannot be scored.
        OSError: the run directory cannot be written, for a full disk, say.
    """
    schedule = Schedule(config, tasks)
    store = RolloutStore(run, schedule)
    progress = Progress(run, config, store, policy)
    directory = PolicyDirectory(run, policy)

    async def before_start(job: Job) -> None:
        await progress.wait_for_policy(job, directory, job.iteration - config.sampler.max_staleness)
        progress.num_in_flight += 1

    def on_finished(rollout: Rollout) -> None:
        store.add(rollout)
        progress.num_in_flight -= 1

    work = collect(
        list(store.missing_jobs()),
        environment,
        policy,
        chat,
        EpisodeSettings.training(config.agent),
        num_concurrent=config.tasks.num_workers,
        on_finished=on_finished,
        before_start=before_start,
    )
    await _first_of(work, directory.follow(), progress.beat())
    progress.write()


async def _first_of(work, *helpers) -> None:
    """Run `work` to its end and the endless helpers beside it; an error in any of them cancels the others."""
    tasks = [asyncio.create_task(coroutine) for coroutine in (work, *helpers)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _main(run: RunDir, config: Config, urls: list[str]) -> None:
    tasks = training_tasks(
        config.tasks.root, config.tasks.train_split, config.tasks.difficulties, config.tasks.task_ids
    )
    chat = Chat.from_pretrained(config.model.path, config.agent)
    async with (
        make_environment(config.tasks) as environment,
        PolicyClient(urls, chat.end_of_turn_id, run.logs) as policy,
    ):
        await sample_run(run, config, tasks, environment, chat, policy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True, help="run directory with a config.yaml")
    parser.add_argument("--server", action="append", required=True, help="URL of a vLLM server; may be repeated")
    args = parser.parse_args()
    return run_command(
        lambda: _sample(args), "stopped; what is finished is kept", (EngineError, PolicyError, ScoringError)
    )


def _sample(args: argparse.Namespace) -> None:
    run = RunDir.open(args.run_dir)
    with run.lock("sampler"):
        try:
            run_async(_main(run, run.config, args.server))
        except OSError as error:
            where = error.filename or args.run_dir
            raise OSError(f"{where}: {error.strerror or error}; once there is room, the same run goes on") from error


if __name__ == "__main__":
    sys.exit(main())
