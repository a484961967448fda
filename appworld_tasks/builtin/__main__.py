"""Command line of the built-in task pack: `python -m appworld_tasks.builtin generate|demonstrations`."""

import argparse
import os
import sys
from pathlib import Path

from appworld_tasks.builtin.pack import PackSettings, generate

EXAMPLES = """\
examples (run with the Python of AppWorld's virtual environment):
  # the default pack: 48 + 12 + 40 + 10 scenarios of three tasks each
  python -m appworld_tasks.builtin generate --root .appworld-root --seed 0
  # a very small one
  python -m appworld_tasks.builtin generate --root /tmp/small --train-scenarios 2 --dev-scenarios 1 \\
      --test-normal-scenarios 1 --test-challenge-scenarios 1
  # 2,000 demonstrations, a third of them with a typical mistake
  python -m appworld_tasks.builtin demonstrations --root /tmp/warmup --count 2000 --flawed-fraction 0.33 \\
      --out warmup.jsonl
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
    for dataset, default in (("train", 48), ("dev", 12), ("test-normal", 40), ("test-challenge", 10)):
        help_text = f"scenario instances in {dataset}, three tasks each (default {default})"
        pack.add_argument(f"--{dataset}-scenarios", type=_natural, default=default, metavar="N", help=help_text)
    pack.add_argument("--replace", action="store_true", help="replace a pack of other settings or of another version")
    pack.add_argument("--people", type=_natural, default=12, metavar="N", help="people in each split (default 12)")

    help_text = "run and score solutions and typical mistakes on a population of their own"
    warmup = _add_command(commands, "demonstrations", help_text, _demonstrations)
    warmup.add_argument("--count", type=_natural, required=True, metavar="N", help="number of demonstrations")
    help_text = "probability that a demonstration contains a mistake (default 0.5)"
    warmup.add_argument("--flawed-fraction", type=_fraction, default=0.5, metavar="F", help=help_text)
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
    scenarios = {
        "train": options.train_scenarios,
        "dev": options.dev_scenarios,
        "test_normal": options.test_normal_scenarios,
        "test_challenge": options.test_challenge_scenarios,
    }
    settings = PackSettings(options.seed, scenarios, people=dict.fromkeys(scenarios, options.people))
    print(generate(options.root.resolve(), settings, replace=options.replace))


def _demonstrations(options: argparse.Namespace) -> None:
    from appworld_tasks.builtin.demonstrations import DemonstrationSettings, write_demonstrations

    settings = DemonstrationSettings(
        root=options.root.resolve(),
        seed=options.seed,
        count=options.count,
        flawed_fraction=options.flawed_fraction,
        workers=options.workers,
        num_people=options.people,
    )
    write_demonstrations(settings, options.out)
    print(f"Wrote {options.count} demonstrations to {options.out}.")


if __name__ == "__main__":
    main()
