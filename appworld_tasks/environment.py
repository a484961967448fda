"""AppWorld as training and evaluation see it: episodes to act in, and their scores.

async with AppWorldEnvironment(root, python, num_workers=16) as environment:
    async with environment.episode(task, "my-run", keep_outputs=False) as episode:
        observation = await episode.execute(code)
        score = await episode.score()
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

from appworld_tasks.pool import SERVER_LOST, Observation, WorkerLost, WorkerPool, World
from appworld_tasks.scoring import Score, Scorer, Scoring
from appworld_tasks.splits import TaskInfo


class AppWorldEnvironment:
    """A worker pool and a scorer on one root. An async context manager; errors on entering as for these two.

    The parameters are those of `WorkerPool`; `scoring`, see `Scorer`; and `num_scorers`, the number of episodes scored at the same time.
    """

    def __init__(
        self,
        root: str | Path,
        python: str | Path,
        num_workers: int,
        *,
        scoring: Scoring = "replay",
        num_scorers: int = 1,
        execute_timeout_s: float = 30.0,
        max_output_chars: int = 200_000,
    ) -> None:
        self.pool = WorkerPool(
            root,
            python,
            num_workers,
            execute_timeout_s=execute_timeout_s,
            max_output_chars=max_output_chars,
        )
        self.scorer = Scorer(root, python, scoring=scoring, num_processes=num_scorers)
        # What an episode writes is nobody else's, also where several runs of one name share a root.
        self._own = secrets.token_hex(6)
        self._episodes = itertools.count()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            # Together, because each takes seconds to warm up.
            parts = (self.pool, self.scorer)
            results = await asyncio.gather(*(part.__aenter__() for part in parts), return_exceptions=True)
            for part, result in zip(parts, results, strict=True):
                if not isinstance(result, BaseException):
                    stack.push_async_exit(part)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            stack.callback(_claim(self.pool.worker_root / "experiments", self._own))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def episode(self, task: TaskInfo, experiment_name: str, keep_outputs: bool) -> AsyncIterator[Episode]:
        """A fresh world of a task; waits for a free worker.

        experiment_name: begins the name under which AppWorld plays it. ValueError for one that cannot be a name.
        keep_outputs: keep what AppWorld has saved under `experiment_name`, in place of what is there of the task, so that
            `appworld evaluate <experiment_name> <split> --root <root>` finds it once every task of the split is there;
            otherwise delete it in the end.

        Raises WorkerLost when the world cannot be opened.
        """
        if not re.fullmatch(r"\w[\w.+-]*", experiment_name) or "memory" in experiment_name:
            raise ValueError(
                f"bad experiment name {experiment_name!r}: use letters, digits and . + - _, without the word 'memory'"
            )
        own_name = f"{experiment_name}.{self._own}-{next(self._episodes)}"
        own, kept = (
            self.pool.worker_root / "experiments" / "outputs" / name / "tasks" / task.task_id
            for name in (own_name, experiment_name)
        )
        try:
            async with self.pool.world(task.task_id, own_name) as world:
                yield Episode(self, task, own_name, own, keep_outputs, world)
        finally:
            if keep_outputs:
                await asyncio.to_thread(_move, own, kept)
            await asyncio.to_thread(_delete, own)

    def metrics(self) -> dict[str, float]:
        """See `WorkerPool.metrics`."""
        return self.pool.metrics()


class Episode:
    """One world, from the first piece of code to the score."""

    def __init__(
        self,
        environment: AppWorldEnvironment,
        task: TaskInfo,
        experiment_name: str,
        outputs: Path,
        keep_outputs: bool,
        world: World,
    ) -> None:
        self.task = task
        self.outputs = outputs
        """What AppWorld saves of it, until the episode is left."""
        self._environment = environment
        self.experiment_name = experiment_name
        """Under which AppWorld plays it; no other episode has it."""
        self._keep_outputs = keep_outputs
        self._world = world

    async def execute(self, code: str) -> Observation:
        """Run code in the world's session. Raises WorkerLost when the world is gone; then only `score` is left."""
        return await self._world.execute(code)

    async def score(self) -> Score:
        """Close the world, freeing its worker, and score what it saved; a lost world scores 0.

        Raises ScoringError; and WorkerLost when the world was lost with the whole fork server, which says nothing about it.
        """
        try:
            await self._world.close()
        except WorkerLost as lost:
            if self._keep_outputs:
                await self._save_untouched_world()
            if lost.reason == SERVER_LOST:
                raise
            return Score(reward=0.0, success=False, passes=(), failures=(f"worker lost: {lost}",))
        score = await self._environment.scorer.score(self.task.task_id, self.experiment_name)
        if score.tampered and self._keep_outputs:
            await self._save_untouched_world()
        return score

    async def _save_untouched_world(self) -> None:
        """Replace what a lost or forged world has left behind, so that `appworld evaluate` finds no success there either."""
        async with self._environment.pool.world(self.task.task_id, self.experiment_name):
            pass


def _claim(experiments: Path, own: str) -> Callable[[], None]:
    """Say that outputs named after `own` are in use, as long as this process lives; returns what ends that.

    Deletes what processes that did not live to do so have left.
    """
    folder = experiments / "in-use"
    folder.mkdir(exist_ok=True)
    mine = folder / own
    lock = mine.open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    for other in folder.iterdir():
        with contextlib.suppress(BlockingIOError, FileNotFoundError), other.open() as of_other:
            fcntl.flock(of_other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for outputs in (experiments / "outputs").glob(f"*.{other.name}-*"):
                shutil.rmtree(outputs, ignore_errors=True)
            other.unlink()

    def release() -> None:
        mine.unlink(missing_ok=True)
        lock.close()

    return release


def _move(outputs: Path, final: Path) -> None:
    """Put a task's outputs, if there are any, in the place of what is at `final`."""
    final.parent.mkdir(parents=True, exist_ok=True)
    while outputs.exists():
        shutil.rmtree(final, ignore_errors=True)
        try:
            outputs.rename(final)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # somebody else keeps the same at this moment
                raise


def _delete(outputs: Path) -> None:
    """Delete a task's outputs, and the experiment's folders when these were the last."""
    shutil.rmtree(outputs, ignore_errors=True)
    with contextlib.suppress(OSError):
        outputs.parent.rmdir()
        outputs.parent.parent.rmdir()
