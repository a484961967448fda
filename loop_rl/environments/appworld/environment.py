"""AppWorld as an environment: a task is a chore of one person, an action a block of Python, run in a REPL with the APIs.

The first closed ```python block of what the policy writes is run, or all of them (`tasks.blocks`); the text around it is thought.
Left out on purpose: answers in natural language and any repair of malformed code.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from appworld_tasks import scoring
from appworld_tasks.environment import AppWorldEnvironment
from appworld_tasks.environment import Episode as AppWorldEpisode
from appworld_tasks.pool import SERVER_LOST, EngineError, WorkerLost
from appworld_tasks.reference import solution_steps
from appworld_tasks.roots import RootError, check_python, check_root
from appworld_tasks.splits import TEST_SPLITS, SplitError, TaskInfo, load_split, training_tasks
from loop_rl.config.base import ConfigError, LocalPath, Section
from loop_rl.data.messages import Message
from loop_rl.data.rollout import Rollout, Usage, version_name
from loop_rl.environments import protocol
from loop_rl.environments.appworld import behaviour, behaviour_paper
from loop_rl.environments.appworld.actions import extract_all_code, extract_code
from loop_rl.environments.appworld.demonstrations import solution_texts
from loop_rl.environments.appworld.ends import COMPLETED, NO_CODE, TAMPERED
from loop_rl.environments.appworld.failures import Evidence
from loop_rl.environments.appworld.figures import analyse, describe
from loop_rl.environments.appworld.prompts import build_prompt
from loop_rl.environments.behaviour import TextTurn
from loop_rl.environments.protocol import EnvironmentFailed, EpisodeLost, Score, ScoringError, Step, TaskError

_WORKERS_PER_SCORER = 8
_WITHOUT_CODE = "No complete ```python block was found, so nothing was run."


class Settings(Section):
    """Of `environment: appworld`."""

    root: LocalPath = ".appworld/builtin"
    """AppWorld root with `data/` (ground truth included; the workers get a copy without it)."""
    python: LocalPath = ".venv-appworld/bin/python"
    """Interpreter of AppWorld's own virtual environment."""
    prompt: Literal["full", "compact"] = "full"
    """`full` teaches an instruction-tuned model by a worked example; `compact` is for the tiny model. May stand as
    `agent.prompt`, too."""
    blocks: Literal["first", "all"] = "first"
    """Which code of a turn is run: its first closed ```python block, or all ```python and ```py blocks together, the last one also
    where it was not closed. Released: all."""
    on_no_code: Literal["end", "continue"] = "end"
    """What a turn without code does: ends the episode, or is told so and has another try. Released: continue."""
    remind: bool = False
    """Say the task again behind every observation. Released: true."""
    reward: Literal["fraction", "success"] = "fraction"
    """What an episode is worth: the fraction of the task's unit tests that pass, or 1 where all of them do and else 0. Paper: the
    first."""
    difficulties: list[int] = Field([1, 2])
    """Train on tasks of these difficulties. Paper: 1 and 2."""
    execute_timeout_s: float = Field(60.0, gt=0)
    """Seconds that one code block may run before its worker is killed from outside."""
    scoring: Literal["replay", "diff"] = "replay"
    """`replay` does an episode's API calls again in a clean world and scores that, so that no other deed of agent code
    counts; `diff` scores what the world has saved, AppWorld's own way, which agent code can forge."""

    @model_validator(mode="after")
    def _some_difficulty(self) -> Self:
        if not self.difficulties or not set(self.difficulties) <= {1, 2, 3}:
            raise ValueError(f"tasks.difficulties must be a non-empty choice of 1, 2, 3, not {self.difficulties}")
        return self


@dataclass(frozen=True)
class Task:
    """One chore."""

    task_id: str
    family: str
    """AppWorld's scenario; there are three tasks of each."""
    labels: Mapping[str, str]
    instruction: str
    supervisor: dict[str, str]
    """first_name, last_name, email, phone_number of the person who gives the task."""
    datetime: str
    """Date and time in the world, ISO 8601."""

    @classmethod
    def of(cls, info: TaskInfo) -> Task:
        labels = {"difficulty": str(info.difficulty)}
        return cls(info.task_id, info.scenario_id, labels, info.instruction, info.supervisor, info.datetime)


class Environment(protocol.Environment):
    """A pool of AppWorld's processes, and a scorer that agent code never touches."""

    Settings = Settings
    training_splits = ("train", "dev")
    held_out_splits = ("dev", *TEST_SPLITS)
    end_reasons = (COMPLETED, NO_CODE, TAMPERED)
    label_name = "difficulty"
    unit = "family"
    behaviours = behaviour.RATIOS + behaviour_paper.RATIOS

    async def __aenter__(self) -> Self:
        settings = self.settings
        try:
            self._worlds = AppWorldEnvironment(
                settings.root,
                settings.python,
                settings.num_workers,
                execute_timeout_s=settings.execute_timeout_s,
                scoring=settings.scoring,
                # Scoring does an episode's API calls again, and most of an episode is waiting for the policy.
                num_scorers=math.ceil(settings.num_workers / _WORKERS_PER_SCORER),
            )
            await self._worlds.__aenter__()
        except EngineError as error:
            raise EnvironmentFailed(str(error)) from error
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._worlds.__aexit__(*exception)

    def check(self, run_name: str) -> None:
        if "memory" in run_name:
            # Part of every AppWorld experiment's name, and so of a path; see roots.check_root.
            raise ConfigError(f"name={run_name}: AppWorld misreads paths with the word 'memory'; choose another name=")
        try:
            check_python(self.settings.python)
            check_root(self.settings.root)
        except RootError as error:
            raise ConfigError(str(error)) from error

    def tasks(self, split: str) -> list[Task]:
        with _task_errors():
            return [Task.of(info) for info in load_split(self.settings.root, split)]

    def training_tasks(self) -> list[Task]:
        settings = self.settings
        with _task_errors():
            infos = training_tasks(settings.root, settings.train_split, settings.difficulties, settings.task_ids)
        return [Task.of(info) for info in infos]

    def all_splits(self) -> list[str]:
        with _task_errors():
            return sorted(path.stem for path in (check_root(self.settings.root) / "data" / "datasets").glob("*.txt"))

    def prompt(self, task: Task) -> list[Message]:
        settings = self.settings
        return build_prompt(settings.prompt, task, settings.blocks == "all", settings.on_no_code == "continue")

    def demonstration(self, task: Task) -> list[str] | None:
        """AppWorld's reference solution, a top-level statement a turn."""
        with _task_errors():
            steps = solution_steps(self.settings.root, task.task_id)
        return solution_texts(steps) if steps else None

    @asynccontextmanager
    async def episode(self, task: Task, name: str, keep_outputs: bool) -> AsyncIterator[Episode]:
        """See `AppWorldEnvironment.episode`."""
        with _episode_errors():
            async with self._worlds.episode(task, name, keep_outputs) as world:
                yield Episode(world, task, self.settings)

    def outputs_name(self, run_name: str, version: int, split: str) -> str:
        """An AppWorld experiment's, of the form that `appworld pack` asks for."""
        return f"{re.sub(r'[^a-z0-9_-]', '-', run_name.lower())}-{version_name(version)}_{split}"

    def figures(self, tasks: Sequence[Task], rollouts: Sequence[Rollout], usages: Sequence[Usage]) -> dict[str, Any]:
        return describe(tasks, rollouts) | analyse(rollouts, usages, Evidence.of_root(self.settings.root))

    @classmethod
    def count_behaviour(cls, turns: Sequence[TextTurn], end_reason: str, num_action_tokens: int) -> Counter[str]:
        counts = behaviour.count_behaviour(turns, end_reason, num_action_tokens)
        counts.update(behaviour_paper.count_behaviour(turns))
        return counts

    @classmethod
    def gave_up(cls, turns: Sequence[TextTurn]) -> int | None:
        return next(iter(behaviour.failures(turns)[1]), None)

    @classmethod
    def has_failed(cls, turn: TextTurn) -> bool:
        """It held no code, or its code ended in an exception; of the turn that ends an episode only the first is known."""
        return not turn.valid or turn.observation.startswith(behaviour.FAILED)

    def typed(self, text: str) -> str:
        return text if "```" in text else f"```python\n{text}\n```"

    def hint(self, outputs_name: str, split: str) -> list[str]:
        root = self.settings.root
        lines = [f"AppWorld's own figures: appworld evaluate {outputs_name} {split} --root {root}"]
        if split in TEST_SPLITS:
            lines.append(f"For the leaderboard, afterwards: appworld pack {outputs_name} {split} ... --root {root}")
        return lines


class Episode:
    """One world and its REPL."""

    def __init__(self, world: AppWorldEpisode, task: Task, settings: Settings) -> None:
        self._world = world
        self._extract = extract_all_code if settings.blocks == "all" else extract_code
        self._ends_without_code = settings.on_no_code == "end"
        self._sparse = settings.reward == "success"
        self._reminder = f"\n\nTask: {task.instruction}" if settings.remind else ""

    async def step(self, action: str) -> Step:
        code = self._extract(action)
        if not code:
            end = NO_CODE if self._ends_without_code else ""
            return Step("" if end else _WITHOUT_CODE, end=end, valid=False, reminder=self._reminder)
        with _episode_errors(executed=code):
            result = await self._world.execute(code)
        end = COMPLETED if result.completed else ""
        return Step(result.output, end=end, executed=code, log=tuple(result.api_calls), reminder=self._reminder)

    async def score(self) -> Score:
        with _episode_errors():
            score = await self._world.score()
        reward = float(score.success) if self._sparse else score.reward
        return Score(reward, score.success, score.passes, score.failures, TAMPERED if score.tampered else "")


@contextmanager
def _task_errors():
    try:
        yield
    except (RootError, SplitError) as error:
        raise TaskError(str(error)) from error


@contextmanager
def _episode_errors(executed: str = ""):
    try:
        yield
    except WorkerLost as lost:
        raise EpisodeLost(str(lost), says_nothing=lost.reason == SERVER_LOST, executed=executed) from lost
    except scoring.ScoringError as error:
        raise ScoringError(str(error)) from error
