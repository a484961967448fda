"""One self-contained HTML page about a run, or several side by side; it needs no server and asks for nothing outside.

    python -m loop_rl report runs/tiny                                  # writes runs/tiny/report.html
    python -m loop_rl report runs/tiny runs/other                       # compares: runs/tiny/report-compare.html
    python -m loop_rl report runs/tiny --out /tmp/tiny.html

A run may still be going on: what is missing is said on the page, and files that cannot be read are listed on it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loop_rl.config.base import ConfigError, flat_settings
from loop_rl.environments.behaviour import Ratio
from loop_rl.evaluation.tables import level_name, measures
from loop_rl.inspection.pages import templates
from loop_rl.inspection.report import plots
from loop_rl.inspection.report.run_data import EvaluationData, RunData, Tally, read_run, rollout_files
from loop_rl.machine.command import run_command
from loop_rl.machine.files import write_atomically
from loop_rl.store.run_dir import RunDir

console = Console(highlight=False, soft_wrap=True)
_MAX_PROBLEMS = 20
_MAX_EXAMPLE_CHARS = 600


@dataclass(frozen=True)
class Table:
    """A table of the page: columns in groups, one group a run."""

    caption: str
    corner: str
    groups: list[tuple[str, list[str]]]
    """(run, its column headings)"""
    rows: list[tuple[str, str, list[str]]]
    """(heading, explanation or empty, cells)"""


def write_report(runs: Sequence[RunDir], out: Path) -> Path:
    """Write the page about the runs to `out`, whole or not at all, and return `out`.

    Raises:
        ConfigError: one of them is no run, or has no rollouts.
        OSError: the page cannot be written.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    data = []
    with Progress(*columns, console=console, transient=True) as progress:
        for run in runs:
            bar = progress.add_task(f"reading {run.path}", total=len(rollout_files(run)))
            data.append(read_run(run, on_file=lambda bar=bar: progress.update(bar, advance=1)))
    write_atomically(out, _page(data))
    return out


def _page(runs: list[RunData]) -> str:
    environment = templates("loop_rl.inspection.report")
    with_training = [run for run in runs if run.iterations]
    figures = {
        "learning": plots.learning_curves(runs) if with_training or any(run.evaluations for run in runs) else None,
        "behaviour": plots.behaviour_curves(with_training) if with_training else None,
        "metrics": plots.metric_curves(runs) if any(run.metrics for run in runs) else None,
    }
    for index, run in enumerate(runs):
        if run.iterations:
            figures[f"scenarios-{index}"] = plots.scenario_map(run)
            figures[f"distributions-{index}"] = plots.distributions(run)
        if run.num_rollouts or run.spans:
            figures[f"timeline-{index}"] = plots.process_timeline(run)
    splits = list(dict.fromkeys(evaluation.split for run in runs for evaluation in run.evaluations))
    return environment.get_template("report.html").render(
        title=" and ".join(run.name for run in runs),
        written=_date(datetime.now(UTC).timestamp()),
        runs=[_describe(index, run) for index, run in enumerate(runs)],
        results=[_result_table(runs, split) for split in splits],
        has_goal_completion=any("TGC" in evaluation.figures for run in runs for evaluation in run.evaluations),
        behaviours=[_behaviour_table(runs, split) for split in splits],
        differing=_differing_settings(runs) if len(runs) > 1 else None,
        figures={name: json.loads(figure.to_json()) for name, figure in figures.items() if figure},
        scenario_curves=[list(plots.scenario_curves(run).values()) for run in runs],
        plotly=Markup(get_plotlyjs()),
        max_points=plots.MAX_POINTS,
        max_spans=plots.MAX_SPANS,
    )


def _describe(index: int, run: RunData) -> dict[str, Any]:
    """What the template says of one run."""
    config = run.config
    facts = [
        ("folder", str(run.run.path)),
        ("model", config.model.path),
        ("seed", str(config.seed)),
        ("iterations", f"{run.run.latest_version()} of {config.trainer.num_iterations}"),
        ("rollouts read", f"{run.num_rollouts:,}"),
    ]
    if run.num_rollouts or run.spans:
        start, end = plots.time_span(run)
        facts.insert(1, ("date", f"{_date(start)} to {_date(end)} ({_duration(end - start)})"))
    own = run.before_after(config.evaluation.split)
    return {
        "index": index,
        "name": run.name,
        "facts": facts,
        "result": _result_sentence(config.evaluation.split, own),
        "notes": _notes(run),
        "scenarios": sorted(run.scenarios),
        "scenario_results": _scenario_rows(own) if own else [],
        "split": config.evaluation.split,
        "examples": [(f"version {e.version}", _example(e)) for e in own or () if e and e.giving_up],
        "clip": plots.clip_range(config.algorithm),
        "process_time": _process_time(run),
        "rollout_time": _rollout_time(run),
        "sampling_time": _sampling_time(run),
        "last_iteration": max(run.iterations, default=0),
        "problems": _problems(run),
        "colour": plots.COLOURS[index % len(plots.COLOURS)],
    }


def _result_sentence(split: str, pair: tuple[EvaluationData, EvaluationData | None] | None) -> str:
    if pair is None:
        return f"There is no evaluation on {split} to show."
    before, after = pair
    value = {name: 100 * before.figures[name]["all"]["value"] for name in measures(before.figures)}
    number = ", ".join(f"{before.figures[n]['all']['num']} {'scenarios' if n == 'SGC' else 'tasks'}" for n in value)
    what = f"on {split} ({number})"
    if after is None:
        values = ", ".join(f"{name} {old:.1f}" for name, old in value.items())
        return f"{values} {what} at version {before.version}; no later version is evaluated."
    parts = []
    for name, old in value.items():
        new = 100 * after.figures[name]["all"]["value"]
        parts.append(f"{name} {old:.1f} → {new:.1f} ({new - old:+.1f})")
    return f"{', '.join(parts)} {what}, version {before.version} → {after.version}."


def _notes(run: RunData) -> list[str]:
    """What is missing, a sentence each."""
    latest, total = run.run.latest_version(), run.config.trainer.num_iterations
    waiting = len(list(run.run.unfinished_rollouts.glob("*.parquet")))
    own = [e.version for e in run.evaluations if e.split == run.config.evaluation.split]
    said = {
        f"Training is not finished: {latest} of {total} iterations are done.": latest < total,
        f"{waiting} finished rollouts belong to no iteration yet and are left out.": waiting > 0,
        "No training rollouts could be read, so their curves, scenarios and distributions are missing.": not run.iterations,
        "metrics.jsonl has no lines yet, so the trainer's figures are missing.": not run.metrics,
        "There is no updates/ of the trainer (the run is older than these files, or has trained nothing yet), so importance "
        "ratio and entropy of tokens are missing.": not run.has_updates,
        "There is no timeline/ (the run is older than it, or has only begun), so the processes' phases are missing.": not run.spans,
        f"The newest version, {latest}, has no evaluation on {run.config.evaluation.split}.": latest == total
        and latest not in own
        and not run.config.evaluation.every,
    }
    return [sentence for sentence, true in said.items() if true]


def _problems(run: RunData) -> list[tuple[str, str]]:
    """(file or how many, reason), files with the same reason together."""
    by_reason = defaultdict(list)
    for path, reason in run.problems:
        by_reason[reason].append(str(path))
    lines = []
    for reason, paths in by_reason.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        lines.append((paths[0] + more, reason))
    if len(lines) > _MAX_PROBLEMS:
        lines = [*lines[:_MAX_PROBLEMS], (f"{len(lines) - _MAX_PROBLEMS} more kinds of problem", "not listed")]
    return lines


def _result_table(runs: list[RunData], split: str) -> Table:
    """The measures in percent."""
    pairs = [run.before_after(split) for run in runs]
    levels = {
        (metric, level): metric if level == "all" else f"{metric}, {level_name(level)}"
        for metric in dict.fromkeys(name for pair in pairs if pair for name in measures(pair[0].figures))
        for pair in pairs
        if pair
        for level in pair[0].figures.get(metric, ())
    }
    rows = []
    for (metric, level), heading in levels.items():
        cells = []
        for pair in pairs:
            figures = [e.figures.get(metric, {}).get(level) if e else None for e in pair or (None, None)]
            change = 100 * (figures[1]["value"] - figures[0]["value"]) if all(figures) else None
            cells += [str(figures[0]["num"]) if figures[0] else "–", *(_interval(figure) for figure in figures)]
            cells.append("–" if change is None else f"{change:+.1f}")
        rows.append((heading, "", cells))
    groups = [(run.name, ["number", *_versions(pair), "change"]) for run, pair in zip(runs, pairs, strict=True)]
    return Table(f"Results on {split}, percent, with 95% confidence intervals", "", groups, rows)


def _behaviour_table(runs: list[RunData], split: str) -> Table:
    """Every behaviour before and after; beside a share the two counts it is of."""
    pairs = [run.before_after(split) for run in runs]
    evaluations = [evaluation for pair in pairs for evaluation in pair or (None, None)]
    rows = [
        (ratio.label, ratio.definition, [_ratio(ratio, evaluation) for evaluation in evaluations])
        for ratio in plots.behaviours(runs)
    ]
    numbers = [f"{evaluation.behaviour['rollouts']:,}" if evaluation else "–" for evaluation in evaluations]
    groups = [(run.name, _versions(pair)) for run, pair in zip(runs, pairs, strict=True)]
    return Table(f"Behaviour on {split}", "", groups, [("rollouts", "One of each task.", numbers), *rows])


def _versions(pair: tuple[EvaluationData, EvaluationData | None] | None) -> list[str]:
    before, after = pair or (None, None)
    return [
        f"before (version {before.version})" if before else "before (none)",
        f"after (version {after.version})" if after else "after (none)",
    ]


def _ratio(ratio: Ratio, evaluation: EvaluationData | None) -> str:
    if evaluation is None or ratio.denominator not in evaluation.behaviour:
        return "–"
    counts = evaluation.behaviour
    value = ratio.value(counts)
    if value is None:
        return "– (never)"
    of = f"({counts[ratio.numerator]:,} of {counts[ratio.denominator]:,})"
    return f"{value:.1%} {of}" if ratio.percent else f"{value:.2f}"


def _interval(figure: dict | None) -> str:
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]" if figure else "–"


def _scenario_rows(pair: tuple[EvaluationData, EvaluationData | None]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of each scenario and evaluation: a mark for each of its tasks, and the mean return."""

    def cell(evaluation: EvaluationData | None, scenario: str) -> tuple[str, str]:
        tasks = evaluation.scenarios.get(scenario) if evaluation else None
        if not tasks:
            return "–", "–"
        tallies = [tally for _, tally in sorted(tasks.items())]
        return "".join(
            _mark(tally) for tally in tallies
        ), f"{sum(t.reward / t.num for t in tallies) / len(tallies):.2f}"

    return [(name, [cell(evaluation, name) for evaluation in pair]) for name in sorted(pair[0].scenarios)]


def _mark(tally: Tally) -> str:
    return "●" if tally.success == tally.num else "○"


def _example(evaluation: EvaluationData) -> dict[str, Any]:
    example = evaluation.giving_up
    texts = {name: _cut(getattr(example, name)) for name in ("executed", "observation", "next_action")}
    return texts | {"rollout_id": example.rollout_id, "turn": example.turn + 1}


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_EXAMPLE_CHARS else text[:_MAX_EXAMPLE_CHARS] + " …"


def _process_time(run: RunData) -> list[tuple[str, str, str, str, str]]:
    """(process, phase, how often, seconds, share of the run's time)"""
    if not run.spans:
        return []
    start, end = plots.time_span(run)
    run_s = max(end - start, 1e-9)
    seconds, numbers = Counter(), Counter()
    for span in run.spans:
        seconds[span.process, span.phase] += span.end - span.start
        numbers[span.process, span.phase] += 1
    if run.num_rollouts:  # the sampler records only what it waits for; when it samples is in the rollouts
        seconds["sampler", "sampling (a rollout in flight)"] = plots.seconds_in_flight(run, training=True)
    rows = []
    for process in sorted({process for process, _ in seconds}):
        phases = [(phase, total) for (of, phase), total in seconds.most_common() if of == process]
        rows += [
            (
                process,
                phase,
                f"{numbers[process, phase]:,}" if numbers[process, phase] else "",
                f"{total:,.1f}",
                f"{total / run_s:.1%}",
            )
            for phase, total in phases
        ]
        rest = max(0.0, run_s - sum(total for _, total in phases))  # the sampler may wait and sample at once
        rows.append((process, "nothing recorded", "", f"{rest:,.1f}", f"{rest / run_s:.1%}"))
    return rows


def _rollout_time(run: RunData) -> list[tuple[str, str, str]]:
    """(what for, seconds summed over rollouts, share)"""
    duration, generation, environment = (
        sum(run.times[f"{name}_s"]) for name in ("duration", "generation", "environment")
    )
    if not duration:
        return []
    parts = (
        ("waiting for the policy (generation)", generation),
        ("waiting for AppWorld (free worker, code, scoring)", environment),
        ("the sampler itself (tokenising, event loop)", duration - generation - environment),
    )
    return [(name, f"{seconds:,.1f}", f"{seconds / duration:.1%}") for name, seconds in parts]


def _sampling_time(run: RunData) -> str:
    """One sentence; empty without rollouts."""
    if not run.num_rollouts:
        return ""
    start, end = plots.time_span(run)
    seconds = [plots.seconds_in_flight(run, training) for training in (True, False)]
    shares = [f"{one:,.1f} s ({one / max(end - start, 1e-9):.1%} of the run)" for one in seconds]
    return (
        f"At least one training rollout was in flight for {shares[0]}, at least one of an evaluation for {shares[1]}."
    )


def _differing_settings(runs: list[RunData]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each run)"""
    flat = [flat_settings(run.config.model_dump()) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    values = {key: [str(one.get(key, "–")) for one in flat] for key in keys}  # parts have settings of their own
    return [(key, of_key) for key, of_key in values.items() if len(set(of_key)) > 1]


def _date(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M} UTC"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory, such as runs/tiny")
    parser.add_argument("--out", type=Path, help="file to write (default: in the first run's folder)")
    args = parser.parse_args()
    return run_command(lambda: _report(args), "stopped; no page was written")


def _report(args: argparse.Namespace) -> None:
    runs = [RunDir(path) for path in args.runs]
    out = args.out or args.runs[0] / ("report.html" if len(runs) == 1 else "report-compare.html")
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; name a file in it, for example --out {out / 'report.html'}")
    write_report(runs, out)
    console.print(f"Report: {out} ({out.stat().st_size / 1e6:.1f} MB), opens in any browser")


if __name__ == "__main__":
    sys.exit(main())
