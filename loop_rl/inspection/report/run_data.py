"""What a report needs of a run, read file by file and column by column: sums and histograms, never the rollouts."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loop_rl.config.base import ConfigError
from loop_rl.config.parts import ENVIRONMENT, find_part
from loop_rl.config.settings import Config
from loop_rl.data.rollout import EndReason
from loop_rl.data.updates import RolloutUpdate
from loop_rl.environments.protocol import Environment
from loop_rl.evaluation.tables import measures
from loop_rl.store.metrics import read_metrics
from loop_rl.store.rollout_files import columns_of, schema_version
from loop_rl.store.run_dir import RunDir
from loop_rl.store.timeline import Span, read_timeline
from loop_rl.store.updates import read_updates

BINS = {
    "return": np.linspace(0, 1, 21),
    "action tokens": np.r_[0, np.round(2 ** np.arange(2, 20.25, 0.25))],
    "turns": np.arange(0.5, 101.5),
    "staleness": np.arange(-0.5, 9.5),
    "importance ratio": np.exp(np.linspace(-3, 3, 122)),
    "entropy": np.r_[0, 10 ** np.linspace(-6, 1, 71)],
}
"""Bin edges of every histogram; values beyond the edges count in the outermost bin. Entropy is in nats."""

_COLUMNS = ["rollout_id", "group_id", "iteration", "task_id", "family", "end_reason", "reward", "success"]
_COLUMNS += ["started_at", "duration_s", "generation_s", "environment_s"]
_TURN_COLUMNS = ["logprobs", "policy_version", "action_text", "executed", "observation", "log", "valid"]
_BATCH_ROLLOUTS = 64
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)


@dataclass
class Tally:
    """Rollouts, and the sums of their rewards and successes."""

    num: int = 0
    reward: float = 0.0
    success: int = 0

    def add(self, reward: float, success: bool) -> None:
        self.num += 1
        self.reward += reward
        self.success += success


@dataclass
class IterationData:
    """The training rollouts of one iteration."""

    groups: dict[int, Tally] = field(default_factory=dict)
    behaviour: Counter[str] = field(default_factory=Counter)
    """As `Environment.count_behaviour` counts."""
    histograms: dict[str, np.ndarray] = field(
        default_factory=lambda: {name: np.zeros(len(edges) - 1, np.int64) for name, edges in BINS.items()}
    )


class Example(NamedTuple):
    """A turn after which the agent gave up; the texts are the agent's and the REPL's, not to be trusted."""

    rollout_id: str
    turn: int
    executed: str
    observation: str
    next_action: str


@dataclass
class EvaluationData:
    """One policy version on one split."""

    version: int
    split: str
    figures: dict
    """As `Environment.figures` gives them."""
    behaviour: Counter[str] = field(default_factory=Counter)
    """As `Environment.count_behaviour` counts."""
    scenarios: dict[str, dict[str, Tally]] = field(default_factory=dict)
    """Scenario -> task -> its rollouts."""
    giving_up: Example | None = None


@dataclass
class RunData:
    """A run, aggregated."""

    run: RunDir
    config: Config
    iterations: dict[int, IterationData] = field(default_factory=dict)
    scenarios: dict[str, dict[str, dict[int, Tally]]] = field(default_factory=dict)
    """Scenario -> task -> iteration -> training rollouts."""
    evaluations: list[EvaluationData] = field(default_factory=list)
    """By split, the run's own first, then by version."""
    metrics: list[dict[str, float]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    times: dict[str, array] = field(
        default_factory=lambda: {
            name: array("d") for name in ("iteration", "started_at", "duration_s", "generation_s", "environment_s")
        }
    )
    """Of every rollout; Unix time and seconds; iteration -1 is an evaluation."""
    has_updates: bool = False
    problems: list[tuple[Path, str]] = field(default_factory=list)
    """Files that could not be read, whole or in part, and why."""

    @property
    def name(self) -> str:
        return self.run.path.resolve().name

    @cached_property
    def environment(self) -> type[Environment]:
        return find_part(ENVIRONMENT, self.config.tasks.environment)

    @property
    def num_rollouts(self) -> int:
        return len(self.times["started_at"])

    def before_after(self, split: str) -> tuple[EvaluationData, EvaluationData | None] | None:
        """First and last evaluated version of a split; None where there is no evaluation, or only one."""
        found = [evaluation for evaluation in self.evaluations if evaluation.split == split]
        return (found[0], found[-1] if len(found) > 1 else None) if found else None


def read_run(run: RunDir, on_file: Callable[[], None]) -> RunData:
    """Read a run, finished or not. Files that cannot be read are left out and listed in `problems`.

    Args:
        on_file: called after each of `rollout_files`.

    Raises:
        ConfigError: there is no config.yaml, it is not one of this version, or the run has no rollouts at all.
    """
    RunDir.open(run.path)
    if not rollout_files(run):
        raise ConfigError(f"{run.path}: no rollouts yet (rollouts/ has no parquet file); let the run go on first")
    data = RunData(run, run.config)

    def on_damage(path: Path, reason: str) -> None:
        data.problems.append((path, reason))

    _guarded(data, run.metrics_file, lambda: data.metrics.extend(read_metrics(run, on_damage)))
    _guarded(data, run.timeline, lambda: data.spans.extend(read_timeline(run, on_damage)))
    updates = _Updates(data)
    for path in _train_files(run):
        _guarded(data, path, lambda path=path: _add_training(data, path, updates))
        on_file()
    for path in _evaluation_files(run):
        _guarded(data, path, lambda path=path: _add_evaluation(data, path))
        on_file()
    own = data.config.evaluation.split
    data.evaluations.sort(key=lambda evaluation: (evaluation.split != own, evaluation.split, evaluation.version))
    return data


def rollout_files(run: RunDir) -> list[Path]:
    """Every file of finished groups and evaluations."""
    return _train_files(run) + _evaluation_files(run)


def _train_files(run: RunDir) -> list[Path]:
    return sorted(run.train_rollouts.glob("*.parquet"))


def _evaluation_files(run: RunDir) -> list[Path]:
    # The figures are written last: without them the evaluation is not complete. Of several on one split the first is shown.
    found = sorted(run.eval_rollouts.glob("v??????-*.json"))
    return [figures.with_suffix(".parquet") for figures in found if not re.search(r"-r\d+$", figures.stem)]


def _guarded(data: RunData, path: Path, read: Callable[[], None]) -> None:
    try:
        read()
    except _UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, (KeyError, TypeError)) else str(error)
        data.problems.append((path, " ".join(reason.split()).removeprefix(f"{path}: ") or type(error).__name__))


class _Turn(NamedTuple):
    action_text: str
    executed: str
    observation: str
    log: list[str]
    valid: bool


class _Row(NamedTuple):
    """One rollout, without its tokens."""

    fields: dict
    turns: list[_Turn]
    logprobs: np.ndarray
    """Behaviour log-probabilities of all action tokens."""
    versions: np.ndarray
    """Policy version of each action token."""


def _read_rows(path: Path) -> Iterator[_Row]:
    with pq.ParquetFile(path) as file:
        version = schema_version(file.schema_arrow)
        columns = columns_of(version, _COLUMNS)
        columns += [f"turns.list.element.{name}" for name in columns_of(version, _TURN_COLUMNS)]
        for batch in file.iter_batches(_BATCH_ROLLOUTS, columns=columns):
            yield from _rows(batch, version)


def _rows(batch: pa.RecordBatch, version: int) -> Iterator[_Row]:
    scalars = batch.select(columns_of(version, _COLUMNS)).rename_columns(_COLUMNS).to_pylist()
    turns = batch.column("turns")
    starts, flat = turns.offsets.to_numpy(), turns.values
    columns = [flat.field(name).to_pylist() for name in columns_of(version, _Turn._fields)]
    texts = [_Turn(*texts, bool(valid)) for *texts, valid in zip(*columns, strict=True)]
    logprobs = flat.field("logprobs")
    token_starts, values = logprobs.offsets.to_numpy(), logprobs.values.to_numpy()
    versions = np.repeat(flat.field("policy_version").to_numpy(), np.diff(token_starts))
    for fields, first, last in zip(scalars, starts[:-1], starts[1:], strict=True):
        tokens = slice(token_starts[first], token_starts[last])
        own = slice(token_starts[first] - token_starts[0], token_starts[last] - token_starts[0])
        yield _Row(fields, texts[first:last], values[tokens], versions[own])


class _Updates:
    """What the trainer computed, one iteration held at a time: group files come in the order of iterations."""

    def __init__(self, data: RunData) -> None:
        self._data = data
        self._iteration: int | None = None
        self._rows: dict[str, RolloutUpdate] = {}

    def of(self, iteration: int, rollout_id: str) -> RolloutUpdate | None:
        """What was made of the rollout; None where its iteration has not been trained on."""
        if iteration != self._iteration:
            self._iteration, self._rows = iteration, {}
            path = self._data.run.update_file(iteration)
            if path.exists():
                _guarded(self._data, path, lambda: self._read(path))
        return self._rows.get(rollout_id)

    def _read(self, path: Path) -> None:
        self._rows = {row.rollout_id: row for row in read_updates(path)}
        self._data.has_updates = True


def _add_training(data: RunData, path: Path, updates: _Updates) -> None:
    for row in _read_rows(path):
        fields = row.fields
        if fields["end_reason"] == EndReason.CUT_OFF:
            continue  # not trained on
        iteration = fields["iteration"]
        into = data.iterations.setdefault(iteration, IterationData())
        into.groups.setdefault(fields["group_id"], Tally()).add(fields["reward"], fields["success"])
        into.behaviour.update(data.environment.count_behaviour(row.turns, fields["end_reason"], len(row.logprobs)))
        task = data.scenarios.setdefault(fields["family"], {}).setdefault(fields["task_id"], {})
        task.setdefault(iteration, Tally()).add(fields["reward"], fields["success"])
        _add_times(data, fields)
        values = {
            "return": [fields["reward"]],
            "action tokens": [len(row.logprobs)],
            "turns": [len(row.turns)],
            "staleness": iteration - row.versions,
        }
        update = updates.of(iteration, fields["rollout_id"])
        if update is not None and update.trained:
            if len(update.logprobs) != len(row.logprobs):
                raise ValueError(f"{fields['rollout_id']}: the trainer saw another number of tokens")
            # float32 differences far outside the bins overflow to inf, which belongs in the last bin all the same.
            with np.errstate(over="ignore"):
                values["importance ratio"] = np.exp(np.asarray(update.logprobs, np.float32) - row.logprobs)
            values["entropy"] = np.asarray(update.entropies)
        for name, numbers in values.items():
            _count(into.histograms[name], BINS[name], numbers)


def _add_evaluation(data: RunData, path: Path) -> None:
    version, _, split = path.stem.partition("-")
    figures_file = path.with_suffix(".json")
    evaluation = EvaluationData(int(version[1:]), split, json.loads(figures_file.read_text()))
    _check_figures(evaluation.figures, figures_file)
    data.evaluations.append(evaluation)  # the figures hold even where the rollouts cannot be read
    for row in _read_rows(path):
        fields = row.fields
        evaluation.behaviour.update(
            data.environment.count_behaviour(row.turns, fields["end_reason"], len(row.logprobs))
        )
        task = evaluation.scenarios.setdefault(fields["family"], {}).setdefault(fields["task_id"], Tally())
        task.add(fields["reward"], fields["success"])
        _add_times(data, fields)
        if evaluation.giving_up is None and (index := data.environment.gave_up(row.turns)) is not None:
            evaluation.giving_up = _example(fields["rollout_id"], row.turns, index)


def _check_figures(figures: dict, path: Path) -> None:
    try:
        if not (names := measures(figures)):
            raise KeyError("no measure")
        for name in names:
            for figure in figures[name].values():
                _ = [float(figure[key]) for key in ("value", "low", "high", "num")]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} does not hold measures with their intervals") from error


def _example(rollout_id: str, turns: list[_Turn], index: int) -> Example:
    turn, following = turns[index], turns[index + 1]
    return Example(rollout_id, index, turn.executed, turn.observation, following.action_text)


def _add_times(data: RunData, fields: dict) -> None:
    for name, values in data.times.items():
        values.append(fields[name])


def _count(histogram: np.ndarray, edges: np.ndarray, values) -> None:
    # Searched among the inner edges only: what lies beyond the outer ones falls into the outermost bins by itself.
    np.add.at(histogram, np.searchsorted(edges[1:-1], values, side="right"), 1)
