"""Evaluation: TGC and SGC on one split, of a run's policy version, of any model, or of any OpenAI-compatible endpoint.

    python -m loop_rl.evaluate --run-dir runs/tiny                                      # newest version, the run's split
    python -m loop_rl.evaluate --run-dir runs/tiny --version 0 --split test_challenge
    python -m loop_rl.evaluate --run-dir runs/tiny --version 12 --repeat 2              # again, with other seeds
    python -m loop_rl.evaluate --config configs/evaluate.yaml --model Qwen/Qwen2.5-7B-Instruct --split dev
    python -m loop_rl.evaluate --config configs/evaluate.yaml --model gpt-x --endpoint https://host/v1 name=gpt-x

The first two read and write the run. The others make a run of their own, `runs/eval-<model>` if no name= is given, which has
nothing but evaluations of policy version 0; the last asks an endpoint, with the key in OPENAI_API_KEY.

Every task of the split is tried once. AppWorld's own experiment folders are left behind, so that
`appworld evaluate <experiment> <split> --root <tasks.root>` prints the same numbers, and `appworld pack` packs them for the
leaderboard. Episodes are written as they finish; an interrupted evaluation goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loop_rl.agents.chat import Chat
from loop_rl.agents.episode import Agent, Job
from loop_rl.agents.policy import PolicyError
from loop_rl.config.load import load_config
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.config.settings import Config
from loop_rl.data.rollout import Rollout, Usage, version_name
from loop_rl.environments.protocol import Environment, EnvironmentFailed, ScoringError, Task
from loop_rl.evaluation.preflight import check_evaluation_inputs, check_servers
from loop_rl.evaluation.selection import Evaluation
from loop_rl.evaluation.tables import details, evaluation_table, summary
from loop_rl.machine.command import run_async, run_command
from loop_rl.machine.files import write_atomically
from loop_rl.machine.processes import die_with_parent
from loop_rl.sampling.collect import collect, in_order
from loop_rl.serving.client import PolicyClient
from loop_rl.serving.endpoint import Endpoint, MessageChat, check_endpoint, stored
from loop_rl.serving.replicas import Replicas
from loop_rl.serving.server import ServerFailed
from loop_rl.store.rollout_files import read_rollouts, write_rollouts
from loop_rl.store.run_dir import RunDir
from loop_rl.store.secret import run_id, secret

_TEND_EVERY_S = 0.3
console = Console(highlight=False, soft_wrap=True)


async def evaluate(run: RunDir, config: Config, what: Evaluation, urls: list[str]) -> dict:
    """Run what is missing of an evaluation, write its rollouts and figures, and return the figures.

    urls: of vLLM servers; empty with `evaluation.endpoint`.

    Raises:
        PolicyError: no vLLM server or no endpoint answers.
        ScoringError: an episode cannot be scored.
    """
    environment = make_part(ENVIRONMENT, config)
    version, split, file = what.version, what.split, what.file(run)
    tasks = environment.tasks(split)
    again = f"-r{what.repeat}" if what.repeat > 1 else ""
    outputs_name = environment.outputs_name(f"{config.name}-{run_id(run)}{again}", version, split)
    pieces = run.evaluation_pieces(version, split, what.repeat)
    # A whole model is deleted when it is old, unless this folder shows that its evaluation has begun.
    pieces.mkdir(parents=True, exist_ok=True)
    done = {path.stem for path in pieces.glob("*.parquet")}
    jobs = [
        _job(config, what, outputs_name, index, task) for index, task in enumerate(tasks) if task.task_id not in done
    ]
    if config.evaluation.endpoint:
        chat = MessageChat(config.agent)
        client = Endpoint(config.evaluation.endpoint, config.model.path, sampling=_sampling(config))
    else:
        chat = Chat.from_pretrained(config.model.path, config.agent)
        client = PolicyClient.of_run(run, config, urls, chat.end_of_turn_id, _sampling(config))

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(f"evaluating version {version} on {split}", total=len(tasks), completed=len(done))

        def on_finished(rollout: Rollout) -> None:
            if config.evaluation.endpoint:
                rollout, usage = stored(rollout)
                write_atomically(pieces / f"{rollout.task_id}.usage.json", json.dumps(asdict(usage)))
            write_rollouts(pieces / f"{rollout.task_id}.parquet", [rollout])
            progress.update(bar, advance=1)

        async with environment, client as policy:
            if not config.evaluation.endpoint:
                await policy.load_version(version, run.policy_folder(version) if version else None)
            agent = Agent.evaluation(policy, chat, config.agent, config.evaluation.temperature, version)
            num_concurrent = config.tasks.num_workers
            await collect(in_order(jobs), environment, lambda _: agent, num_concurrent, on_finished, keep_outputs=True)

    rollouts = [read_rollouts(pieces / f"{task.task_id}.parquet")[0] for task in tasks]
    usages = [_usage(pieces, rollout) for rollout in rollouts]
    write_rollouts(file.with_suffix(".parquet"), rollouts)
    figures = environment.figures(tasks, rollouts, usages)
    figures |= {"behaviour": _behaviour(environment, rollouts, usages), "experiment": outputs_name}
    write_atomically(file, json.dumps(figures, indent=1))
    for piece in pieces.iterdir():
        piece.unlink()
    pieces.rmdir()
    return figures


def _sampling(config: Config) -> dict[str, float]:
    """What the config says beside the temperature; what it leaves open is left out, as not every endpoint knows it."""
    settings = config.evaluation
    return ({"top_p": settings.top_p} if settings.top_p < 1 else {}) | (
        {"top_k": settings.top_k} if settings.top_k else {}
    )


def _behaviour(environment: Environment, rollouts: Sequence[Rollout], usages: Sequence[Usage]) -> dict[str, int]:
    counts = Counter()
    for rollout, usage in zip(rollouts, usages, strict=True):
        counts.update(environment.count_behaviour(rollout.turns, rollout.end_reason, usage.action_tokens))
    return dict(counts)


def _usage(pieces: Path, rollout: Rollout) -> Usage:
    """As an endpoint has counted, or else by the rollout's own tokens."""
    file = pieces / f"{rollout.task_id}.usage.json"
    return (
        Usage(**json.loads(file.read_text())) if file.exists() else Usage(rollout.num_action_tokens, rollout.num_tokens)
    )


def _job(config: Config, what: Evaluation, outputs_name: str, index: int, task: Task) -> Job:
    again = f"r{what.repeat}-" if what.repeat > 1 else ""
    # The same for every version, so that a comparison is less noisy, and others each time.
    seed = config.seed * 1_000_003 + index + (what.repeat - 1) * 1_000_000_007
    return Job(
        task=task,
        rollout_id=f"{version_name(what.version)}-{again}{task.task_id}",
        outputs_name=outputs_name,
        seed=seed,
        group_id=index,
        iteration=-1,
    )


def _evaluate_with_servers(run: RunDir, config: Config, what: Evaluation, urls: list[str]) -> dict:
    """With the given servers or the endpoint, or else with servers of our own for the time it takes."""
    if urls or config.evaluation.endpoint:
        return run_async(evaluate(run, config, what, urls))
    check_servers(config)
    replicas = Replicas(config, run.logs / f"evaluation-{what.file(run).stem}", secret(run))
    try:
        with console.status("starting vLLM"):
            replicas.start()
            replicas.wait_until_ready()
        return run_async(_tended(evaluate(run, config, what, replicas.urls), replicas))
    finally:
        replicas.stop()


async def _tended(work: Coroutine[Any, Any, dict], replicas: Replicas) -> dict:
    """The result of `work`, with the servers tended beside it. Raises ServerFailed."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            replicas.tend()
            await asyncio.wait([task], timeout=_TEND_EVERY_S)
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run-dir", type=Path, help="evaluate a policy of this run")
    what.add_argument("--config", type=Path, help="evaluate a model without training, with these settings")
    parser.add_argument("--version", type=int, help="of the run's policy; 0 is the untouched base (default: newest)")
    parser.add_argument("--model", help="local folder or hub name, or the name that the endpoint knows (model.path)")
    parser.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible, ends with /v1 (evaluation.endpoint)")
    parser.add_argument("--split", help="dev, test_normal, test_challenge or train (default: the config's)")
    parser.add_argument("--repeat", type=int, default=1, help="do it again with other seeds: 2, 3, ... (default: 1)")
    parser.add_argument("--summary", action="store_true", help="print TGC, SGC and what episodes cost, no more")
    parser.add_argument("--server", action="append", default=[], metavar="URL", help="running vLLM server; repeatable")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted settings, with --config")
    args = parser.parse_intermixed_args()  # settings may stand anywhere
    if args.run_dir and (args.model or args.endpoint or args.overrides):
        parser.error("a run has its model and settings; --model, --endpoint and key=value go with --config")
    if args.config and args.version is not None:
        parser.error("--version goes with --run-dir")
    if args.repeat < 1:
        parser.error(f"--repeat {args.repeat}: at least 1")
    die_with_parent()
    errors = (PolicyError, ScoringError, EnvironmentFailed, ServerFailed)
    work = _evaluate_run if args.run_dir else _evaluate_model
    return run_command(lambda: work(args), "stopped; the same command goes on from here", errors)


def _evaluate_run(args: argparse.Namespace) -> None:
    run = RunDir.open(args.run_dir)
    config = run.config
    split = args.split or config.evaluation.split
    check_evaluation_inputs(config, split)
    version = run.latest_version() if args.version is None else args.version
    run.require_version(version)
    _evaluate_and_print(run, config, Evaluation(version, split, args.repeat), args)


def _evaluate_model(args: argparse.Namespace) -> None:
    overrides = list(args.overrides)
    if args.model:
        overrides.append(f"model.path={json.dumps(args.model)}")
    if args.endpoint:
        overrides.append(f"evaluation.endpoint={json.dumps(args.endpoint)}")
    if not any(override.startswith("name=") for override in overrides):
        model = load_config(args.config, overrides).model.path
        overrides.append(f"name=eval-{re.sub(r'[^A-Za-z0-9._-]', '-', Path(model).name)}")
    config = load_config(args.config, overrides)
    split = args.split or config.evaluation.split
    check_evaluation_inputs(config, split)
    if config.evaluation.endpoint and not config.run_dir.exists():
        run_async(check_endpoint(config.evaluation.endpoint, config.model.path))
    _evaluate_and_print(RunDir.create(config), config, Evaluation(0, split, args.repeat), args)


def _evaluate_and_print(run: RunDir, config: Config, what: Evaluation, args: argparse.Namespace) -> None:
    """Evaluate unless that has been done, and print the figures."""
    version, split, file = what.version, what.split, what.file(run)

    def wait(holder: str) -> None:
        console.print(f"{holder} evaluates version {version} on {split} already; waiting for it")

    # Of other versions and splits several evaluations may run at once, one of them by the training run itself.
    with run.lock(f"evaluation-{file.stem}", wait):
        if not file.exists():
            _evaluate_with_servers(run, config, what, args.server)
    figures = json.loads(file.read_text())
    console.print(evaluation_table(figures, f"policy version {version} on {split}"))
    if "turns_per_task" not in figures:
        console.print(
            f"{file} was written by an older loop_rl that recorded only the scores; move it away to evaluate again"
        )
        return
    console.print(summary(figures))
    if args.summary:
        return
    before = run.evaluation_file(0, split)
    columns = {"before (version 0)": json.loads(before.read_text())} if version and before.exists() else {}
    environment = make_part(ENVIRONMENT, config)
    for table in details(figures, columns | {f"version {version}": figures}, environment.behaviours):
        console.print(table)
    for line in environment.hint(figures["experiment"], split):
        console.print(line)
