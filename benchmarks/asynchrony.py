"""Synchronous, one version behind and fully asynchronous training, one after the other on the same tasks.

    python benchmarks/asynchrony.py --to runs/asynchrony
    python benchmarks/asynchrony.py --to runs/asynchrony --iterations 16 trainer.learning_rate=5e-4

Three runs of configs/tiny.yaml that differ in nothing but `sampler.max_staleness` (0, 1, 3), each the same number of
rollouts. Then their figures, beside what the simulation of `make plan` predicts when it is calibrated by the run that is
one behind alone: of a synchronous one nobody can tell how much sampling and training slow each other. Runs that are
finished already are not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table
from simulate import cells

from loop_rl.machine.command import run_command
from loop_rl.planning.measured import measure
from loop_rl.planning.simulation import DISCIPLINES, ONE_BEHIND, simulate
from loop_rl.store.metrics import read_metrics
from loop_rl.store.run_dir import RunDir

LAST = 3
"""Iterations at the end of which the return is compared."""


def train(to: Path, name: str, max_staleness: int, iterations: int, overrides: list[str]) -> RunDir:
    """One run, to its end."""
    settings = [f"name={name}", f"runs_dir={to}", f"sampler.max_staleness={max_staleness}"]
    settings += [f"trainer.num_iterations={iterations}", *overrides]
    command = [sys.executable, "-m", "loop_rl.launch", "--config", "configs/tiny.yaml", *settings]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return RunDir(to / name)


def compare(runs: dict[str, RunDir]) -> Table:
    """Measured, and predicted from the one that is one behind."""
    table = Table(title="the same tasks, the same number of rollouts")
    headings = ("", "s an iteration", "rollouts/min", "sampler idle", "trainer idle", "versions old")
    for heading in (*headings, f"return, last {LAST}", "TGC after"):
        table.add_column(heading, justify="right" if heading else "left")
    measured = {name: measure(run) for name, run in runs.items()}
    calibration = measured[ONE_BEHIND.name]
    for discipline in DISCIPLINES:
        run = runs[discipline.name]
        config = run.config
        returns = [line["rollout/return"] for line in read_metrics(run)]
        figures = json.loads(run.evaluation_file(config.trainer.num_iterations, config.evaluation.split).read_text())
        tgc = figures["TGC"]["all"]
        after = f"{100 * tgc['value']:.1f} [{100 * tgc['low']:.1f}, {100 * tgc['high']:.1f}]"
        table.add_row(discipline.name, *cells(measured[discipline.name]), f"{fmean(returns[-LAST:]):.3f}", after)
        outcome = simulate(
            calibration.system,
            calibration.workload,
            replace(discipline, max_staleness=config.sampler.max_staleness),
            config.sampler.tasks_per_iteration,
            config.sampler.rollouts_per_task,
            30,
        )
        table.add_row("  predicted", *cells(outcome), "", "")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="folder for the three runs")
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted settings for all three")
    args = parser.parse_args()

    def work() -> None:
        runs = {
            discipline.name: train(
                args.to, discipline.name.replace(" ", "-"), discipline.max_staleness, args.iterations, args.overrides
            )
            for discipline in DISCIPLINES
        }
        Console(width=140).print(compare(runs))

    return run_command(work, "stopped; the same command goes on from here", (subprocess.CalledProcessError,))


if __name__ == "__main__":
    sys.exit(main())
