"""One episode: a ReAct agent writes one code block a turn, reads what it printed, and goes on.

    async with environment.episode(task, experiment_name, keep_outputs=False) as episode:
        rollout = await run_episode(...)

An action is all the policy writes up to its end-of-turn token. Its first closed ```python block is run; the text
around it is thought. How an episode ends is one of `EndReason`; every end but a lost worker is scored by the state that
the world is in, so half-done tasks count too. Left out on purpose: answers in natural language (a turn without code
ends the episode) and any repair of malformed code.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from appworld_tasks.pool import SERVER_LOST, WorkerLost
from appworld_tasks.scoring import ScoringError
from loop_rl.agents.chat import Chat
from loop_rl.agents.policy import Policy
from loop_rl.config.settings import AgentConfig
from loop_rl.data.rollout import EndReason, Rollout, Turn
from loop_rl.environments.appworld.actions import extract_code
from loop_rl.environments.protocol import Environment, Episode, Score, Task

_NUM_ATTEMPTS = 3


@dataclass(frozen=True)
class EpisodeSettings:
    """How episodes are run; limits as in `loop_rl.config.settings.AgentConfig`."""

    max_turns: int
    max_new_tokens: int
    max_context_tokens: int
    temperature: float
    time_limit_s: float
    version: int | None
    """Policy version that answers; None is the newest at each turn."""

    @classmethod
    def training(cls, agent: AgentConfig) -> EpisodeSettings:
        """Every turn by the newest policy."""
        return cls._of(agent, agent.max_turns, agent.temperature, version=None)

    @classmethod
    def evaluation(cls, agent: AgentConfig, temperature: float, version: int) -> EpisodeSettings:
        """Every turn by one policy version."""
        return cls._of(agent, agent.max_eval_turns, temperature, version)

    @classmethod
    def _of(cls, agent: AgentConfig, max_turns: int, temperature: float, version: int | None) -> EpisodeSettings:
        return cls(max_turns, agent.max_new_tokens, agent.max_context_tokens, temperature, agent.time_limit_s, version)


@dataclass(frozen=True)
class Job:
    """One episode to be run, and the names under which it is kept."""

    task: Task
    rollout_id: str
    experiment_name: str
    seed: int
    """Every request of the episode gets a seed of its own made from this one."""
    group_id: int
    iteration: int
    """As in `Rollout`."""
    cut: asyncio.Event = field(default_factory=asyncio.Event, compare=False)
    """Once set, the episode ends before its next turn, as CUT_OFF."""


@dataclass
class _Clock:
    """Seconds that an episode has waited for each side."""

    generation_s: float = 0.0
    environment_s: float = 0.0


async def run_job(
    job: Job,
    environment: Environment,
    policy: Policy,
    chat: Chat,
    settings: EpisodeSettings,
    keep_outputs: bool = False,
) -> Rollout:
    """Run one episode and score it.

    A worker that is lost, even before the first turn, costs this episode only: it ends as WORKER_LOST with reward 0.
    An episode that cannot be scored, or is lost with the whole fork server, is run again, as nothing is known about how
    good it was; one that is lost so each time scores 0, because it may be what ends the server.

    Raises:
        PolicyError: the policy does not answer.
        ScoringError: several episodes in a row could not be scored.
    """
    for attempt in range(_NUM_ATTEMPTS):
        try:
            return await _run_once(job, attempt, environment, policy, chat, settings, keep_outputs)
        except (ScoringError, WorkerLost) as error:
            last_error = error
    raise last_error


async def _run_once(
    job: Job,
    attempt: int,
    environment: Environment,
    policy: Policy,
    chat: Chat,
    settings: EpisodeSettings,
    keep_outputs: bool,
) -> Rollout:
    started_at, started, clock = time.time(), time.monotonic(), _Clock()
    turns: list[Turn] = []
    score: Score | None = None
    failures: tuple[str, ...] = ()
    try:
        async with environment.episode(job.task, job.experiment_name, keep_outputs) as episode:
            clock.environment_s += time.monotonic() - started
            # The limit starts when the world is there: the wait for a free worker is not the agent's.
            end_reason = await _act(job, attempt, episode, policy, chat, settings, turns, clock)
            before = time.monotonic()
            score = await episode.score()
            clock.environment_s += time.monotonic() - before
            if score.tampered:
                end_reason = EndReason.TAMPERED
    except WorkerLost as lost:
        if lost.reason == SERVER_LOST and attempt + 1 < _NUM_ATTEMPTS:
            raise
        end_reason, failures = EndReason.WORKER_LOST, (f"worker lost: {lost}",)
        clock.environment_s = time.monotonic() - started - clock.generation_s
    return Rollout(
        rollout_id=job.rollout_id,
        group_id=job.group_id,
        iteration=job.iteration,
        task_id=job.task.task_id,
        scenario_id=job.task.scenario_id,
        difficulty=job.task.difficulty,
        instruction=job.task.instruction,
        end_reason=end_reason,
        reward=score.reward if score else 0.0,
        success=score.success if score else False,
        passes=list(score.passes if score else ()),
        failures=list(score.failures if score else failures),
        turns=turns,
        started_at=started_at,
        duration_s=time.monotonic() - started,
        generation_s=clock.generation_s,
        environment_s=clock.environment_s,
    )


async def _act(
    job: Job,
    attempt: int,
    episode: Episode,
    policy: Policy,
    chat: Chat,
    settings: EpisodeSettings,
    turns: list[Turn],
    clock: _Clock,
) -> EndReason:
    """Take turns until the episode ends. Finished turns are appended to `turns`, whatever happens next."""
    deadline = time.monotonic() + settings.time_limit_s
    context_ids = chat.first_turn(job.task)
    ids: list[int] = []
    while len(turns) < settings.max_turns:
        ids += context_ids
        room = settings.max_context_tokens - len(ids)
        if room < 1:
            return EndReason.CONTEXT_FULL

        # Between turns only: a server that hangs is an error of the policy, not an episode that was too slow.
        if time.monotonic() >= deadline:
            return EndReason.TIME_LIMIT
        if job.cut.is_set():
            return EndReason.CUT_OFF

        started = time.monotonic()
        sample = await policy.sample(
            ids,
            max_tokens=min(settings.max_new_tokens, room),
            temperature=settings.temperature,
            seed=_request_seed(job.seed, attempt, len(turns)),
            version=settings.version,
        )
        clock.generation_s += time.monotonic() - started
        ids += sample.token_ids
        text = chat.action_text(sample.token_ids)
        code = extract_code(text)
        turn = Turn(context_ids, sample.token_ids, sample.logprobs, sample.policy_version, text, code, observation="")
        turns.append(turn)
        if not code:
            return EndReason.NO_CODE

        started = time.monotonic()
        try:
            result = await episode.execute(code)  # bounded by the environment's own watchdog
        except WorkerLost:
            return EndReason.WORKER_LOST
        finally:
            clock.environment_s += time.monotonic() - started
        turn.api_calls = result.api_calls
        if result.completed:
            return EndReason.COMPLETED
        observation = chat.observation(result.output)
        turn.observation = observation.text
        context_ids = chat.next_turn(observation, sample.token_ids[-1])
    return EndReason.MAX_TURNS


def _request_seed(*parts: int) -> int:
    return random.Random(repr(parts)).getrandbits(62)  # vLLM takes 63 bits
