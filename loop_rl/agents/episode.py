"""One episode: the policy writes an action, the environment carries it out and answers, until one of them ends it.

    rollout = await run_episode(job, environment, Agent.training(policy, chat, config.agent))

An action is all that the policy writes up to its end-of-turn token; what in it is carried out, and what happens when there
is nothing to carry out, is the environment's business. Every end but a lost world is scored, so half-done tasks count too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from loop_rl.agents.chat import Chat
from loop_rl.agents.context import Context, WholeHistory, Window
from loop_rl.agents.policy import ContextFull, Policy
from loop_rl.config.settings import AgentConfig, Config
from loop_rl.data.rollout import Ending, EndReason, Rollout, Turn, training_id
from loop_rl.environments.protocol import Environment, Episode, EpisodeLost, Score, ScoringError, Step, Task

_NUM_ATTEMPTS = 3


class Pace(Protocol):
    """Who lets an episode take its turns one by one, and takes each as soon as it is done."""

    async def before_turn(
        self, turns: Sequence[Turn], next_ids: list[int], generation_s: float, environment_s: float
    ) -> None:
        """Waits until the next turn may be taken.

        Args:
            turns: those of the episode so far.
            next_ids: what the policy is to read.
            generation_s, environment_s: seconds spent so far, as in `Rollout`.
        """


@dataclass(frozen=True)
class Agent:
    """Who acts: a policy, how it reads, and its limits."""

    policy: Policy
    chat: Chat
    limits: AgentConfig
    max_turns: int
    temperature: float
    version: int | None = None
    """Policy version that answers; None is the newest at each turn."""
    keeps_next: bool = False
    """What would have been read next is kept, for a critic."""

    @classmethod
    def training(cls, policy: Policy, chat: Chat, limits: AgentConfig, keeps_next: bool = False) -> Agent:
        """Every turn by the newest policy."""
        return cls(policy, chat, limits, limits.max_turns, limits.temperature, keeps_next=keeps_next)

    @classmethod
    def evaluation(cls, policy: Policy, chat: Chat, limits: AgentConfig, temperature: float, version: int) -> Agent:
        """Every turn by one policy version."""
        return cls(policy, chat, limits, limits.max_eval_turns, temperature, version)


@dataclass(frozen=True)
class Job:
    """One episode to be run, and the names under which it is kept."""

    task: Task
    rollout_id: str
    outputs_name: str
    """Under which the environment may keep what the episode leaves behind."""
    seed: int
    """Every request of the episode gets a seed of its own made from this one."""
    group_id: int
    iteration: int
    """As in `Rollout`."""
    cut: asyncio.Event = field(default_factory=asyncio.Event, compare=False)
    """Once set, the episode ends before its next turn, as CUT_OFF."""
    pace: Pace | None = field(default=None, compare=False)
    """An episode with one has only one attempt: somebody has its first turns already."""


async def run_episode(job: Job, environment: Environment, agent: Agent, keep_outputs: bool = False) -> Rollout:
    """Run one episode and score it.

    A world that is lost, even before the first turn, costs this episode only: it ends as WORKER_LOST with reward 0.
    An episode that cannot be scored, or is lost in a way that says nothing about it, is run again; one that is lost so
    each time scores 0, because it may be what ends the others.

    Raises:
        PolicyError: the policy does not answer.
        ScoringError: several episodes in a row could not be scored.
    """
    for attempt in range(_NUM_ATTEMPTS - 1 if job.pace else 0, _NUM_ATTEMPTS):
        try:
            return await _Recorder(job, agent, attempt).run(environment, keep_outputs)
        except (ScoringError, EpisodeLost) as error:
            last_error = error
    raise last_error


class _Recorder:
    """One attempt at an episode, recorded as it goes."""

    def __init__(self, job: Job, agent: Agent, attempt: int) -> None:
        self._job = job
        self._agent = agent
        self._attempt = attempt
        self._turns: list[Turn] = []
        self._next_ids: list[int] = []
        self._generation_s = 0.0
        self._environment_s = 0.0

    async def run(self, environment: Environment, keep_outputs: bool) -> Rollout:
        started_at, started = time.time(), time.monotonic()
        score = Score(0.0, success=False)
        try:
            async with environment.episode(self._job.task, self._job.outputs_name, keep_outputs) as episode:
                self._environment_s += time.monotonic() - started
                # The limit starts when the world is there: the wait for room is not the agent's.
                context = make_context(self._agent, environment, self._job.task)
                reason, ending = await self._act(episode, context, time.monotonic() + self._agent.limits.time_limit_s)
                before = time.monotonic()
                score = await episode.score()
                self._environment_s += time.monotonic() - before
                if score.end:
                    reason, ending = score.end, Ending.TERMINATED
        except EpisodeLost as lost:
            if lost.says_nothing and self._attempt + 1 < _NUM_ATTEMPTS:
                raise
            reason, ending = EndReason.WORKER_LOST, Ending.BROKEN
            score = Score(0.0, success=False, failures=(f"worker lost: {lost}",))
            self._environment_s = time.monotonic() - started - self._generation_s
        return Rollout(
            rollout_id=self._job.rollout_id,
            group_id=self._job.group_id,
            iteration=self._job.iteration,
            task_id=self._job.task.task_id,
            family=self._job.task.family,
            labels=dict(self._job.task.labels),
            instruction=self._job.task.instruction,
            end_reason=reason,
            ending=ending,
            score=score.reward,
            success=score.success,
            passes=list(score.passes),
            failures=list(score.failures),
            turns=self._turns,
            started_at=started_at,
            duration_s=time.monotonic() - started,
            generation_s=self._generation_s,
            environment_s=self._environment_s,
            next_ids=self._next_ids,
        )

    async def _act(self, episode: Episode, context: Context, deadline: float) -> tuple[str, Ending]:
        """Take turns until the episode ends; why it did. Finished turns are recorded, whatever happens next."""
        ids: list[int] = []
        limit = ""
        while True:
            next_ids, extends = context.prompt()
            ids = ids + next_ids if extends else next_ids
            room = self._agent.limits.max_context_tokens - self._agent.chat.num_tokens(ids)
            if limit:
                return self._cut(limit, ids, room)
            if len(self._turns) >= self._agent.max_turns:
                return self._cut(EndReason.MAX_TURNS, ids, room)
            if room < 1:
                return EndReason.CONTEXT_FULL, Ending.TRUNCATED
            # Between turns only: a server that hangs is an error of the policy, not an episode that was too slow.
            if time.monotonic() >= deadline:
                return self._cut(EndReason.TIME_LIMIT, ids, room)
            if self._job.pace:
                await self._job.pace.before_turn(self._turns, ids, self._generation_s, self._environment_s)
            if self._job.cut.is_set():
                return self._cut(EndReason.CUT_OFF, ids, room)

            try:
                turn = await self._generate(ids, next_ids, extends, room)
            except ContextFull:
                return EndReason.CONTEXT_FULL, Ending.TRUNCATED
            ids = ids + turn.action_ids
            try:
                step = await self._step(episode, turn)
            except EpisodeLost as lost:
                turn.executed = lost.executed
                return EndReason.WORKER_LOST, Ending.BROKEN
            if step.end and not step.truncated:
                return step.end, Ending.TERMINATED
            shown = context.add(turn.action_ids, turn.executed, step.observation, step.reminder)
            limit = step.end  # the environment's own, which cuts the episode before its next turn
            if not limit:
                turn.observation = shown

    def _cut(self, reason: str, ids: list[int], room: int) -> tuple[str, Ending]:
        """The end of an episode that would have gone on with `ids`."""
        if self._agent.keeps_next and room > 0:
            self._next_ids = ids
        return reason, Ending.TRUNCATED

    async def _generate(self, ids: list[int], next_ids: list[int], extends: bool, room: int) -> Turn:
        """The policy's next action, recorded."""
        agent, started = self._agent, time.monotonic()
        generation = await agent.policy.sample(
            ids,
            max_tokens=min(agent.limits.max_new_tokens, room),
            temperature=agent.temperature,
            seed=_request_seed(self._job.seed, self._attempt, len(self._turns)),
            version=agent.version,
        )
        self._generation_s += time.monotonic() - started
        text = agent.chat.action_text(generation.token_ids)
        turn = Turn(
            next_ids,
            generation.token_ids,
            generation.logprobs,
            generation.policy_version,
            text,
            "",
            "",
            extends=extends,
        )
        self._turns.append(turn)
        return turn

    async def _step(self, episode: Episode, turn: Turn) -> Step:
        """Let the environment carry the action out; bounded by the environment's own watchdog."""
        started = time.monotonic()
        try:
            step = await episode.step(turn.action_text)
        finally:
            self._environment_s += time.monotonic() - started
        turn.executed, turn.valid, turn.reward, turn.log = step.executed, step.valid, step.reward, list(step.log)
        if not step.valid and (penalty := self._agent.limits.format_penalty):
            turn.reward = -penalty
        return step


def make_context(agent: Agent, environment: Environment, task: Task) -> Context:
    """The memory that `agent.memory` names."""
    limits = agent.limits
    if limits.memory == "whole":
        return WholeHistory(agent.chat, environment.prompt(task))
    thoughts = limits.window if limits.window_thoughts is None else limits.window_thoughts
    return Window(
        agent.chat,
        environment.first_observation(task),
        lambda observation: environment.prompt_from(task, observation),
        limits.window,
        thoughts,
    )


def first_seeds(job: Job) -> frozenset[int]:
    """Seeds of the first request of an episode, in each attempt: by them a policy knows that it begins anew."""
    return frozenset(_request_seed(job.seed, attempt, 0) for attempt in range(_NUM_ATTEMPTS))


def training_job(config: Config, task: Task, group_id: int, k: int) -> Job:
    """The k-th episode of a group."""
    rollout_id = training_id(group_id, k)
    seed = random.Random(f"{config.seed}/{rollout_id}").getrandbits(62)
    return Job(task, rollout_id, f"{config.name}-{rollout_id}", seed, group_id, iteration=-1)


def _request_seed(*parts: int) -> int:
    return random.Random(repr(parts)).getrandbits(62)  # vLLM takes 63 bits
