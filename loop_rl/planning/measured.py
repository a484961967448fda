"""What a run measured, as the simulation takes it: its episodes, how fast each station was under which load, and what
really happened, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from loop_rl.config.settings import Config
from loop_rl.data.rollout import Rollout
from loop_rl.planning.simulation import Curve, System
from loop_rl.planning.workload import Episode, Workload
from loop_rl.store.metrics import read_metrics
from loop_rl.store.rollout_files import read_group
from loop_rl.store.rollouts import assigned_groups
from loop_rl.store.run_dir import RunDir
from loop_rl.store.timeline import read_timeline

_SETTLED = 2
"""Iterations at the start that are left out: version 0 is served without an adapter, which is faster than what follows,
and the first iteration has nothing to overlap with."""


@dataclass(frozen=True)
class Measured:
    """A run's figures."""

    workload: Workload
    system: System
    iteration_s: float
    rollouts_per_minute: float
    sampler_idle: float
    trainer_idle: float
    staleness: dict[int, float]
    """These five are of the iterations after the first two, defined as in `simulation.Outcome`."""


def measure(run: RunDir) -> Measured:
    """Read a run that is finished or under way.

    Raises:
        ValueError: too few iterations, or its rollouts were written by another version of this code.
    """
    config, figures = run.config, read_metrics(run)
    if config.sampler.source == "turns":
        raise ValueError(f"{run.path}: batches of turns (sampler.source) cannot be calibrated by; leave --run out")
    if len(figures) < _SETTLED + 2:
        raise ValueError(
            f"{run.path}: {len(figures)} iterations are done; to calibrate by a run takes {_SETTLED + 2} at least"
        )
    # An iteration that was done again after a crash counts as it was done last.
    spans = {s.iteration: s for s in read_timeline(run) if s.process == "trainer" and s.phase == "training"}
    if not spans.keys() >= {figure["iteration"] for figure in figures}:
        raise ValueError(f"{run.path}: timeline/trainer.jsonl lacks iterations; the run is of an older version")
    files = [run.group_file(group) for figure in figures for group in assigned_groups(run, figure["iteration"])]
    rollouts = [rollout for file in files for rollout in read_group(file).rollouts if rollout.turns]
    starts, ends = np.array([(r.started_at, r.started_at + r.duration_s) for r in rollouts]).T
    training = np.array([(spans[figure["iteration"]].start, spans[figure["iteration"]].end) for figure in figures])
    return Measured(
        *_calibrate(config, rollouts, starts, ends, training, figures),
        **_outcome(config, rollouts, starts, ends, training, figures),
    )


def _calibrate(config, rollouts: list[Rollout], starts, ends, training, figures) -> tuple[Workload, System]:
    turns = np.array([len(r.turns) for r in rollouts])
    tokens = np.array([r.num_action_tokens for r in rollouts])
    generation_s = np.array([r.generation_s for r in rollouts])
    environment_s = np.array([r.environment_s for r in rollouts])
    durations = ends - starts
    beside_training = _overlap(starts, ends, training)
    adapted = np.array([min(r.policy_versions) > 0 for r in rollouts])
    if not adapted.any():
        adapted[:] = True
    at_generation = _mean_load(starts, ends, generation_s / durations)
    at_environment = _mean_load(starts, ends, environment_s / durations)
    generation = _fit(tokens[adapted], generation_s[adapted], at_generation[adapted], beside_training[adapted])
    environment = _fit(turns, environment_s, at_environment, beside_training)
    expected = turns * (environment.base_s + environment.per_request_s * at_environment)
    expected = expected * (1 + (environment.beside_training - 1) * beside_training)
    episodes = tuple(
        Episode(
            tuple(len(turn.context_ids) for turn in r.turns),
            tuple(len(turn.action_ids) for turn in r.turns),
            (work,) * len(r.turns),
            windowed=not all(turn.extends for turn in r.turns),
        )
        for r, work in zip(rollouts, environment_s / expected, strict=True)
    )
    # Training: so many seconds a token, more while rollouts are in flight.
    trained = np.array([figure.get("policy/num_tokens", 0) for figure in figures])
    seconds = np.array([figure["time/train_s"] for figure in figures])
    beside_sampling = np.array([_overlap(np.array([s]), np.array([e]), _merged(starts, ends))[0] for s, e in training])
    alone, more = _least_squares(np.stack([trained, trained * beside_sampling], 1), seconds)
    epochs = config.algorithm.epochs
    kept = 1 - fmean(figure["rollout/share_filtered"] for figure in figures)

    def training_s(lengths: Sequence[Sequence[int]]) -> float:
        return epochs * sum(map(sum, lengths)) * alone

    return Workload(episodes, kept), System(
        num_workers=config.tasks.num_workers,
        generation=generation,
        environment=environment,
        training_s=training_s,
        publish_s=fmean(figure["time/publish_s"] for figure in figures),
        num_replicas=1,  # the curve is of all of the run's servers together
        training_beside_sampling=1 + more / alone,
    )


def _outcome(config: Config, rollouts, starts, ends, training, figures) -> dict[str, object]:
    """What happened from the end of the second update to the end of the last but one: in the last iteration the sampler
    has nothing left to do."""
    begin, end = training[_SETTLED - 1, 1], training[-2, 1]
    iterations = len(training) - 1 - _SETTLED
    worker_s = np.clip(np.minimum(ends, end) - np.maximum(starts, begin), 0, None).sum()
    busy = np.clip(np.minimum(training[:, 1], end) - np.maximum(training[:, 0], begin), 0, None).sum()
    ages: dict[int, int] = {}
    for rollout in rollouts:
        if _SETTLED <= rollout.iteration < len(figures) - 1:
            for turn in rollout.turns:
                age = rollout.iteration - turn.policy_version
                ages[age] = ages.get(age, 0) + len(turn.action_ids)
    return {
        "iteration_s": (end - begin) / iterations,
        "rollouts_per_minute": 60
        * iterations
        * config.sampler.tasks_per_iteration
        * config.sampler.rollouts_per_task
        / (end - begin),
        "sampler_idle": 1 - worker_s / ((end - begin) * config.tasks.num_workers),
        "trainer_idle": 1 - busy / (end - begin),
        "staleness": {age: count / sum(ages.values()) for age, count in sorted(ages.items())},
    }


def _fit(work, seconds, load, beside_training) -> Curve:
    """The curve under which `work` units took that many seconds at that mean load."""
    base, per_request, more = _least_squares(np.stack([work, work * load, work * beside_training], 1), seconds)
    typical = base + per_request * load.mean()
    return Curve(base, per_request, 1 + more / typical)


def _least_squares(columns, values) -> list[float]:
    """Coefficients, none negative. Columns that tell nothing beyond those before them (a load that never changed, say)
    are left out; then those of negative coefficients, the most negative first."""
    kept: list[int] = []
    for i in range(columns.shape[1]):
        if np.linalg.matrix_rank(columns[:, [*kept, i]]) > len(kept):
            kept.append(i)
    while True:
        found = np.linalg.lstsq(columns[:, kept], values, rcond=None)[0]
        if len(kept) == 1 or found.min() >= 0:
            return [float(found[kept.index(i)]) if i in kept else 0.0 for i in range(columns.shape[1])]
        kept.pop(int(found.argmin()))


def _mean_load(starts, ends, share) -> np.ndarray:
    """For each rollout, how many were at a station during it on average; `share` of its time each was there."""
    together = np.minimum(ends[:, None], ends[None]) - np.maximum(starts[:, None], starts[None])
    return np.clip(together, 0, None) @ share / (ends - starts)


def _overlap(starts, ends, spans) -> np.ndarray:
    """Share of each interval that the spans, which do not overlap, cover."""
    covered = np.minimum(ends[:, None], spans[None, :, 1]) - np.maximum(starts[:, None], spans[None, :, 0])
    return np.clip(covered, 0, None).sum(1) / (ends - starts)


def _merged(starts, ends) -> np.ndarray:
    """The union of intervals, as intervals that do not overlap."""
    merged: list[list[float]] = []
    for start, end in sorted(zip(starts, ends, strict=True)):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return np.array(merged)
