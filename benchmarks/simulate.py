"""How well the simulation predicts real runs: calibrated by one run, compared with it and with others.

    python benchmarks/simulate.py runs/tiny
    python benchmarks/simulate.py runs/one-behind --predict runs/synchronous

Says for every discipline what the simulation expects on the calibrated machine, and beside it what a run of that
discipline measured. Iterations at both ends of a run are left out, see loop_rl.planning.measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loop_rl.machine.command import run_command
from loop_rl.planning.measured import Measured, measure
from loop_rl.planning.simulation import DISCIPLINES, Outcome, simulate
from loop_rl.store.run_dir import RunDir

ITERATIONS = 30


def compare(calibrated_by: Path, others: list[Path]) -> Table:
    """What is predicted and what was measured."""
    run = RunDir.open(calibrated_by)
    measured, sampler = measure(run), run.config.sampler
    runs = {path: (RunDir.open(path).config.sampler.max_staleness, measure(RunDir.open(path))) for path in others}
    runs = {calibrated_by: (sampler.max_staleness, measured)} | runs
    generation, environment = measured.system.generation, measured.system.environment
    table = Table(
        title=f"calibrated by {calibrated_by}",
        caption=(
            f"seconds a token {generation.base_s:.4f} + {generation.per_request_s:.5f} n, x {generation.beside_training:.2f} "
            f"beside training; seconds a turn in AppWorld {environment.base_s:.3f} + {environment.per_request_s:.4f} n, x "
            f"{environment.beside_training:.2f}; training x {measured.system.training_beside_sampling:.2f} beside sampling"
        ),
    )
    for heading in ("", "s an iteration", "rollouts/min", "sampler idle", "trainer idle", "staleness"):
        table.add_column(heading, justify="right" if heading else "left")
    for discipline in DISCIPLINES:
        outcome = simulate(
            measured.system,
            measured.workload,
            discipline,
            sampler.tasks_per_iteration,
            sampler.rollouts_per_task,
            ITERATIONS,
        )
        table.add_row(f"{discipline.name}, predicted", *cells(outcome))
        for path, (max_staleness, other) in runs.items():
            if max_staleness == discipline.max_staleness:
                table.add_row(f"  measured in {path}", *cells(other))
                table.add_row("  error", f"{100 * (outcome.iteration_s / other.iteration_s - 1):+.0f}%")
    return table


def cells(outcome: Outcome | Measured) -> list[str]:
    return [
        f"{outcome.iteration_s:.1f}",
        f"{outcome.rollouts_per_minute:.0f}",
        f"{outcome.sampler_idle:.0%}",
        f"{outcome.trainer_idle:.0%}",
        " ".join(f"{age}: {share:.0%}" for age, share in outcome.staleness.items()),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory to calibrate by")
    parser.add_argument(
        "--predict", type=Path, action="append", default=[], help="run to compare with; may be repeated"
    )
    args = parser.parse_args()
    return run_command(lambda: Console(width=120).print(compare(args.run, args.predict)), "stopped")


if __name__ == "__main__":
    sys.exit(main())
