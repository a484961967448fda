"""Methods side by side: trains each with every seed where that has not been done, and compares them on held-out tasks.

    loop_rl compare --bench babyai --methods loop grpo rloo --seeds 5
    loop_rl compare --bench configs/tiny.yaml --methods loop ei --seeds 3 trainer.num_iterations=8
    loop_rl compare --bench babyai --methods loop grpo --seeds 5 --dry-run      # what is missing, and how long it takes

Runs are called <bench>-<method>-seed<n> and lie where all runs do; one that was stopped goes on, one that is finished is read.
The first method is the one that the others are compared with. Intervals are of 95%, by bootstrap over seeds and tasks;
differences are of the same seeds and tasks. A second table takes of each run the version that it had when the fastest method was
done; those versions are evaluated for it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from loop_rl.comparison.bootstrap import Interval, mean_with_interval
from loop_rl.comparison.outcome import Outcome, outcome_of, read_outcome, read_units, version_after
from loop_rl.config.base import ConfigError
from loop_rl.config.load import load_config
from loop_rl.config.parts import ENVIRONMENT, find_part
from loop_rl.config.settings import Config
from loop_rl.evaluation.selection import is_finished
from loop_rl.machine.command import run_command
from loop_rl.machine.processes import ManagedProcess, stop_all
from loop_rl.running.preflight import check_inputs
from loop_rl.running.supervisor import RunFailed
from loop_rl.store.metrics import read_metrics
from loop_rl.store.run_dir import RunDir

console = Console(highlight=False, soft_wrap=True)
_POLL_S = 1.0
_STOP_S = 30.0
_MIN_WIDTH = 130  # of the table, where the output is no terminal or a narrow one


@dataclass(frozen=True)
class Entry:
    """One method with one seed."""

    method: str
    config: Config
    overrides: list[str]
    """Of the bench's config, that make it."""


@dataclass(frozen=True)
class Row:
    """One method over its seeds."""

    method: str
    num_seeds: int
    before: float
    after: Interval
    difference: Interval | None
    """To the first method; None for that one."""
    num_rollouts: float
    num_tokens: float
    num_steps: float
    seconds: float
    """These four: means over seeds."""


def entries_of(bench: Path, methods: Sequence[str], seeds: int, overrides: Sequence[str]) -> list[Entry]:
    """Every method with every seed, seeds first, so that all methods have as many when it is stopped.

    Raises:
        ConfigError: a method or a setting is wrong.
    """
    if fixed := [o for o in overrides if o.split("=")[0] in ("name", "seed", "method")]:
        raise ConfigError(f"{fixed[0]}: the comparison chooses it; leave it out")
    if len(set(methods)) < len(methods):
        raise ConfigError(f"--methods {' '.join(methods)}: one is there twice")
    entries = []
    for seed in range(seeds):
        for method in methods:
            name = f"name={bench.stem}-{Path(method).stem}-seed{seed}"
            ours = [f"method={method}", *overrides, f"seed={seed}", name]
            entries.append(Entry(method, load_config(bench, ours), ours))
    return entries


def compare(outcomes: dict[str, list[Outcome]]) -> list[Row]:
    """A row for each method, in the order given; `outcomes` has as many seeds of each, in the same order."""
    units = list(next(iter(outcomes.values()))[0].units)
    scores = {
        method: np.array([[one.units[unit] for unit in units] for one in of_seeds])
        for method, of_seeds in outcomes.items()
    }
    first = next(iter(scores))
    rows = []
    for method, of_seeds in outcomes.items():
        difference = mean_with_interval(scores[method] - scores[first]) if method != first else None
        rows.append(
            Row(
                method,
                len(of_seeds),
                statistics.fmean(one.before for one in of_seeds),
                mean_with_interval(scores[method]),
                difference,
                statistics.fmean(one.num_rollouts for one in of_seeds),
                statistics.fmean(one.num_tokens for one in of_seeds),
                statistics.fmean(one.num_steps for one in of_seeds),
                statistics.fmean(one.seconds for one in of_seeds),
            )
        )
    return rows


def rows_table(rows: Sequence[Row], title: str) -> Table:
    """Percent of held-out tasks done, and what it took."""
    table = Table(title=title)
    table.add_column("method", no_wrap=True)
    headings = (
        "seeds",
        "before",
        "after",
        f"less {Path(rows[0].method).stem}",
        "rollouts",
        "tokens",
        "steps",
        "train min",
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Path(row.method).stem,
            str(row.num_seeds),
            f"{100 * row.before:.1f}",
            _percent(row.after),
            _percent(row.difference, sign="+") if row.difference else "",
            f"{row.num_rollouts:,.0f}",
            f"{row.num_tokens:,.0f}",
            f"{row.num_steps:,.0f}",
            f"{row.seconds / 60:.1f}",
        )
    return table


def _percent(interval: Interval, sign: str = "") -> str:
    mean, low, high = (f"{100 * value:{sign}.1f}" for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="a config file, or the name of one in configs/")
    parser.add_argument(
        "--methods", required=True, nargs="+", help="names in configs/methods/, or files; the first is the standard"
    )
    parser.add_argument("--seeds", type=int, default=5, help="0 to this less one (default 5)")
    parser.add_argument(
        "--out", type=Path, help="JSON with the table; a page lies beside it (default: runs/compare-BENCH.json)"
    )
    parser.add_argument(
        "--no-times",
        action="store_true",
        help="leave out the table after equal minutes, for which one more version of each run has to be evaluated",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what is missing and how long it takes, and stop")
    args, overrides = parser.parse_known_intermixed_args()
    wrong = [word for word in overrides if "=" not in word or word.startswith("-")]
    if wrong:
        parser.error(f"{wrong[0]}: expected key=value")
    stopped = "stopped; what is finished stays, and the same command goes on from here"
    return run_command(lambda: _compare(args, overrides), stopped, (RunFailed,))


def _compare(args: argparse.Namespace, overrides: list[str]) -> None:
    if args.seeds < 1:
        raise ConfigError(f"--seeds {args.seeds}: at least 1")
    named = Path("configs") / f"{args.bench}.yaml"
    bench = named if named.exists() else Path(args.bench)
    entries = entries_of(bench, args.methods, args.seeds, overrides)
    for entry in entries:
        run = RunDir(entry.config.run_dir)
        if run.config_file.exists() and not run.is_extended_by(entry.config):
            RunDir.create(entry.config)  # refuses one of other settings, which must not be read as this one
    missing = [entry for entry in entries if not is_finished(RunDir(entry.config.run_dir), entry.config)]
    console.print(f"{len(entries)} runs, {len(entries) - len(missing)} of them finished{_estimate(entries, missing)}")
    if args.dry_run:
        for entry in missing:
            console.print(f"  {entry.config.run_dir}")
        return
    for entry in missing:
        check_inputs(entry.config)
    started, failed = time.monotonic(), []
    for number, entry in enumerate(missing):
        left = (time.monotonic() - started) / number * (len(missing) - number) if number else None
        failure = _run(entry, bench, f"{number + 1} of {len(missing)}", left)
        if failure:
            failed.append(entry)
            console.print(failure, markup=False)
    if failed:
        names = ", ".join(str(entry.config.run_dir) for entry in failed)
        raise RunFailed(f"failed: {names}; the others are finished, and the same command goes on with these")
    _show(entries, bench, args.out, with_times=not args.no_times)


def _run(entry: Entry, bench: Path, which: str, left_s: float | None) -> str:
    """Train; returns what it said last when it failed."""
    run = RunDir(entry.config.run_dir)
    command = [sys.executable, "-m", "loop_rl.launch", "--config", str(bench), *entry.overrides]
    total = entry.config.trainer.num_iterations
    left = f", about {left_s / 60:.0f} min left" if left_s else ""

    def progress() -> str:
        done = len(read_metrics(run)) if run.metrics_file.exists() else 0
        return f"{which}: {run.path}, iteration {done}/{total}{left}"

    started = time.monotonic()
    failure = _in_a_process(str(run.path), command, run.path.with_name(f"{run.path.name}.log"), progress)
    minutes = (time.monotonic() - started) / 60
    if not failure:
        console.print(f"{which}: {run.path} finished after {minutes:.1f} min")
    return failure


def _in_a_process(name: str, command: Sequence[str], log: Path, progress: Callable[[], str]) -> str:
    """Run a command to its end, showing its progress; returns what it said last when it failed."""
    process = ManagedProcess(name, command, log)
    try:
        with console.status("") as status:
            while process.poll() is None:
                status.update(progress())
                time.sleep(_POLL_S)
        return process.epitaph() if process.poll() else ""
    finally:
        stop_all([process], _STOP_S)  # it stops its own processes in order


def _estimate(entries: Sequence[Entry], missing: Sequence[Entry]) -> str:
    done = [entry for entry in entries if entry not in missing]
    if not missing:
        return ""
    if not done:
        return "; how long one takes is known once the first is finished"
    minutes = statistics.fmean(_outcome(entry).seconds for entry in done) / 60
    return f"; about {minutes * len(missing):.0f} min to go, starts and evaluations not counted ({minutes:.1f} a run)"


def _outcome(entry: Entry) -> Outcome:
    return read_outcome(RunDir(entry.config.run_dir), entry.config, _unit(entry))


def _show(entries: Sequence[Entry], bench: Path, out: Path | None, with_times: bool) -> None:
    outcomes: dict[str, list[Outcome]] = {}
    for entry in entries:
        outcomes.setdefault(entry.method, []).append(_outcome(entry))
    rows, config = compare(outcomes), entries[0].config
    tables = {"equal rollouts": rows}
    if with_times:
        tables["equal minutes of training"] = compare(_at_equal_time(entries, min(row.seconds for row in rows)))
    console.width = max(console.width, _MIN_WIDTH)
    for what, of_table in tables.items():
        title = f"{bench.stem}: held-out tasks ({config.evaluation.split}), percent, after {what}"
        console.print(rows_table(of_table, title))
    out = out or Path(config.runs_dir) / f"compare-{bench.stem}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({what: [asdict(row) for row in of_table] for what, of_table in tables.items()}, indent=1))
    from loop_rl.inspection.report.report import write_report  # plotly takes a second

    page = write_report([RunDir(entry.config.run_dir) for entry in entries], out.with_suffix(".html"))
    console.print(f"Tables: {out}; curves of all runs: {page}")


def _at_equal_time(entries: Sequence[Entry], seconds: float) -> dict[str, list[Outcome]]:
    """What each run had come to after so many seconds of training; evaluates what has not been evaluated. Raises RunFailed."""
    found: dict[str, list[Outcome]] = {}
    for number, entry in enumerate(entries):
        run, split = RunDir(entry.config.run_dir), entry.config.evaluation.split
        version = version_after(run, seconds)
        if not run.evaluation_file(version, split).exists():
            said = f"{number + 1} of {len(entries)}: evaluating version {version} of {run.path}"
            command = [sys.executable, "-m", "loop_rl.evaluate", "--run-dir", str(run.path), "--version", str(version)]
            log = run.path.with_name(f"{run.path.name}.log")
            if failure := _in_a_process(str(run.path), command, log, lambda said=said: said):
                raise RunFailed(failure)
        metrics = read_metrics(run)[:version]
        units = read_units([run.evaluation_file(version, split)], _unit(entry))
        before = read_units([run.evaluation_file(0, split)], "task_id")
        found.setdefault(entry.method, []).append(outcome_of(metrics, units, before))
    return found


def _unit(entry: Entry) -> str:
    return find_part(ENVIRONMENT, entry.config.tasks.environment).unit


if __name__ == "__main__":
    sys.exit(main())
