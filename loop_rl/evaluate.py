"""Evaluation: TGC and SGC of one policy version on one split.

    python -m loop_rl.evaluate --run-dir runs/tiny                                      # newest version, the run's split
    python -m loop_rl.evaluate --run-dir runs/tiny --version 0 --split test_challenge

Every task of the split is tried once. AppWorld's own experiment folders are left behind, so that
`appworld evaluate <experiment> <split> --root <tasks.root>` prints the same numbers. Episodes are written as they
finish; an interrupted evaluation goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from appworld_tasks.goal_completion import goal_completion
from appworld_tasks.pool import EngineError
from appworld_tasks.scoring import ScoringError
from appworld_tasks.splits import TaskInfo, load_split
from loop_rl.agent import EpisodeSettings, Job, collect
from loop_rl.chat import Chat
from loop_rl.command import run_async, run_command
from loop_rl.config import Config, ConfigError
from loop_rl.environment import make_environment
from loop_rl.policy import PolicyClient, PolicyError
from loop_rl.preflight import check_inputs
from loop_rl.processes import die_with_parent
from loop_rl.rollout import Rollout, read_rollouts, write_rollouts
from loop_rl.run_dir import RunDir, write_atomically
from loop_rl.server import ServerFailed, VllmServer
from loop_rl.tables import evaluation_table

console = Console(highlight=False, soft_wrap=True)


def experiment_name(config: Config, version: int, split: str) -> str:
    """Name of the AppWorld experiment that an evaluation leaves behind."""
    return f"{config.name}-v{version:06d}-{split}"


async def evaluate(run: RunDir, config: Config, version: int, split: str, urls: list[str]) -> dict:
    """Run what is missing of an evaluation, write its rollouts and figures, and return the figures.

    Raises:
        PolicyError: no vLLM server answers.
        ScoringError: an episode cannot be scored.
    """
    tasks = load_split(config.tasks.root, split)
    pieces = run.eval_rollouts / f".v{version:06d}-{split}"
    done = {path.stem for path in pieces.glob("*.parquet")}
    jobs = [_job(config, version, split, index, task) for index, task in enumerate(tasks) if task.task_id not in done]
    chat = Chat.from_pretrained(config.model.path, config.agent)
    settings = EpisodeSettings.evaluation(config.agent, config.evaluation.temperature, version)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(f"evaluating version {version} on {split}", total=len(tasks), completed=len(done))

        def on_finished(rollout: Rollout) -> None:
            write_rollouts(pieces / f"{rollout.task_id}.parquet", [rollout])
            progress.update(bar, advance=1)

        async with (
            make_environment(config.tasks) as environment,
            PolicyClient(urls, chat.end_of_turn_id, logs=str(run.logs)) as policy,
        ):
            if version:
                await policy.load_version(version, run.adapter(version))
            num_concurrent = config.tasks.num_workers
            await collect(jobs, environment, policy, chat, settings, num_concurrent, on_finished, keep_outputs=True)

    rollouts = [read_rollouts(pieces / f"{task.task_id}.parquet")[0] for task in tasks]
    write_rollouts(run.evaluation_file(version, split).with_suffix(".parquet"), rollouts)
    figures = describe(tasks, rollouts) | {"experiment": experiment_name(config, version, split)}
    write_atomically(run.evaluation_file(version, split), json.dumps(figures, indent=1))
    for piece in pieces.glob("*.parquet"):
        piece.unlink()
    pieces.rmdir()
    return figures


def describe(tasks: list[TaskInfo], rollouts: list[Rollout]) -> dict:
    """TGC and SGC as fractions with 95% intervals, overall ("all") and by difficulty; return; how episodes ended."""
    successes = {rollout.task_id: rollout.success for rollout in rollouts}
    completion = goal_completion(successes, {task.task_id: task.difficulty for task in tasks})
    figures: dict = {"TGC": {}, "SGC": {}}
    for level, estimate in completion.items():
        for name, figure in (("TGC", estimate.task), ("SGC", estimate.scenario)):
            interval = {"value": figure.value, "low": figure.low, "high": figure.high}
            figures[name][level] = interval | {"num": figure.num}
    figures["return"] = sum(rollout.reward for rollout in rollouts) / len(rollouts)
    figures["end_reasons"] = dict(Counter(rollout.end_reason for rollout in rollouts))
    return figures


def _job(config: Config, version: int, split: str, index: int, task: TaskInfo) -> Job:
    return Job(
        task=task,
        rollout_id=f"v{version:06d}-{task.task_id}",
        experiment_name=experiment_name(config, version, split),
        seed=config.seed * 1_000_003 + index,  # the same for every version, so that a comparison is less noisy
        group_id=index,
        iteration=-1,
    )


def _evaluate_with_server(run: RunDir, config: Config, version: int, split: str, urls: list[str]) -> dict:
    """With the given servers, or with one of our own for the time it takes."""
    if urls:
        return run_async(evaluate(run, config, version, split, urls))
    server = VllmServer(config, 0, run.logs / "vllm-evaluate.log")
    try:
        with console.status("starting vLLM"):
            server.start()
            server.wait_until_ready()
        return run_async(evaluate(run, config, version, split, [server.url]))
    finally:
        server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--version", type=int, help="policy version; 0 is the untouched base (default: newest)")
    parser.add_argument("--split", help="dev, test_normal, test_challenge or train (default: the run's)")
    parser.add_argument("--server", action="append", default=[], metavar="URL", help="running vLLM server; repeatable")
    args = parser.parse_args()
    die_with_parent()
    errors = (PolicyError, ScoringError, EngineError, ServerFailed)
    return run_command(lambda: _evaluate_run(args), "stopped; the same command goes on from here", errors)


def _evaluate_run(args: argparse.Namespace) -> None:
    run = RunDir.open(args.run_dir)
    config = run.config
    check_inputs(config)
    version = run.latest_version() if args.version is None else args.version
    if version and not run.adapter(version).exists():
        raise ConfigError(f"{run.adapter(version)}: no such policy version; newest is {run.latest_version()}")
    split = args.split or config.evaluation.split
    with run.lock("evaluation"):
        if run.evaluation_file(version, split).exists():
            figures = json.loads(run.evaluation_file(version, split).read_text())
        else:
            figures = _evaluate_with_server(run, config, version, split, args.server)
    console.print(evaluation_table(figures, f"policy version {version} on {split}"))
    console.print(
        f"AppWorld's own figures: appworld evaluate {figures['experiment']} {split} --root {config.tasks.root}"
    )


if __name__ == "__main__":
    sys.exit(main())
