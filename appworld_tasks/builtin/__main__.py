"""Command line of the built-in task pack: `python -m appworld_tasks.builtin generate|check|demonstrations`."""

import argparse
import os
import sys
from pathlib import Path

from appworld_tasks.builtin import scenarios
from appworld_tasks.builtin.pack import TASKS_PER_INSTANCE, PackSettings, generate
from appworld_tasks.builtin.scenarios import SPLITS

EXAMPLES = """\
examples (run with the Python of AppWorld's virtual environment):
  # the default pack: 162 + 36 + 108 + 54 tasks in train, dev, test_normal, test_challenge
  python -m appworld_tasks.builtin generate --root .appworld-root --seed 0
  # 6,000 training tasks and more people
  python -m appworld_tasks.builtin generate --root /tmp/large --tasks 6000 300 900 450 --people 60
  # try every scenario: its solution, an agent that does nothing, and every wrong solution
  python -m appworld_tasks.builtin check --root /tmp/check
  python -m appworld_tasks.builtin check --root /tmp/check --scenario note_pay --show
  # 2,000 demonstrations for supervised warm-up, the kind a good agent would write
  python -m appworld_tasks.builtin demonstrations --root /tmp/warmup --count 2000 --out warmup.jsonl
"""


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run one command."""
    options = _parser().parse_args(arguments)
    try:
        _point_appworld_at(options.root)
        options.run(options)
    except ValueError as error:
        sys.exit(f"error: {error}")
    sys.stdout.flush()
    # AppWorld's event loops can keep a finished interpreter alive for minutes.
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m appworld_tasks.builtin",
        description="Generate AppWorld tasks of our own, on the unmodified AppWorld engine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    pack = _add_command(commands, "generate", "generate (or reuse) a task pack: an AppWorld root folder", _generate)
    help_text = "tasks in train, dev, test_normal and test_challenge, each a multiple of 3 (default 162 36 108 54)"
    pack.add_argument("--tasks", type=_tasks, nargs=4, default=[162, 36, 108, 54], metavar="N", help=help_text)
    pack.add_argument("--replace", action="store_true", help="replace a pack of other settings or of another version")
    pack.add_argument("--people", type=_natural, default=12, metavar="N", help="people in each split (default 12)")

    check = _add_command(commands, "check", "try every scenario and say what is wrong with it", _check)
    help_text = "this scenario only; repeatable (default: all)"
    check.add_argument("--scenario", action="append", default=[], metavar="NAME", help=help_text)
    check.add_argument("--tasks", type=_natural, default=3, metavar="N", help="tasks of each scenario (default 3)")
    check.add_argument("--workers", type=_natural, default=2, metavar="N", help="processes (default 2)")
    check.add_argument("--show", action="store_true", help="print instructions, code and REPL output")

    help_text = "run and score solutions and wrong solutions on a population of their own"
    warmup = _add_command(commands, "demonstrations", help_text, _demonstrations)
    warmup.add_argument("--count", type=_natural, required=True, metavar="N", help="number of demonstrations")
    help_text = (
        "careful: documentation first, slips mended; brief: for a policy of a million parameters (default careful)"
    )
    warmup.add_argument("--style", choices=("careful", "brief"), default="careful", help=help_text)
    help_text = "splits whose scenarios are demonstrated, never with their people or values (default train)"
    warmup.add_argument("--splits", nargs="+", choices=SPLITS, default=["train"], metavar="SPLIT", help=help_text)
    help_text = "share of demonstrations that do not solve their task (default 0)"
    warmup.add_argument("--wrong-fraction", type=_fraction, default=0.0, metavar="F", help=help_text)
    warmup.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines file to write")
    warmup.add_argument("--workers", type=_natural, default=2, metavar="N", help="processes (default 2)")
    warmup.add_argument("--people", type=_natural, default=400, metavar="N", help="people (default 400)")
    return parser


def _add_command(commands, name: str, help_text: str, run) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=help_text,
        description=help_text,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--root", type=Path, required=True, metavar="DIR", help="AppWorld root folder to write")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="everything follows from it (default 0)")
    command.set_defaults(run=run)
    return command


def _natural(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _tasks(text: str) -> int:
    if not text.isdecimal() or int(text) < 3 or int(text) % 3:
        raise argparse.ArgumentTypeError(f"expected a multiple of 3 (a scenario has three tasks), got {text!r}")
    return int(text)


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r}")
    return value


def _point_appworld_at(root: Path) -> None:
    root = root.resolve()
    if "memory" in str(root):
        raise ValueError(f'AppWorld treats any path that contains "memory" as a database in RAM; rename {root}.')
    root.mkdir(parents=True, exist_ok=True)
    # AppWorld remembers its root, so it is set before the package is imported.
    os.environ["APPWORLD_ROOT"] = str(root)


def _generate(options: argparse.Namespace) -> None:
    instances = {split: num // TASKS_PER_INSTANCE for split, num in zip(SPLITS, options.tasks, strict=True)}
    settings = PackSettings(options.seed, instances, people=dict.fromkeys(SPLITS, options.people))
    print(generate(options.root.resolve(), settings, replace=options.replace))


def _check(options: argparse.Namespace) -> None:
    from appworld_tasks.builtin.check import CheckSettings, check_scenarios

    unknown = sorted(set(options.scenario) - scenarios.load_all().keys())
    if unknown:
        raise ValueError(f"no scenario {unknown[0]!r}; there are {', '.join(scenarios.load_all())}.")
    settings = CheckSettings(options.root.resolve(), options.seed, options.tasks, options.workers, options.show)
    if not check_scenarios(settings, options.scenario or list(scenarios.load_all())):
        raise ValueError("some scenarios are not right; see above.")


def _demonstrations(options: argparse.Namespace) -> None:
    from appworld_tasks.builtin.demonstrations import DemonstrationSettings, write_demonstrations

    settings = DemonstrationSettings(
        root=options.root.resolve(),
        seed=options.seed,
        count=options.count,
        splits=tuple(options.splits),
        style=options.style,
        wrong_fraction=options.wrong_fraction,
        workers=options.workers,
        num_people=options.people,
    )
    write_demonstrations(settings, options.out)
    print(f"Wrote {options.count} demonstrations to {options.out}.")


if __name__ == "__main__":
    main()
