"""AppWorld worlds to run agent code in: a pool of warm worker processes, a fresh one for each episode.

    async with WorkerPool(root, python, num_workers=16) as pool:
        async with pool.world(task_id, experiment_name) as world:
            observation = await world.execute("print(apis.supervisor.show_profile())")

Time is kept here, outside: inside a world all clocks stand still at the task's date and time.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from appworld_tasks.processes import SERVER_LOST, EngineError, ForkedProcess, ProcessPool, WorkerLost
from appworld_tasks.roots import check_root, prepare_worker_root

__all__ = ["SERVER_LOST", "EngineError", "Observation", "WorkerLost", "WorkerPool", "World"]

NUM_OPEN_ATTEMPTS = 3
KILL_GRACE_S = 5.0  # for AppWorld to interrupt the code and save, on a busy machine
CLOSE_TIMEOUT_S = 30.0
MAX_INTERACTIONS = 1000  # AppWorld's own default; whoever runs the episode counts turns himself
RANDOM_SEED = 100  # AppWorld's own default: access tokens are the same in every run of a task


@dataclass(frozen=True)
class Observation:
    """What came back from running one piece of code."""

    output: str
    """What the code printed, or the error, as AppWorld words it; cut at the pool's `max_output_chars`."""
    completed: bool
    """Whether the agent has declared the task complete by now."""
    api_calls: list[str]
    """The API calls that the code made, in order: method, path and parameters as JSON, each cut at 1,000 characters."""


class WorkerPool:
    """Worker processes that run agent code.

    root: a full root, with AppWorld's data; workers get a copy without ground truth (see `roots`).
    python: the interpreter of AppWorld's virtual environment.
    num_workers: worlds open at the same time; further requests wait in line.
    execute_timeout_s: AppWorld interrupts code after this many seconds, and the agent is told so. Code that cannot be
        interrupted (a loop inside C, or one that catches the exception) is killed with its world KILL_GRACE_S later.
    open_timeout_s: seconds to open a world.
    max_output_chars: characters of one output that leave the worker.

    Entering raises RootError when the root or the interpreter is unusable, EngineError when AppWorld does not start.
    """

    def __init__(
        self,
        root: str | Path,
        python: str | Path,
        num_workers: int,
        *,
        execute_timeout_s: float = 30.0,
        open_timeout_s: float = 60.0,
        max_output_chars: int = 200_000,
    ) -> None:
        self.worker_root = prepare_worker_root(root)
        self._execute_timeout_s = execute_timeout_s
        self._open_timeout_s = open_timeout_s
        soft_timeout_s = math.ceil(execute_timeout_s)  # AppWorld takes whole seconds
        self._kill_timeout_s = soft_timeout_s + KILL_GRACE_S
        self._max_output_chars = max_output_chars
        self._processes = ProcessPool(
            python,
            self.worker_root,
            num_workers,
            {
                "role": "worker",
                "full_root": str(check_root(root)),
                "max_output_chars": max_output_chars,
                "soft_timeout_s": soft_timeout_s,
            },
            # Output and API calls; one character is at most 12 bytes of JSON.
            max_line_bytes=2 * 12 * max_output_chars + 65536,
        )
        self._lost: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        await self._processes.__aenter__()
        missing = {name: why for name, why in self.protections.items() if why}
        if missing:
            why = next(iter(missing.values()))
            print(f"warning: agent code is not fully isolated ({why}): {', '.join(missing)}", file=sys.stderr)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._processes.__aexit__(*exception)

    @property
    def protections(self) -> dict[str, str]:
        """What agent code is kept from: {protection: "" when it is enforced here, or why it is not}; once entered."""
        return self._processes.protections

    @asynccontextmanager
    async def world(self, task_id: str, experiment_name: str) -> AsyncIterator[World]:
        """A fresh world of a task; its outputs go to `experiments/outputs/<experiment_name>/tasks/<task_id>`.

        Two worlds of one task that are open together need different experiment names. The world is closed on leaving
        the body, or discarded when the body raises. Raises WorkerLost when it cannot be opened or closed.
        """
        world = await self._open(task_id, experiment_name)
        try:
            yield world
            if world.is_open:
                await world.close()
        finally:
            world.abandon()

    async def _open(self, task_id: str, experiment_name: str) -> World:
        """Open a world. No agent code has run so far, so a failure is nobody's doing, and is tried again."""
        for attempt in range(1, NUM_OPEN_ATTEMPTS + 1):
            world = World(self, await self._processes.acquire(), experiment_name, task_id)
            try:
                await world._call(
                    "open_seconds",
                    self._open_timeout_s,
                    command="open",
                    task_id=task_id,
                    experiment_name=experiment_name,
                    max_interactions=MAX_INTERACTIONS,
                    random_seed=RANDOM_SEED,
                )
                self._totals["episodes"] += 1
                return world
            except WorkerLost as lost:
                if attempt == NUM_OPEN_ATTEMPTS:
                    raise WorkerLost(lost.reason, f"task {task_id} does not open: {lost.detail}") from None
            except BaseException:
                world.abandon()
                raise
        raise AssertionError("unreachable")

    def metrics(self) -> dict[str, float]:
        """Counts and total seconds since the start, flat."""
        names = ("episodes", "executions", "open_seconds", "execute_seconds", "close_seconds")
        return {
            **{name: self._totals[name] for name in names},
            "wait_seconds": self._processes.wait_seconds,
            "server_restarts": self._processes.num_server_starts - 1,
            **{
                f"lost_{reason}": self._lost[reason]
                for reason in ("timeout", "crashed", "exited", "protocol", SERVER_LOST)
            },
        }


class World:
    """One open world, made by `WorkerPool.world`."""

    def __init__(self, pool: WorkerPool, process: ForkedProcess, experiment_name: str, task_id: str) -> None:
        self._pool = pool
        self._names = experiment_name, task_id
        self._process: ForkedProcess | None = process
        self._lost: WorkerLost | None = None

    @property
    def is_open(self) -> bool:
        """Neither closed nor lost."""
        return self._process is not None

    async def execute(self, code: str) -> Observation:
        """Run code in the world's session; names persist from one call to the next.

        Raises WorkerLost when the world is gone, and again on every later call.
        """
        self._pool._totals["executions"] += 1
        reply = await self._call("execute_seconds", self._pool._kill_timeout_s, command="execute", code=code)
        with self._watched("execute_seconds"):
            return _observation(reply, self._pool._max_output_chars)

    async def close(self) -> None:
        """Save the final state and give the process back. Raises WorkerLost, also when the world was lost before."""
        await self._call("close_seconds", CLOSE_TIMEOUT_S, command="close")
        with self._watched("close_seconds"):
            await self._process.server.collect(self._process, *self._names)
        self._release()

    def abandon(self) -> None:
        """Give the process back to be replaced, unless the world is closed or lost already."""
        if self.is_open:
            self._release()

    async def _call(self, timer: str, timeout_s: float, **request: Any) -> dict[str, Any]:
        if self._lost is not None:
            raise self._lost
        assert self._process is not None, "the world is closed"
        with self._watched(timer):
            return await self._process.call(request, timeout_s)

    @contextmanager
    def _watched(self, timer: str) -> Iterator[None]:
        """Count the seconds of the body; when it loses the world, or is cancelled, give the process up."""
        started = time.monotonic()
        try:
            yield
        except WorkerLost as lost:
            self._pool._lost[lost.reason] += 1
            self._lost = lost
            self._release()
            raise
        except asyncio.CancelledError:
            self.abandon()  # an answer may still come; nobody must take it for the answer to his own question
            raise
        finally:
            self._pool._totals[timer] += time.monotonic() - started

    def _release(self) -> None:
        assert self._process is not None
        process, self._process = self._process, None
        self._pool._processes.release(process)


def _observation(reply: dict[str, Any], max_chars: int) -> Observation:
    """Raises WorkerLost when a reply is none that our worker sends: agent code can get at the connection and forge one."""
    output, completed, api_calls = reply.get("output"), reply.get("completed"), reply.get("api_calls")
    texts = [output, *api_calls] if isinstance(api_calls, list) else [None]
    if completed not in (True, False) or not all(isinstance(text, str) for text in texts):
        raise WorkerLost("protocol", "an answer that is no observation")
    # A line about what was cut, and one more character, come on top.
    if any(len(text) > max_chars + 100 for text in texts) or sum(map(len, texts)) > 2 * max_chars + 200:
        raise WorkerLost("protocol", "an answer that is too long")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise WorkerLost("protocol", "an answer that is no text") from None
    return Observation(output, bool(completed), api_calls)
