"""Supervised learning's data: what somebody who knows the solutions does, really done in the environment.

SFT-GT of arXiv 2502.01600, appendix C.1. There each reply is "Execution successful."; here it is what the environment answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from loop_rl.agents.chat import Chat
from loop_rl.agents.episode import Agent, Job
from loop_rl.agents.policy import ContextFull, Generation
from loop_rl.config.settings import Config
from loop_rl.environments.protocol import Environment, Task
from loop_rl.sampling.sources.dataset import Gathering, job_of
from loop_rl.store.run_dir import RunDir

NO_VERSION = -1
"""What no policy version has written."""


async def gather(run: RunDir, config: Config, tasks: Sequence[Task], environment: Environment, chat: Chat) -> None:
    """One rollout of every task that has a demonstration. Raises NothingToLearn."""
    tasks = sorted(tasks, key=lambda task: task.task_id)
    texts = {task.task_id: environment.demonstration(task) for task in tasks}
    jobs = [job_of(config, task, number, k=0) for number, task in enumerate(tasks) if texts[task.task_id]]
    gathering = Gathering(run, config, environment, total=len(jobs))
    if gathering.store.num_assigned < config.trainer.num_iterations:

        def agent_of(job: Job) -> Agent:
            script = texts[job.task.task_id]
            return Agent(Scripted(chat, script), chat, config.agent, max_turns=len(script), temperature=1.0)

        async with gathering.reported():
            await gathering.collect([job for job in jobs if job.group_id not in gathering.store.closed], agent_of)
        num_done = sum(rollout.success for rollout in gathering.rollouts.values())
        print(
            f"{len(jobs)} of {len(tasks)} tasks have demonstrations; {num_done} of those new here do their task",
            flush=True,
        )
    gathering.assign_all()


class Scripted:
    """Writes given texts, a turn each. Their log-probabilities are 0: nobody has sampled them."""

    def __init__(self, chat: Chat, texts: Sequence[str]) -> None:
        self._chat, self._texts = chat, texts
        self._first_prompt: list[int] | None = None
        self._num_written = 0

    async def sample(
        self, prompt_ids: list[int], max_tokens: int, temperature: float, seed: int, version: int | None
    ) -> Generation:
        """The next text; the first one again where the conversation begins anew, as after a lost world."""
        if self._first_prompt in (None, prompt_ids):
            self._first_prompt, self._num_written = list(prompt_ids), 0
        text = self._texts[self._num_written]
        self._num_written += 1
        ids = [*self._chat.encode(text), self._chat.end_of_turn_id]
        if len(ids) > max_tokens:
            raise ContextFull(f"a demonstrated turn of {len(ids)} tokens, and {max_tokens} are left")
        return Generation(ids, [0.0] * len(ids), NO_VERSION)
