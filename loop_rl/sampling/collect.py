"""Many episodes at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any

from loop_rl.agents.episode import Agent, Job, run_episode
from loop_rl.data.rollout import Rollout
from loop_rl.environments.protocol import Environment, ScoringError


async def collect(
    jobs: AsyncIterator[Job],
    environment: Environment,
    agent_of: Callable[[Job], Agent],
    num_concurrent: int,
    on_finished: Callable[[Rollout], None],
    *,
    on_unscorable: Callable[[Job, ScoringError], None] | None = None,
    keep_outputs: bool = False,
) -> None:
    """Run all jobs, `num_concurrent` at a time, each with its agent; call `on_finished` with each rollout as it ends.

    Jobs are asked for one by one, whenever there is room for one more. The first error, wherever it comes from, cancels the
    rest and is raised as it is; but with `on_unscorable` an episode that cannot be scored is handed to that instead.
    """
    turnstile = asyncio.Lock()

    async def work() -> None:
        while True:
            async with turnstile:
                if (job := await anext(jobs, None)) is None:
                    return
            try:
                on_finished(await run_episode(job, environment, agent_of(job), keep_outputs))
            except ScoringError as error:
                if not on_unscorable:
                    raise
                on_unscorable(job, error)

    await all_together([work() for _ in range(num_concurrent)])


async def all_together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all works to their end; the first error cancels the rest and is raised as it is."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_order(jobs: Iterable[Job]) -> AsyncIterator[Job]:
    """Jobs that are all known beforehand, for `collect`."""
    for job in jobs:
        yield job
