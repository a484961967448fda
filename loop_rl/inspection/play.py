"""Be the agent: act in a task's world with the agent's own prompt, observation cuts and limits, and see the score.

    loop_rl play                                                        list some tasks
    loop_rl play --task train-001-note-lookup_1                         of configs/tiny.yaml
    loop_rl play --config configs/qwen2.5-7b.yaml --task 82e2fac_1

Each turn shows what the model would read next, special tokens written out. Write an action, on as many lines as needed; a
line with a single dot, or Ctrl-D, ends the turn. In AppWorld it is Python and becomes the ```python block of the action; write
the fences yourself to put thoughts around them. A turn without code ends the episode, as it does for the agent. Only the
agent's limit on wall time does not apply. Ctrl-C leaves without a score.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import select
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loop_rl.agents.chat import Chat
from loop_rl.agents.episode import Agent, Job, run_episode
from loop_rl.agents.policy import Generation
from loop_rl.config.load import load_config
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.config.settings import Config
from loop_rl.data.rollout import Rollout
from loop_rl.environments.protocol import Environment, EnvironmentFailed, ScoringError, Task
from loop_rl.inspection.find import all_tasks, find_task
from loop_rl.inspection.inert import inert
from loop_rl.machine.command import run_async, run_command

_NUM_LISTED = 5
_POLL_S = 0.05
_END_OF_TURN = "."

console = Console(highlight=False, soft_wrap=True)


class Person:
    """A policy that reads its actions from standard input."""

    def __init__(self, chat: Chat, environment: Environment) -> None:
        self._chat = chat
        self._environment = environment
        self._known_ids: list[int] = []
        self._unread = b""

    async def sample(
        self, prompt_ids: list[int], max_tokens: int, temperature: float, seed: int, version: int | None
    ) -> Generation:
        """Show what is new in the prompt and read an action; one that is too long is asked for again."""
        # An episode that could not be scored starts again, from another prompt.
        is_continued = prompt_ids[: len(self._known_ids)] == self._known_ids
        _say(self._chat.decode(prompt_ids[len(self._known_ids) if is_continued else 0 :]))
        while True:
            token_ids = [*self._chat.encode(await self._read_action()), self._chat.end_of_turn_id]
            if len(token_ids) <= max_tokens:
                break
            _say(f"That is {len(token_ids)} tokens, the agent has {max_tokens} in this turn; write it again.", "red")
        self._known_ids = prompt_ids + token_ids
        return Generation(token_ids, [0.0] * len(token_ids), policy_version=0)

    async def _read_action(self) -> str:
        lines = []
        while (line := await self._read_line()) and line.rstrip("\r\n") != _END_OF_TURN:
            lines.append(line)
        return self._environment.typed("".join(lines).rstrip("\n"))

    async def _read_line(self) -> str:
        """A line with its end; what came before Ctrl-D or the end of the input, nothing included.

        Waits in small steps, so that Ctrl-C can cancel it: a thread that reads would only end with the next line.
        """
        while b"\n" not in self._unread:
            while not select.select([sys.stdin], [], [], 0)[0]:
                await asyncio.sleep(_POLL_S)
            if not (received := os.read(sys.stdin.fileno(), 65_536)):
                break
            self._unread += received
        line, end, self._unread = self._unread.partition(b"\n")
        return (line + end).decode("utf-8", "replace")


async def play(task: Task, environment: Environment, config: Config) -> Rollout:
    """One episode by a person.

    Raises:
        ChatError: the model's tokenizer cannot be used.
        EnvironmentFailed: the environment does not start.
        ScoringError: the episode cannot be scored.
    """
    chat = Chat.from_pretrained(config.model.path, config.agent)
    limits = config.agent.model_copy(update={"time_limit_s": math.inf})
    agent = Agent.evaluation(Person(chat, environment), chat, limits, config.evaluation.temperature, version=0)
    name = f"play-{os.getpid()}"
    job = Job(task, rollout_id=name, outputs_name=name, seed=0, group_id=0, iteration=-1)
    _say(f"{task.task_id}: {agent.max_turns} turns of at most {limits.max_new_tokens} tokens", "bold")
    _say(f"A line with only {_END_OF_TURN} or Ctrl-D ends a turn, Ctrl-C leaves.\n", "bold")
    async with environment:
        return await run_episode(job, environment, agent)


def score_table(rollout: Rollout) -> Table:
    """Every unit test, passed or failed."""
    table = Table(title=f"score {rollout.reward:.3f}, ended by {rollout.end_reason}, {len(rollout.turns)} turns")
    table.add_column("passed")
    table.add_column("test")
    for mark, tests in ((Text("yes", "green"), rollout.passes), (Text("no", "red"), rollout.failures)):
        for test in tests:
            table.add_row(mark, Text(inert(test)))
    return table


def task_lines(environment: Environment) -> Iterator[str]:
    """The first tasks of every split. Raises TaskError."""
    for split, group in groupby(all_tasks(environment), key=lambda pair: pair[0]):
        tasks = [task for _, task in group]
        yield f"{split} ({len(tasks)} tasks)"
        yield from (f"  {task.task_id}  {task.instruction}" for task in tasks[:_NUM_LISTED])


def _say(text: str, style: str = "") -> None:
    console.print(Text(inert(text), style))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/tiny.yaml"), help="(default: %(default)s)")
    parser.add_argument("--task", metavar="TASK", help="task id, of any split (default: list some)")
    args = parser.parse_args()
    return run_command(lambda: _play(args), "left; the world is closed", (EnvironmentFailed, ScoringError))


def _play(args: argparse.Namespace) -> None:
    config = load_config(args.config, ["tasks.num_workers=1"])
    environment = make_part(ENVIRONMENT, config)
    if not args.task:
        for line in task_lines(environment):
            _say(line)
        _say("choose one with --task TASK")
        return
    rollout = run_async(play(find_task(environment, args.task), environment, config))
    console.print(score_table(rollout))


if __name__ == "__main__":
    sys.exit(main())
