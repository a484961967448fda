"""AppWorld's fork servers killed with SIGKILL: nobody's fault, so no episode may be scored for it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_agent import AGENT, CHAT, Script, appworld, block, make_job

from appworld_tasks.pool import SERVER_LOST, WorkerLost
from appworld_tasks.processes import ProcessPool
from loop_rl.agents.episode import Agent, run_episode
from loop_rl.agents.policy import Generation
from loop_rl.data.rollout import EndReason, Rollout
from loop_rl.environments.appworld.ends import COMPLETED
from loop_rl.environments.appworld.environment import Environment, Task

pytestmark = pytest.mark.slow(90)

# A killed fork server takes its workers with it, but not at once: what it interrupts has to last.
LONG = "for _ in range(200):\n    apis.supervisor.show_profile()\n"
COMPLETE = block(f"{LONG}apis.supervisor.complete_task()")


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def environment(runner: asyncio.Runner, appworld_root: Path, appworld_python: Path) -> Iterator[Environment]:
    environment = appworld(appworld_root, appworld_python, num_workers=2, execute_timeout_s=5)
    runner.run(environment.__aenter__())
    yield environment
    runner.run(environment.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def task(environment: Environment) -> Task:
    return environment.tasks("train")[0]


def kill_fork_server(processes: ProcessPool) -> None:
    os.kill(processes._server._process.pid, signal.SIGKILL)


class Killer(Script):
    """Completes the task in its second turn; before the first `times` of these it kills the workers' fork server."""

    def __init__(self, environment: Environment, times: int) -> None:
        super().__init__(block("x = 1"), COMPLETE)
        self._environment, self._times = environment, times

    async def sample(self, *args, **kwargs) -> Generation:
        if len(self.requests) % 2 and self._times:
            self._times -= 1
            kill_fork_server(self._environment._worlds.pool._processes)
        return await super().sample(*args, **kwargs)


def play(runner: asyncio.Runner, environment: Environment, task: Task, policy: Script) -> Rollout:
    return runner.run(run_episode(make_job(task, "lost-server"), environment, Agent.training(policy, CHAT, AGENT)))


def test_an_episode_that_is_lost_with_its_fork_server_is_run_again(runner, environment, task):
    restarts = environment._worlds.metrics()["server_restarts"]
    policy = Killer(environment, times=1)
    rollout = play(runner, environment, task, policy)
    assert rollout.end_reason == COMPLETED and rollout.reward > 0 and len(rollout.turns) == 2
    assert len({request["seed"] for request in policy.requests}) == 4  # another episode, with seeds of its own
    assert environment._worlds.metrics()["server_restarts"] == restarts + 1
    assert environment._worlds.metrics()[f"lost_{SERVER_LOST}"] >= 1


def test_an_episode_that_loses_every_fork_server_scores_zero(runner, environment, task):
    rollout = play(runner, environment, task, Killer(environment, times=3))
    assert (rollout.end_reason, rollout.reward) == (EndReason.WORKER_LOST, 0.0)
    assert rollout.failures == ["worker lost: server: the fork server died"]


def test_the_world_says_that_it_went_with_the_server(runner, environment, task):
    async def lose() -> WorkerLost:
        async with environment._worlds.pool.world(task.task_id, "lost-world") as world:
            kill_fork_server(environment._worlds.pool._processes)
            with pytest.raises(WorkerLost) as lost:
                await world.execute(LONG)
        return lost.value

    assert runner.run(lose()).reason == SERVER_LOST


@pytest.mark.parametrize("victim", ["server", "process"])
def test_scoring_is_done_again_when_the_scorer_is_killed(runner, environment, task, victim):
    async def score_while_it_is_killed() -> tuple:
        name = f"scorer-{victim}"
        async with environment._worlds.pool.world(task.task_id, name) as world:
            await world.execute(f"{LONG}apis.supervisor.complete_task()")
        expected = await environment._worlds.scorer.score(task.task_id, name)
        environment._worlds.scorer._remembered.clear()
        processes = environment._worlds.scorer._processes
        while not (ready := processes._free.qsize()):
            await asyncio.sleep(0.05)
        scoring = asyncio.create_task(environment._worlds.scorer.score(task.task_id, name))
        while processes._free.qsize() == ready:
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        assert not scoring.done()
        if victim == "server":
            kill_fork_server(processes)
        else:
            (process,) = processes._server._processes.values()
            os.kill(process.pid.result(), signal.SIGKILL)
        return await scoring, expected

    score, expected = runner.run(score_while_it_is_killed())
    assert score == expected and not score.tampered and score.reward > 0
