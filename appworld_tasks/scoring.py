"""Scores of finished episodes, computed by AppWorld itself in processes that agent code never touches."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from appworld_tasks.engine.outputs import Unreplayable, digest, read_calls, read_saved_state
from appworld_tasks.processes import SERVER_LOST, EngineError, ForkedProcess, ProcessPool, WorkerLost
from appworld_tasks.roots import check_root, prepare_worker_root

NUM_ATTEMPTS = 2
_MOST_REMEMBERED = 20_000
"""Scores, of a kilobyte each."""


class ReplayDied(WorkerLost):
    """A scoring process ended while it did an episode's API calls."""


Scoring = Literal["replay", "diff"]


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
    tampered: bool = False
    """The world's state is not what its API calls give; `failures` says where, and the reward is 0."""


class Scorer:
    """Scores outputs that worlds have saved, against the ground truth of the full root. An async context manager.

    scoring: "replay" does the episode's logged API calls again in a clean world and evaluates that, so that nothing else
        that agent code did can gain a reward; an episode whose saved state is another is tampered and scores 0. An episode that
        has made the very calls of an earlier one and saved the same state scores the same, and is not replayed. "diff"
        evaluates the saved state, as AppWorld's own `appworld evaluate` does.

    Entering raises RootError when the root or the interpreter is unusable, EngineError when AppWorld does not start.
    """

    def __init__(
        self,
        full_root: str | Path,
        python: str | Path,
        *,
        scoring: Scoring = "replay",
        num_processes: int = 1,
        timeout_s: float = 60.0,
        replay_timeout_s: float = 300.0,
    ) -> None:
        self._outputs = prepare_worker_root(full_root) / "experiments" / "outputs"
        self._scoring = scoring
        self._timeout_s = timeout_s
        self._replay_timeout_s = replay_timeout_s
        self._remembered: dict[str, Score] = {}
        # Not below the worker root, where agent code can write.
        self._scratch = tempfile.TemporaryDirectory(prefix="scorer-")
        settings = {"role": "scorer", "scratch": self._scratch.name}
        self._processes = ProcessPool(python, check_root(full_root), num_processes, settings)

    async def __aenter__(self) -> Self:
        await self._processes.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._processes.__aexit__(*exception)
        self._scratch.cleanup()

    async def score(self, task_id: str, experiment_name: str) -> Score:
        """Score the outputs of a closed world. Raises ScoringError; the scorer stays usable."""
        if self._scoring == "replay":
            outputs = self._folder(task_id, experiment_name)
            if score := await asyncio.to_thread(self._remembered_score, task_id, outputs):
                return score
        score_once = self._by_replay if self._scoring == "replay" else self._by_diff
        for attempt in range(1, NUM_ATTEMPTS + 1):
            try:
                async with self._process() as process:
                    return await score_once(process, task_id, experiment_name)
            except EngineError as error:
                raise ScoringError(f"{task_id} in {experiment_name}: {error}") from error
            except ReplayDied as died:
                # Something else may have killed the process; what the calls themselves do they do again.
                if attempt == NUM_ATTEMPTS or died.reason == "timeout":
                    return tampered(f"its API calls end the world that replays them ({died})")
            except WorkerLost as lost:
                if attempt == NUM_ATTEMPTS:
                    raise ScoringError(f"{task_id} in {experiment_name}: {lost}") from lost
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[ForkedProcess]:
        """A process for the body alone."""
        process = await self._processes.acquire()
        try:
            yield process
        finally:
            self._processes.release(process)

    async def _by_diff(self, process: ForkedProcess, task_id: str, experiment_name: str) -> Score:
        request = {"command": "score", "task_id": task_id, "experiment_name": experiment_name}
        return _score(await process.call(request, self._timeout_s))

    def _remembered_score(self, task_id: str, outputs: str) -> Score | None:
        """That of an earlier episode which has left the same, byte by byte; policies do the same again and again."""
        try:
            return self._remembered.get(digest(task_id, read_calls(outputs), read_saved_state(outputs)))
        except Unreplayable:
            return None

    async def _by_replay(self, process: ForkedProcess, task_id: str, experiment_name: str) -> Score:
        outputs = self._folder(task_id, experiment_name)
        await process.call({"command": "open", "task_id": task_id}, self._timeout_s)
        try:
            reply = await process.call({"command": "replay", "outputs": outputs}, self._replay_timeout_s)
        except WorkerLost as lost:
            if lost.reason == SERVER_LOST:
                raise
            # The clean world was there; what ended it is most likely the agent's own doing.
            raise ReplayDied(lost.reason, lost.detail) from None
        if not reply["tampered"]:
            reply = await process.call({"command": "evaluate", "outputs": outputs}, self._timeout_s)
        if reply["tampered"]:
            return tampered(reply["tampered"])
        # By what the scoring process has read, which nobody can have changed since.
        while len(self._remembered) >= _MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return self._remembered.setdefault(reply["digest"], _score(reply))

    def _folder(self, task_id: str, experiment_name: str) -> str:
        return str(self._outputs / experiment_name / "tasks" / task_id)


def tampered(reason: str) -> Score:
    """The score of an episode that has done more than call APIs."""
    return Score(reward=0.0, success=False, passes=(), failures=(f"tampered: {reason}",), tampered=True)


def _score(reply: dict[str, Any]) -> Score:
    return Score(
        reward=len(reply["passes"]) / reply["num_tests"],
        success=reply["success"],
        passes=tuple(reply["passes"]),
        failures=tuple(reply["failures"]),
    )
