"""The little that training knows about tasks: the protocol an environment has to satisfy."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Task(Protocol):
    """One task, as the agent and the book-keeping need it."""

    task_id: str
    scenario_id: str
    difficulty: int
    instruction: str
    supervisor: dict[str, str]
    """first_name, last_name, email, phone_number of the person the agent works for."""
    datetime: str
    """The world's date and time, ISO 8601."""


class Observation(Protocol):
    """What came back from running one code block."""

    output: str
    completed: bool
    """The agent has declared the task complete."""
    api_calls: list[str]
    """What the code asked of the world, for the reader of the rollout only."""


class Score(Protocol):
    """How well an episode ended."""

    reward: float
    """Fraction of the task's unit tests passed, in [0, 1]."""
    success: bool
    passes: tuple[str, ...]
    failures: tuple[str, ...]
    tampered: bool
    """The episode did more than it may; its reward is 0."""


class Episode(Protocol):
    """One world, leased for one episode."""

    async def execute(self, code: str) -> Observation:
        """Run code in the world's REPL. Raises the environment's `WorkerLost` when the world is gone."""

    async def score(self) -> Score:
        """End the episode and score its final state; a lost world scores 0."""


class Environment(Protocol):
    """Hands out episodes; bounded by its own number of workers."""

    def episode(self, task: Task, experiment_name: str, keep_outputs: bool) -> AbstractAsyncContextManager[Episode]: ...
