"""Take something out of a run: a policy for vLLM and the hub, or data for supervised or preference training.

    loop_rl export runs/tiny --to out/adapter adapter                  # PEFT adapter of the newest version
    loop_rl export runs/tiny --to out/model merged --version 12        # one model, an adapter merged into its base
    loop_rl export runs/tiny --to out/sft sft --success --iterations 3..9
    loop_rl export runs/tiny --to out/sft sft --min-reward 0.8 --end-reason completed --difficulty 1,2
    loop_rl export runs/tiny --to out/pairs preferences --min-gap 0.5 --difficulty 2

What the folders hold is in docs/data.md; each has a README.md that the hub shows. Data comes from training rollouts
only, never from the held-out tasks of evaluations. A folder that exists is never overwritten.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from loop_rl.config.base import ConfigError
from loop_rl.data.rollout import EndReason
from loop_rl.inspection.export.datasets import LICENCE_WARNING, Filter, export_preferences, export_sft
from loop_rl.machine.command import run_command
from loop_rl.store.run_dir import RunDir

# Which options each kind uses; another one is refused, as it would have no effect.
OPTIONS = {
    "adapter": {"version"},
    "merged": {"version"},
    "sft": {"iterations", "difficulty", "min_reward", "success", "end_reason"},
    "preferences": {"iterations", "difficulty", "min_gap"},
}
DEFAULT_MIN_GAP = 0.5

console = Console(highlight=False, soft_wrap=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which appears as `path` when the body is done, and not at all when it raises.

    Raises:
        ConfigError: there is something of this name already.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path}: exists already, and nothing is overwritten; choose another --to")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        os.rename(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("kind", choices=OPTIONS, help="what to export")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="new folder")
    parser.add_argument("--version", type=int, help="policy version (default: newest)")
    parser.add_argument("--iterations", metavar="FIRST..LAST", help="rollouts of these iterations, as in 3..9 or 3")
    parser.add_argument("--difficulty", metavar="LIST", help="rollouts of tasks of these difficulties, as in 1,2")
    parser.add_argument("--min-reward", type=float, metavar="R", help="rollouts with at least this reward")
    parser.add_argument("--success", action="store_true", default=None, help="rollouts that pass every unit test")
    parser.add_argument("--end-reason", choices=[reason.value for reason in EndReason], help="rollouts that ended so")
    parser.add_argument(
        "--min-gap", type=float, metavar="R", help=f"least difference in reward of a pair (default: {DEFAULT_MIN_GAP})"
    )
    args = parser.parse_args()
    return run_command(lambda: _export(args), "stopped; nothing was written")


def _export(args: argparse.Namespace) -> None:
    _refuse_unused(args)
    run = RunDir.open(args.run_dir)
    if args.kind in ("adapter", "merged"):
        _export_policy(run, args)
        return
    with new_folder(args.to) as folder:
        chosen = Filter(
            iterations=parse_range(args.iterations) if args.iterations else None,
            difficulties=parse_list(args.difficulty) if args.difficulty else None,
            min_reward=args.min_reward,
            success=bool(args.success),
            end_reason=args.end_reason,
        )
        if args.kind == "sft":
            summary = export_sft(run, folder, chosen)
        else:
            min_gap = DEFAULT_MIN_GAP if args.min_gap is None else args.min_gap
            summary = export_preferences(run, folder, chosen, min_gap)
    console.print(f"{args.to}: {summary}", markup=False)
    console.print(LICENCE_WARNING, markup=False)


def _export_policy(run: RunDir, args: argparse.Namespace) -> None:
    from loop_rl.inspection.export.policies import export_adapter, export_merged  # imports torch, which takes seconds

    version = run.latest_version() if args.version is None else args.version
    run.require_version(version)
    with new_folder(args.to) as folder:
        (export_adapter if args.kind == "adapter" else export_merged)(run, folder, version)
    console.print(f"{args.to}: policy version {version} of {run.path}, {args.kind}", markup=False)


def _refuse_unused(args: argparse.Namespace) -> None:
    options = set().union(*OPTIONS.values())
    unused = sorted(name for name in options - OPTIONS[args.kind] if getattr(args, name) is not None)
    if unused:
        name = f"--{unused[0].replace('_', '-')}"
        used = ", ".join(f"--{option.replace('_', '-')}" for option in sorted(OPTIONS[args.kind]))
        raise ConfigError(f"{name} has no effect on {args.kind}; leave it out ({args.kind} uses {used})")


def parse_range(text: str) -> range:
    """ "3..9" or "3", both ends included. Raises ConfigError."""
    first, dots, last = text.partition("..")
    if not first.isdecimal() or (dots and not last.isdecimal()) or (dots and int(last) < int(first)):
        raise ConfigError(f"--iterations {text}: expected FIRST..LAST or one number, for example 3..9")
    return range(int(first), int(last if dots else first) + 1)


def parse_list(text: str) -> list[int]:
    """ "1,2". Raises ConfigError."""
    numbers = text.split(",")
    if not all(number in ("1", "2", "3") for number in numbers):
        raise ConfigError(f"--difficulty {text}: expected some of 1, 2, 3, for example 1,2")
    return [int(number) for number in numbers]


if __name__ == "__main__":
    sys.exit(main())
