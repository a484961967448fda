"""What an environment is: tasks in splits, and episodes to act in.

`tasks.environment` names one: a file (or folder) of this package, or `module:Class` of any module that can be imported. The
settings of its own stand in the `tasks` section.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

from loop_rl.config.base import Section
from loop_rl.data.messages import Message
from loop_rl.data.rollout import Rollout, Usage, version_name
from loop_rl.environments.behaviour import ACTION_TOKENS, TURNS, VALID_ACTIONS, Ratio, TextTurn, count


class TaskError(ValueError):
    """A split or task that does not exist or must not be used; the message is one line."""


class EpisodeLost(RuntimeError):
    """The world of an episode is gone: its process hung, crashed or was killed.

    says_nothing: it went with others, for a reason that need not be its own, so it should be run again.
    executed: what it was carrying out.
    """

    def __init__(self, reason: str, says_nothing: bool = False, executed: str = "") -> None:
        super().__init__(reason)
        self.says_nothing = says_nothing
        self.executed = executed


class ScoringError(RuntimeError):
    """An episode could not be scored. That says nothing about how good it was: leave it out."""


class EnvironmentFailed(RuntimeError):
    """The environment does not start or has broken; nothing can be rolled out. One line that says why."""


class Task(Protocol):
    """One task, as the agent and the book-keeping need it."""

    task_id: str
    family: str
    """Tasks of one family differ in details only; AppWorld calls it a scenario."""
    instruction: str
    labels: Mapping[str, str]
    """What tables group tasks by, such as {"difficulty": "2"}; one label at most is shown."""


@dataclass(frozen=True)
class Step:
    """What one action did."""

    observation: str
    """What the policy reads next; unused once the episode has ended."""
    reward: float = 0.0
    end: str = ""
    """Why the environment ended the episode, in its own word, such as "completed"; empty: it goes on."""
    truncated: bool = False
    """With `end`: cut by the environment's own time limit, not ended by what happened in it."""
    executed: str = ""
    """What was carried out: of AppWorld the code, of a game the name of the action."""
    valid: bool = True
    """The text held an action; False: `executed` is what was done in its place, if anything."""
    log: tuple[str, ...] = ()
    """For the reader of the rollout only, such as API calls."""
    reminder: str = ""
    """What the policy reads behind the observation; a long observation is cut, this never is."""


@dataclass(frozen=True)
class Score:
    """How well an episode went, once it is over."""

    reward: float
    """On top of the rewards of its steps."""
    success: bool
    passes: tuple[str, ...] = ()
    """What was asked for and is done."""
    failures: tuple[str, ...] = ()
    end: str = ""
    """In place of the reason it ended for, where scoring found another."""


class Episode(Protocol):
    """One world, for one episode, as it is after the task's prompt."""

    async def step(self, action: str) -> Step:
        """Find the action in what the policy wrote, and carry it out. Raises EpisodeLost."""

    async def score(self) -> Score:
        """End the episode; a lost world scores 0. Raises ScoringError; EpisodeLost where nothing can be said."""


class Environment(ABC):
    """Made from the `tasks` section, cheaply: what costs time starts when it is entered, as an async context manager."""

    Settings: ClassVar[type[Section]] = Section
    """The settings that it adds to the `tasks` section."""
    training_splits: ClassVar[tuple[str, ...]] = ("train",)
    """May be trained on."""
    held_out_splits: ClassVar[tuple[str, ...]] = ("test",)
    """For evaluations; never trained on, unless they are training splits too."""
    end_reasons: ClassVar[tuple[str, ...]] = ("completed",)
    """Its own words for why an episode ends, beside those of `EndReason`."""
    has_window: ClassVar[bool] = False
    """Its episodes can be told from any observation on, as `agent.memory: window` does."""
    label_name: ClassVar[str] = "label"
    """Of what tables group tasks by."""
    unit: ClassVar[Literal["task_id", "family"]] = "task_id"
    """What of its tasks is independent of each other, for intervals: each task, or each family."""
    behaviours: ClassVar[tuple[Ratio, ...]] = (VALID_ACTIONS, TURNS, ACTION_TOKENS)
    """What tables and reports show of the counts of `count_behaviour`."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    async def __aenter__(self) -> Self:
        """Raises EnvironmentFailed."""
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None

    def check(self, run_name: str) -> None:
        """Raises ConfigError where something is missing or `run_name` cannot be used; before anything starts."""
        return

    @abstractmethod
    def tasks(self, split: str) -> Sequence[Task]:
        """Of one split, in order. Raises TaskError."""

    def training_tasks(self) -> Sequence[Task]:
        """Those of `tasks.train_split` that the settings choose. Raises TaskError, also for a split that is held out."""
        split = self.settings.train_split
        if split not in self.training_splits:
            raise TaskError(f"split {split!r} is for testing only; train on {' or '.join(self.training_splits)}")
        held_out = {task.task_id for other in self.held_out_splits if other != split for task in self.tasks(other)}
        tasks = self.tasks(split)
        if shared := sorted(task.task_id for task in tasks if task.task_id in held_out):
            raise TaskError(f"split {split!r} contains task {shared[0]}, which is held out; remove it")
        return select(tasks, self.settings.task_ids) if self.settings.task_ids else tasks

    def all_splits(self) -> list[str]:
        """Names of all splits there are."""
        return list(dict.fromkeys((*self.training_splits, *self.held_out_splits)))

    @abstractmethod
    def prompt(self, task: Task) -> list[Message]:
        """The messages before the first action, the same in every episode of the task."""

    def first_observation(self, task: Task) -> str:
        """What there is to see before the first action; only where `has_window` is true."""
        raise NotImplementedError

    def prompt_from(self, task: Task, observation: str) -> list[Message]:
        """The prompt as it would be if the episode began with this observation: what a memory window begins with; only where
        `has_window` is true."""
        raise NotImplementedError

    def demonstration(self, task: Task) -> list[str] | None:
        """What somebody who knows the solution writes, turn by turn; None where there is none."""
        return None

    @abstractmethod
    def episode(self, task: Task, name: str, keep_outputs: bool) -> AbstractAsyncContextManager[Episode]:
        """A fresh world of a task; waits until there is room. Raises EpisodeLost.

        name: under which the environment may keep what the episode leaves behind, with `keep_outputs` for good.
        """

    def outputs_name(self, run_name: str, version: int, split: str) -> str:
        """The name of what an evaluation leaves behind."""
        return f"{run_name}-{version_name(version)}-{split}"

    @abstractmethod
    def figures(self, tasks: Sequence[Task], rollouts: Sequence[Rollout], usages: Sequence[Usage]) -> dict[str, Any]:
        """What an evaluation says, as it is stored; see `environments.figures` for what every environment can say.

        A measure is {label: {"value", "low", "high", "num"}} with the label "all" first.
        """

    @classmethod
    def count_behaviour(cls, turns: Sequence[TextTurn], end_reason: str, num_action_tokens: int) -> Counter[str]:
        """What the agent did in one rollout."""
        return count(turns, num_action_tokens)

    @classmethod
    def gave_up(cls, turns: Sequence[TextTurn]) -> int | None:
        """Index of the first turn after whose failure the agent gave up, for the report; None where it did not, or where
        there is nothing to fail."""
        return None

    @classmethod
    def has_failed(cls, turn: TextTurn) -> bool:
        """Whether a turn ended in an error. Here: its text held no action that the environment knows."""
        return not turn.valid

    def typed(self, text: str) -> str:
        """What a person typed as an action (`loop_rl play`), as the policy would have written it."""
        return text

    def hint(self, outputs_name: str, split: str) -> list[str]:
        """Lines to print after an evaluation."""
        return []


def select(tasks: Sequence[Task], task_ids: Sequence[str]) -> list[Task]:
    """The tasks with these ids, in this order. Raises TaskError for an id that is not among them."""
    by_id = {task.task_id: task for task in tasks}
    for task_id in task_ids:
        if task_id not in by_id:
            near = difflib.get_close_matches(task_id, by_id, n=1, cutoff=0.0)
            raise TaskError(
                f"no task {task_id!r} in this split; did you mean {near[0]!r}?" if near else "the split is empty"
            )
    return [by_id[task_id] for task_id in task_ids]
