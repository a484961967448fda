"""Which policy versions are evaluated, which of them is the run's result, and what its evaluations say together.

`evaluation.every` has versions evaluated on `evaluation.select_split` while the run trains; the best of them is then evaluated
on the held-out splits, `evaluation.repeats` times. Without it the last version is the result.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from loop_rl.config.settings import Config
from loop_rl.evaluation.tables import measures
from loop_rl.store.run_dir import RunDir


@dataclass(frozen=True)
class Evaluation:
    """One pass over a split by one policy version."""

    version: int
    split: str
    repeat: int
    """From 1; each has seeds of its own."""

    def file(self, run: RunDir) -> Path:
        """Its figures; there is none until it is complete."""
        return run.evaluation_file(self.version, self.split, self.repeat)


def selecting(config: Config, version: int) -> list[Evaluation]:
    """By which a candidate is judged."""
    settings = config.evaluation
    return [Evaluation(version, settings.select_split, repeat + 1) for repeat in range(settings.select_repeats)]


def result_version(run: RunDir, config: Config) -> int | None:
    """The candidate with the highest mean of the split's first measure (TGC), of equal ones the earliest; None while any is not
    judged yet. Without candidates the last version."""
    versions = config.candidate_versions
    if not versions:
        return config.trainer.num_iterations
    if any(not evaluation.file(run).exists() for version in versions for evaluation in selecting(config, version)):
        return None
    return max(versions, key=partial(mean_of_first_measure, run, config))


def mean_of_first_measure(run: RunDir, config: Config, version: int) -> float:
    """Of a candidate's evaluations."""
    figures = [json.loads(evaluation.file(run).read_text()) for evaluation in selecting(config, version)]
    (first, *_) = measures(figures[0])
    return statistics.fmean(of_one[first]["all"]["value"] for of_one in figures)


def final_evaluations(config: Config, version: int) -> list[Evaluation]:
    """Of the result: on the held-out split first, then on the others."""
    settings = config.evaluation
    return [Evaluation(version, split, n + 1) for split in settings.final_splits for n in range(settings.repeats)]


def is_finished(run: RunDir, config: Config) -> bool:
    """Whether the run has trained and all its evaluations are done."""
    if run.latest_version() < config.trainer.num_iterations or (version := result_version(run, config)) is None:
        return False
    return all(evaluation.file(run).exists() for evaluation in final_evaluations(config, version))


def repeated_lines(run: RunDir, config: Config, version: int) -> list[str]:
    """Of each split that was evaluated more than once, or beside the first, its measures: mean and standard deviation."""
    lines = []
    for split in config.evaluation.final_splits:
        evaluations = [e for e in final_evaluations(config, version) if e.split == split]
        if len(evaluations) == 1 and split == config.evaluation.split:
            continue
        figures = [json.loads(evaluation.file(run).read_text()) for evaluation in evaluations]
        values = {name: [100 * one[name]["all"]["value"] for one in figures] for name in measures(figures[0])}
        times = f", {len(figures)} evaluations" if len(figures) > 1 else ""
        parts = [f"{name} {_mean_and_deviation(of_name)}" for name, of_name in values.items()]
        lines.append(f"{split}, version {version}{times}: {', '.join(parts)}")
    return lines


def _mean_and_deviation(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
