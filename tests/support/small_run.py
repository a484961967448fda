"""A run directory as training leaves it, made in a second: two iterations of one group of three rollouts each."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from served import served_config

from appworld_tasks.splits import TaskInfo, load_split
from loop_rl.agents.chat import Chat
from loop_rl.algorithms.advantages.leave_one_out import leave_one_out
from loop_rl.data.rollout import Rollout, Turn
from loop_rl.data.updates import TokenValues
from loop_rl.environments.appworld.prompts import build_prompt
from loop_rl.store.rollout_files import write_rollouts
from loop_rl.store.run_dir import RunDir
from loop_rl.store.updates import write_updates

REWARDS = {0: (0.0, 0.5, 1.0), 1: (1.0, 0.9, 1.0)}
"""Of the rollouts of each iteration, which has one group."""


def make_run(folder: Path, served_model: Path, appworld_root: Path, lora: bool = True) -> RunDir:
    """Policy versions 0 to 2, which without `lora` are whole models; iteration 0 has its updates file, iteration 1 not yet."""
    config = served_config(
        served_model,
        runs_dir=str(folder),
        model={} if lora else {"lora": None},
        tasks={"root": str(appworld_root)},
        sampler={"tasks_per_iteration": 1, "rollouts_per_task": 3},
        trainer={"num_iterations": 2},
    )
    run = RunDir.create(config)
    chat = Chat.from_pretrained(config.model.path, config.agent)
    tasks = load_split(appworld_root, "train")
    for iteration, rewards in REWARDS.items():
        rollouts = [make_rollout(chat, tasks[iteration], iteration, k, reward) for k, reward in enumerate(rewards)]
        write_rollouts(run.group_file(iteration), rollouts)
        shutil.copytree(served_model / f"v{iteration + 1}", run.policy_folder(iteration + 1))
        if iteration == 0:
            advantages = dict(zip([r.rollout_id for r in rollouts], leave_one_out(rewards), strict=True))
            values = TokenValues([0.0] * rollouts[0].num_action_tokens, [0.0] * rollouts[0].num_action_tokens)
            write_updates(run.update_file(0), advantages, {rollouts[0].rollout_id: values})
    return run


def make_rollout(chat: Chat, task: TaskInfo, iteration: int, k: int, reward: float) -> Rollout:
    """Two turns; the first prints what a terminal would obey."""
    rng = random.Random(f"{iteration}/{k}")

    def turn(context_ids: list[int], code: str, observation: str) -> Turn:
        text = f"```python\n{code}\n```"
        action_ids = [*chat.encode(text), chat.end_of_turn_id]
        # Near what a random model gives, so that ratios lie on both sides of the clip range.
        logprobs = [rng.gauss(-5, 2) for _ in action_ids]
        return Turn(context_ids, action_ids, logprobs, iteration, text, code, observation)

    output = f"\x1b[31m{k}\n"
    first = turn(chat.first_turn(build_prompt("compact", task)), f"print('\x1b[31m{k}')", output)
    second = turn(chat.next_turn(chat.observation(output), chat.end_of_turn_id), "apis.supervisor.complete_task()", "")
    return Rollout(
        rollout_id=f"g{iteration:06d}-k{k}",
        group_id=iteration,
        iteration=iteration,
        task_id=task.task_id,
        family=task.scenario_id,
        labels={"difficulty": str(task.difficulty)},
        instruction=task.instruction,
        end_reason="completed" if reward == 1 else "max_turns",
        score=reward,
        ending="terminated",
        success=reward == 1,
        passes=[],
        failures=[],
        turns=[first, second],
        started_at=0.0,
        duration_s=1.0,
        generation_s=0.5,
        environment_s=0.5,
    )
