"""A discrete-event simulation of sampler and trainer: where the time goes when both are as fast as they are.

Episodes alternate between two stations, the vLLM servers and AppWorld. All that are at a station progress at the same
time, each the slower the more they are (a `Curve`). `num_workers` episodes are under way at most. Nothing else is
simulated: no failures, no restarts, no evaluation.

A station keeps how much work each of its requests has been given since the simulation began. A request with w units
of work is finished when that has grown by w, so the next one to finish is on top of a heap, and an event costs O(log n).
"""

from __future__ import annotations

import heapq
import math
import random
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loop_rl.planning.workload import Episode, Workload
from loop_rl.sampling.assignment import Outstanding, choose, max_outstanding, too_old


@dataclass(frozen=True)
class Curve:
    """Seconds that one unit of work takes, for each of n requests at the same time: base_s + per_request_s * n."""

    base_s: float
    per_request_s: float
    beside_training: float = 1.0
    """Factor while the trainer works, where they share a machine's cores or a GPU."""


@dataclass(frozen=True)
class System:
    """The machines, as the simulation sees them."""

    num_workers: int
    generation: Curve
    """A unit is one token that the policy writes; the context it reads is in the curve."""
    environment: Curve
    training_s: Callable[[Sequence[Sequence[int]]], float]
    """Seconds of one iteration's update, given the lengths in tokens of the samples of each rollout that is trained on."""
    publish_s: float = 0.0
    """Seconds from the last optimiser step until the servers answer with the new version."""
    num_replicas: int = 1
    """vLLM servers, between which requests are shared out evenly."""
    max_requests: float = math.inf
    """Requests that the KV cache of one replica holds; more wait their turn."""
    training_beside_sampling: float = 1.0
    """Factor on training_s while rollouts are in flight."""


@dataclass(frozen=True)
class Discipline:
    """Which rollouts may be sampled when, and which are trained on: by the rules of loop_rl.sampling.assignment."""

    name: str
    max_staleness: int
    wait: bool = True
    """`sampler.over_stale: refuse`; otherwise groups that have become too old are dropped."""


SYNCHRONOUS = Discipline("synchronous", 0)
ONE_BEHIND = Discipline("one behind", 1)
ASYNCHRONOUS = Discipline("asynchronous", 3)
DISCIPLINES = (SYNCHRONOUS, ONE_BEHIND, ASYNCHRONOUS)


@dataclass
class Outcome:
    """What was seen, after the first iterations that are left out."""

    seconds: float
    iterations: int
    rollouts_per_minute: float
    sampler_idle: float
    """Share of worker-seconds without an episode."""
    trainer_idle: float
    """Share of the time in which the trainer waits."""
    staleness: dict[int, float]
    """Share of the trained tokens by how many versions old they are."""
    batches: list[list[int]]
    """Groups of every iteration, the left out ones included."""

    @property
    def iteration_s(self) -> float:
        return self.seconds / self.iterations


class _Station:
    """Requests that progress side by side."""

    def __init__(self, curve: Curve, num_replicas: int, max_requests: float) -> None:
        self._curve = curve
        self._replicas = num_replicas
        self._most = max_requests * num_replicas
        self._given = 0.0
        self._active: list[tuple[float, int, _Rollout]] = []
        self._waiting: deque[tuple[float, int, _Rollout]] = deque()

    def add(self, work: float, number: int, rollout: _Rollout) -> None:
        if len(self._active) < self._most:
            heapq.heappush(self._active, (self._given + work, number, rollout))
        else:
            self._waiting.append((work, number, rollout))

    def unit_s(self, training: bool) -> float:
        """Seconds that a unit of work takes now."""
        curve = self._curve
        per_replica = max(1.0, len(self._active) / self._replicas)
        return (curve.base_s + curve.per_request_s * per_replica) * (curve.beside_training if training else 1.0)

    def next_in(self, unit_s: float) -> float:
        """Seconds until a request is finished."""
        return max(0.0, self._active[0][0] - self._given) * unit_s if self._active else math.inf

    def advance(self, seconds: float, unit_s: float) -> None:
        if self._active and unit_s:
            self._given += seconds / unit_s

    def pop(self) -> _Rollout:
        """Take out the request that is finished."""
        self._given, _, rollout = heapq.heappop(self._active)
        if self._waiting:
            self.add(*self._waiting.popleft())
        return rollout


@dataclass
class _Rollout:
    group: _Group
    episode: Episode
    kept: bool
    turn: int = 0
    tokens_of: Counter[int] = field(default_factory=Counter)
    """Action tokens by policy version."""


@dataclass
class _Group:
    number: int
    started_at: int
    """Policy version when its first rollout started."""
    finished: list[_Rollout] = field(default_factory=list)


def simulate(
    system: System,
    workload: Workload,
    discipline: Discipline,
    groups_per_iteration: int,
    rollouts_per_group: int,
    iterations: int = 8,
    left_out: int = 2,
    seed: int = 0,
) -> Outcome:
    """Run `iterations` iterations and describe all but the first `left_out`, in which nothing is in its stride yet.

    Episodes are drawn from the workload, with replacement, each whole; those of a group have no more in common than others.
    """
    run = _Run(system, workload, discipline, groups_per_iteration, rollouts_per_group, left_out, seed)
    while run.version < iterations:
        run.start_episodes()
        run.start_training()
        run.advance()
    return run.outcome(iterations)


class _Run:
    """A run under way."""

    def __init__(
        self,
        system: System,
        workload: Workload,
        discipline: Discipline,
        groups_per_iteration: int,
        rollouts_per_group: int,
        left_out: int,
        seed: int,
    ) -> None:
        self._system, self._workload, self._discipline = system, workload, discipline
        self._groups_per_iteration, self._rollouts_per_group = groups_per_iteration, rollouts_per_group
        self._left_out = left_out
        self._rng = random.Random(seed)
        self._generation = _Station(system.generation, system.num_replicas, system.max_requests)
        self._environment = _Station(system.environment, 1, math.inf)
        self.version = 0
        self._now = self._busy_worker_s = self._busy_trainer_s = 0.0
        self._start = (0.0, 0.0, 0.0)
        """The three when version `left_out` was there."""
        self._in_flight = self._num_started = self._to_start = self._num_requests = 0
        self._group: _Group | None = None
        """The one whose rollouts are being started."""
        self._groups: dict[int, _Group] = {}
        self._batches: list[list[int]] = []
        self._staleness: Counter[int] = Counter()
        self._training_left, self._training, self._changed = 0.0, False, False

    def start_episodes(self) -> None:
        """As many as workers and staleness allow."""
        while self._in_flight < self._system.num_workers:
            if self._to_start == 0 and not self._begin_group():
                return
            self._in_flight += 1
            self._to_start -= 1
            episode = self._rng.choice(self._workload.episodes)
            self._request(_Rollout(self._group, episode, self._rng.random() < self._workload.share_kept))

    def _begin_group(self) -> bool:
        # What is seen is a part of a longer run: sampling does not end with it.
        most = max_outstanding(
            self.version,
            len(self._batches),
            self._groups_per_iteration,
            self._discipline.max_staleness,
            num_iterations=sys.maxsize,
        )
        if len(self._groups) >= most:
            return False
        self._group = self._groups[self._num_started] = _Group(self._num_started, self.version)
        self._num_started, self._to_start = self._num_started + 1, self._rollouts_per_group
        return True

    def start_training(self) -> None:
        """On the next batch, where the trainer is free and there is one."""
        if self._training or not self._changed:
            return
        self._changed = False
        limit = self._discipline.max_staleness
        for dropped in too_old(self._outstanding(), self.version, limit):
            self._to_start = 0 if self._groups.pop(dropped) is self._group else self._to_start
        batch = choose(self._outstanding(), self.version, self._groups_per_iteration, limit, self._discipline.wait)
        if not batch:
            return
        self._batches.append(batch)
        rollouts = [rollout for chosen in batch for rollout in self._groups.pop(chosen).finished]
        for rollout in rollouts:
            for sampled_by, tokens in rollout.tokens_of.items():
                self._staleness[self.version - sampled_by] += tokens * (self.version >= self._left_out)
        lengths = [rollout.episode.samples for rollout in rollouts if rollout.kept]
        self._training_left = self._system.training_s(lengths) + self._system.publish_s
        self._training = True

    def advance(self) -> None:
        """To whatever ends next: the training, a generation, an execution."""
        factor = self._system.training_beside_sampling if self._in_flight else 1.0
        trained_in = self._training_left * factor if self._training else math.inf
        token_s, execution_s = self._generation.unit_s(self._training), self._environment.unit_s(self._training)
        generated_in, executed_in = self._generation.next_in(token_s), self._environment.next_in(execution_s)
        seconds = min(trained_in, generated_in, executed_in)
        assert seconds < math.inf, "nothing is under way"

        self._now += seconds
        self._busy_worker_s += seconds * self._in_flight
        self._busy_trainer_s += seconds * self._training
        self._training_left -= seconds / factor
        self._generation.advance(seconds, token_s)
        self._environment.advance(seconds, execution_s)
        if trained_in == seconds:
            self.version, self._training, self._changed = self.version + 1, False, True
            if self.version == self._left_out:
                self._start = (self._now, self._busy_worker_s, self._busy_trainer_s)
        elif generated_in == seconds:
            rollout = self._generation.pop()
            self._num_requests += 1
            self._environment.add(rollout.episode.environment[rollout.turn], self._num_requests, rollout)
        else:
            self._end_turn(self._environment.pop())

    def _end_turn(self, rollout: _Rollout) -> None:
        rollout.turn += 1
        if rollout.turn < len(rollout.episode.action_tokens):
            self._request(rollout)
        else:
            self._in_flight -= 1
            rollout.group.finished.append(rollout)
            self._changed = True

    def _request(self, rollout: _Rollout) -> None:
        self._num_requests += 1
        tokens = rollout.episode.action_tokens[rollout.turn]
        rollout.tokens_of[self.version] += tokens
        self._generation.add(tokens, self._num_requests, rollout)

    def _outstanding(self) -> list[Outstanding]:
        return [
            Outstanding(group.number, group.started_at, len(group.finished) == self._rollouts_per_group)
            for group in self._groups.values()
        ]

    def outcome(self, iterations: int) -> Outcome:
        """Of all iterations but those left out."""
        seconds, counted = self._now - self._start[0], iterations - self._left_out
        num_tokens = sum(self._staleness.values())
        num_rollouts = counted * self._groups_per_iteration * self._rollouts_per_group
        busy_share = (self._busy_worker_s - self._start[1]) / (seconds * self._system.num_workers)
        return Outcome(
            seconds=seconds,
            iterations=counted,
            rollouts_per_minute=60 * num_rollouts / seconds,
            sampler_idle=max(0.0, 1 - busy_share),
            trainer_idle=max(0.0, 1 - (self._busy_trainer_s - self._start[2]) / seconds),
            staleness={age: tokens / num_tokens for age, tokens in sorted(self._staleness.items()) if tokens},
            batches=self._batches,
        )
