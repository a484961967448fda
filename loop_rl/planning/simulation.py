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
    training_s: Callable[[Sequence[int]], float]
    """Seconds of one iteration's update, given the lengths in tokens of the rollouts that are trained on."""
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
    rng = random.Random(seed)
    generation = _Station(system.generation, system.num_replicas, system.max_requests)
    environment = _Station(system.environment, 1, math.inf)
    now = busy_worker_s = busy_trainer_s = 0.0
    start = (0.0, 0.0, 0.0)
    version = in_flight = started = to_start = number = 0
    group: _Group | None = None
    groups: dict[int, _Group] = {}
    batches: list[list[int]] = []
    staleness: Counter[int] = Counter()
    training_left, training, changed = 0.0, False, False

    def request(rollout: _Rollout) -> None:
        nonlocal number
        number += 1
        tokens = rollout.episode.action_tokens[rollout.turn]
        rollout.tokens_of[version] += tokens
        generation.add(tokens, number, rollout)

    def outstanding() -> list[Outstanding]:
        return [
            Outstanding(group.number, group.started_at, len(group.finished) == rollouts_per_group)
            for group in groups.values()
        ]

    while version < iterations:
        while in_flight < system.num_workers:
            if to_start == 0:
                # What is seen is a part of a longer run: sampling does not end with it.
                most = max_outstanding(
                    version, len(batches), groups_per_iteration, discipline.max_staleness, num_iterations=sys.maxsize
                )
                if len(groups) >= most:
                    break
                group = groups[started] = _Group(started, version)
                started, to_start = started + 1, rollouts_per_group
            in_flight += 1
            to_start -= 1
            request(_Rollout(group, rng.choice(workload.episodes), rng.random() < workload.share_kept))

        if not training and changed:
            changed = False
            for dropped in too_old(outstanding(), version, discipline.max_staleness):
                to_start = 0 if groups.pop(dropped) is group else to_start
            batch = choose(outstanding(), version, groups_per_iteration, discipline.max_staleness, discipline.wait)
            if batch:
                batches.append(batch)
                rollouts = [rollout for chosen in batch for rollout in groups.pop(chosen).finished]
                for rollout in rollouts:
                    for sampled_by, tokens in rollout.tokens_of.items():
                        staleness[version - sampled_by] += tokens * (version >= left_out)
                lengths = [rollout.episode.num_tokens for rollout in rollouts if rollout.kept]
                training_left, training = system.training_s(lengths) + system.publish_s, True

        factor = system.training_beside_sampling if in_flight else 1.0
        trained_in = training_left * factor if training else math.inf
        token_s, execution_s = generation.unit_s(training), environment.unit_s(training)
        generated_in, executed_in = generation.next_in(token_s), environment.next_in(execution_s)
        seconds = min(trained_in, generated_in, executed_in)
        assert seconds < math.inf, "nothing is under way"

        now += seconds
        busy_worker_s += seconds * in_flight
        busy_trainer_s += seconds * training
        training_left -= seconds / factor
        generation.advance(seconds, token_s)
        environment.advance(seconds, execution_s)
        if trained_in == seconds:
            version, training, changed = version + 1, False, True
            if version == left_out:
                start = (now, busy_worker_s, busy_trainer_s)
        elif generated_in == seconds:
            rollout = generation.pop()
            number += 1
            environment.add(rollout.episode.environment[rollout.turn], number, rollout)
        else:
            rollout = environment.pop()
            rollout.turn += 1
            if rollout.turn < len(rollout.episode.action_tokens):
                request(rollout)
            else:
                in_flight -= 1
                rollout.group.finished.append(rollout)
                changed = True

    seconds, counted = now - start[0], iterations - left_out
    num_tokens = sum(staleness.values())
    return Outcome(
        seconds=seconds,
        iterations=counted,
        rollouts_per_minute=60 * counted * groups_per_iteration * rollouts_per_group / seconds,
        sampler_idle=max(0.0, 1 - (busy_worker_s - start[1]) / (seconds * system.num_workers)),
        trainer_idle=max(0.0, 1 - (busy_trainer_s - start[2]) / seconds),
        staleness={age: tokens / num_tokens for age, tokens in sorted(staleness.items()) if tokens},
        batches=batches,
    )
