"""Supervised learning's data: what somebody who knows the solutions does, really done in the environment.

SFT-GT of arXiv 2502.01600, appendix C.1. There each reply is "Execution successful."; here it is what the environment answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from loop_rl.agents.chat import Chat
from loop_rl.agents.episode import Agent, Job, training_job
from loop_rl.agents.policy import Generation
from loop_rl.config.settings import Config
from loop_rl.environments.protocol import Environment, Task
from loop_rl.sampling.sources.dataset import Gathering, Remembered
from loop_rl.store.run_dir import RunDir

NO_VERSION = -1
"""What no policy version has written."""


async def gather(run: RunDir, config: Config, tasks: Sequence[Task], environment: Environment, chat: Chat) -> None:
    """One rollout of every task that has a demonstration. Raises NothingToLearn."""
    tasks = sorted(tasks, key=lambda task: task.task_id)
    texts = {task.task_id: environment.demonstration(task) for task in tasks}
    jobs = [training_job(config, task, number, k=0) for number, task in enumerate(tasks) if texts[task.task_id]]
    gathering = Gathering(run, config, environment, total=len(jobs))
    if gathering.store.num_assigned < config.trainer.num_iterations:

        def agent_of(job: Job) -> Agent:
            script = texts[job.task.task_id]
            return Agent(scripted(job, chat, script), chat, config.agent, max_turns=len(script), temperature=1.0)

        async with gathering.reported():
            await gathering.collect([job for job in jobs if job.group_id not in gathering.store.closed], agent_of)
        num_done = sum(rollout.success for rollout in gathering.rollouts.values())
        print(
            f"{len(jobs)} of {len(tasks)} tasks have demonstrations; {num_done} of those new here do their task",
            flush=True,
        )
    gathering.assign_successful()


def scripted(job: Job, chat: Chat, texts: Sequence[str]) -> Remembered:
    """A policy that writes these texts, a turn each. Their log-probabilities are 0: nobody has sampled them."""
    tokens = ([*chat.encode(text), chat.end_of_turn_id] for text in texts)
    return Remembered(job, [Generation(ids, [0.0] * len(ids), NO_VERSION) for ids in tokens])
