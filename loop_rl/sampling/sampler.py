"""The sampler: rolls out K episodes of a task at a time, and writes them to the run directory.

    python -m loop_rl.sampling.sampler --run-dir runs/tiny --server http://127.0.0.1:8000

`tasks.num_workers` episodes are under way at a time, those of the oldest group first, each turn answered by the newest
policy there is. How far sampling may run ahead of training, and which finished groups an iteration takes, is
`sampler.max_staleness` and what `loop_rl.sampling.sources.groups` makes of it, or `turns`. What is finished is on disk at once (`loop_rl.store.rollouts`);
starting again goes on from there. No unfinished episode is dropped to be on time, because that would favour short ones,
unless `sampler.cut_off_at` or `sampler.over_stale` asks for it.

With another `sampler.source` than groups all that is trained on is gathered first (`loop_rl.sampling.sources.dataset`).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path

from loop_rl.agents.chat import Chat
from loop_rl.agents.episode import Agent
from loop_rl.agents.policy import PolicyError
from loop_rl.config.parts import ADVANTAGE, ENVIRONMENT, make_part
from loop_rl.config.settings import Config
from loop_rl.environments.protocol import Environment, EnvironmentFailed, ScoringError, Task
from loop_rl.machine.command import run_async, run_command
from loop_rl.sampling.collect import collect
from loop_rl.sampling.sources import demonstrations, rejection, search
from loop_rl.sampling.sources.dataset import NothingToLearn
from loop_rl.sampling.sources.groups import Dispatcher, StalenessError
from loop_rl.sampling.sources.turns import TurnBatches
from loop_rl.serving.client import PolicyClient
from loop_rl.serving.published import PolicyDirectory
from loop_rl.store.run_dir import RunDir
from loop_rl.store.timeline import Timeline

_HEARTBEAT_S = 1.0


async def sample(
    run: RunDir, config: Config, tasks: Sequence[Task], environment: Environment, chat: Chat, policy: PolicyClient
) -> None:
    """Roll out what the run still lacks.

    Raises:
        PolicyError: no vLLM server answers.
        ScoringError: episodes cannot be scored.
        StalenessError, NothingToLearn: see there.
        OSError: the run directory cannot be written, for a full disk, say.
    """
    # What is read next matters to critics only.
    agent = Agent.training(policy, chat, config.agent, "next_value" in make_part(ADVANTAGE, config).reads)
    timeline = Timeline(run, "sampler")
    if config.sampler.source == "turns":
        dispatcher = TurnBatches(run, config, tasks, newest_version=lambda: policy.latest_version)
        total = config.sampler.turns_per_iteration
    else:
        dispatcher = Dispatcher(
            run,
            config,
            tasks,
            newest_version=lambda: policy.latest_version,
            waiting=lambda iteration: timeline.span("waiting for the policy", iteration, at_least_s=_HEARTBEAT_S),
        )
        total = config.sampler.tasks_per_iteration * config.sampler.rollouts_per_task
    directory = PolicyDirectory(run, policy)

    async def work() -> None:
        # What an earlier process began, an older version must not go on with.
        await directory.wait_for(run.latest_version())
        await collect(
            dispatcher.jobs(),
            environment,
            lambda _: agent,
            num_concurrent=config.tasks.num_workers,
            on_finished=dispatcher.finished,
            on_unscorable=dispatcher.unscorable,
        )

    async def wake() -> None:
        while True:
            await directory.wait_for(policy.latest_version + 1)
            dispatcher.wake()

    async def beat() -> None:
        while True:
            _report(run, config, dispatcher, policy, total)
            await asyncio.sleep(_HEARTBEAT_S)

    await _run_together([work(), dispatcher.assign()], helpers=[directory.follow(), wake(), beat()])
    _report(run, config, dispatcher, policy, total)


def _report(
    run: RunDir, config: Config, dispatcher: Dispatcher | TurnBatches, policy: PolicyClient, total: int
) -> None:
    """Write the heartbeat, for the supervisor and the trainer. total: rollouts, or turns, of an iteration."""
    num_iterations = config.trainer.num_iterations
    run.write_status(
        "sampler",
        phase="sampling" if dispatcher.num_in_flight else "waiting for the policy",
        iteration=min(dispatcher.num_assigned, num_iterations - 1),
        done=dispatcher.num_finished,
        total=total,
        rollouts_in_flight=dispatcher.num_in_flight,
        generated_tokens=policy.num_generated_tokens,
        policy_version=policy.latest_version,
    )


async def _run_together(works: Sequence[Coroutine], helpers: Sequence[Coroutine]) -> None:
    """Run all works to their end and the endless helpers beside them; an error in any of them cancels the others."""
    working = [asyncio.create_task(coroutine) for coroutine in works]
    pending = {*working, *(asyncio.create_task(coroutine) for coroutine in helpers)}
    everything = list(pending)
    try:
        while not all(task.done() for task in working):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in everything:
            task.cancel()
        await asyncio.gather(*everything, return_exceptions=True)


async def _main(run: RunDir, config: Config, urls: list[str]) -> None:
    environment = make_part(ENVIRONMENT, config)
    chat = Chat.from_pretrained(config.model.path, config.agent)
    async with (
        environment,
        PolicyClient.of_run(run, config, urls, chat.end_of_turn_id) as policy,
    ):
        tasks = environment.training_tasks()
        if config.sampler.source == "demonstrations":
            await demonstrations.gather(run, config, tasks, environment, chat)
        elif config.sampler.source == "rejection":
            await rejection.gather(run, config, tasks, environment, chat, policy)
        elif config.sampler.source == "search":
            await search.gather(run, config, tasks, environment, chat, policy)
        else:
            await sample(run, config, tasks, environment, chat, policy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True, help="run directory with a config.yaml")
    parser.add_argument("--server", action="append", required=True, help="URL of a vLLM server; may be repeated")
    args = parser.parse_args()
    return run_command(
        lambda: _sample(args),
        "stopped; what is finished is kept",
        (EnvironmentFailed, NothingToLearn, PolicyError, ScoringError, StalenessError),
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
