"""Rejection sampling's data: rollouts of the untouched policy, sampled hotter and colder until each task has been done.

RFT of arXiv 2502.01600, appendix C.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from loop_rl.agents.chat import Chat
from loop_rl.agents.episode import Agent, Job, training_job
from loop_rl.config.settings import Config
from loop_rl.data.rollout import number_in_group
from loop_rl.environments.protocol import Environment, Task
from loop_rl.sampling.sources.dataset import Gathering
from loop_rl.serving.client import PolicyClient
from loop_rl.store.run_dir import RunDir


async def gather(
    run: RunDir, config: Config, tasks: Sequence[Task], environment: Environment, chat: Chat, policy: PolicyClient
) -> None:
    """Of every task and temperature at most `sampler.attempts` rollouts of version 0, no more once one has succeeded. Raises
    NothingToLearn, PolicyError."""
    tasks = sorted(tasks, key=lambda task: task.task_id)
    temperatures, attempts = config.sampler.temperatures or [config.agent.temperature], config.sampler.attempts
    gathering = Gathering(run, config, environment, total=len(tasks) * len(temperatures) * attempts)
    if not gathering.store.num_assigned:
        await policy.load_version(0, None)
        untouched = replace(Agent.training(policy, chat, config.agent), version=0)

        def agent_of(job: Job) -> Agent:
            return replace(untouched, temperature=temperatures[number_in_group(job.rollout_id) // attempts])

        async with gathering.reported():
            for attempt in range(attempts):
                done = gathering.rollouts
                jobs = []
                for group_id, task in enumerate(tasks):
                    for index in range(len(temperatures)):
                        job = training_job(config, task, group_id, k=index * attempts + attempt)
                        before = (training_job(config, task, group_id, index * attempts + n) for n in range(attempt))
                        if not any(done[one.rollout_id].success for one in before if one.rollout_id in done):
                            jobs.append(job)
                await gathering.collect(jobs, agent_of)
        rollouts = gathering.rollouts.values()
        num_done = sum(rollout.success for rollout in rollouts)
        num_tasks = len({rollout.task_id for rollout in rollouts if rollout.success})
        print(f"{num_done} of {len(rollouts)} rollouts did their task, {num_tasks} of {len(tasks)} tasks", flush=True)
    gathering.assign_successful()
