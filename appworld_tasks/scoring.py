"""Scores of finished episodes, computed by AppWorld itself in processes that agent code never touches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from appworld_tasks.processes import EngineError, ProcessPool, WorkerLost
from appworld_tasks.roots import check_root, prepare_worker_root

NUM_ATTEMPTS = 2
RECYCLE_AFTER = 500  # scores of one process: AppWorld keeps a little of every database it has opened


class ScoringError(RuntimeError):
    """An episode could not be scored. That says nothing about how good it was: leave it out."""


@dataclass(frozen=True)
class Score:
    """How well an episode ended."""

    reward: float
    """Fraction of the task's unit tests that pass, in [0, 1]."""
    success: bool
    """All of them pass."""
    passes: tuple[str, ...]
    """Requirements of the tests that pass."""
    failures: tuple[str, ...]
    """Requirements of the tests that fail."""


class Scorer:
    """Scores outputs that worlds have saved, against the ground truth of the full root. An async context manager.

    Entering raises RootError when the root or the interpreter is unusable, EngineError when AppWorld does not start.
    """

    def __init__(
        self, full_root: str | Path, python: str | Path, *, num_processes: int = 1, timeout_s: float = 60.0
    ) -> None:
        prepare_worker_root(full_root)
        self._timeout_s = timeout_s
        self._processes = ProcessPool(python, check_root(full_root), num_processes, RECYCLE_AFTER, {"role": "scorer"})

    async def __aenter__(self) -> Self:
        await self._processes.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._processes.__aexit__(*exception)

    async def score(self, task_id: str, experiment_name: str) -> Score:
        """Score the outputs of a closed world. Raises ScoringError; the scorer stays usable."""
        for attempt in range(1, NUM_ATTEMPTS + 1):
            try:
                return await self._score_once(task_id, experiment_name)
            except EngineError as error:
                raise ScoringError(f"{task_id} in {experiment_name}: {error}") from error
            except WorkerLost as lost:
                if attempt == NUM_ATTEMPTS:
                    raise ScoringError(f"{task_id} in {experiment_name}: {lost}") from lost
        raise AssertionError("unreachable")

    async def _score_once(self, task_id: str, experiment_name: str) -> Score:
        process = await self._processes.acquire()
        finished = False
        try:
            reply = await process.call({"task_id": task_id, "experiment_name": experiment_name}, self._timeout_s)
            finished = True
        finally:
            self._processes.release(process, reusable=finished)
        return Score(
            reward=len(reply["passes"]) / reply["num_tests"],
            success=reply["success"],
            passes=tuple(reply["passes"]),
            failures=tuple(reply["failures"]),
        )
