"""The training loop: Algorithm 1 of LOOP (arXiv 2502.01600), one iteration after another.

    accelerate launch --config_file configs/accelerate/one-node.yaml -m loop_rl.train --run-dir runs/tiny
    accelerate launch --config_file configs/accelerate/one-node.yaml -m loop_rl.train --config configs/tiny.yaml seed=1

Every rank runs this file. Rollouts come from the run directory, where the sampler (`loop_rl.sampling.sampler`) writes them; the
new policy goes back there. Nothing else connects the two, so either can be killed and started again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from statistics import fmean

from loop_rl.algorithms.learning import advantages_of, make_objective
from loop_rl.config.base import ConfigError
from loop_rl.config.load import load_config
from loop_rl.config.parts import ADVANTAGE, ENVIRONMENT, FILTER, PENALTIES, find_part, make_part, make_parts
from loop_rl.config.settings import Config
from loop_rl.data.rollout import Group
from loop_rl.machine.processes import die_with_parent
from loop_rl.store.metrics import MetricsWriter
from loop_rl.store.rollout_files import read_group
from loop_rl.store.rollouts import assigned_groups, read_dropped
from loop_rl.store.run_dir import RunDir
from loop_rl.store.timeline import Timeline
from loop_rl.store.updates import write_updates
from loop_rl.training.agreement import check_own_forward, check_sampler
from loop_rl.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from loop_rl.training.engine import end_process
from loop_rl.training.figures import describe_groups, describe_left_out
from loop_rl.training.known import known_columns
from loop_rl.training.launcher import refuse_contradictions
from loop_rl.training.publish import publish_policy
from loop_rl.training.stress import stress_step
from loop_rl.training.totals import Update
from loop_rl.training.trainer import Trainer

POLL_S = 0.2
SAMPLER_SILENCE_S = 300.0
_OF_THE_POLICY = ("groups", "turns")
"""Sources whose rollouts a recent policy version has sampled."""


def train(run: RunDir, config: Config) -> None:
    """Train until `trainer.num_iterations` iterations are done, from the newest checkpoint if there is one."""
    estimator = make_part(ADVANTAGE, config)
    is_kept = make_part(FILTER, config)
    objective = make_objective(config)
    penalties = make_parts(PENALTIES, config)
    environment = find_part(ENVIRONMENT, config.tasks.environment)
    trainer = Trainer(config)
    if trainer.is_main:
        run.write_status("trainer", phase="stress step", iteration=0, done=0, total=1)
    check_own_forward(trainer)
    stress_step(trainer, objective)
    first_iteration = resume(trainer, run)
    metrics = MetricsWriter(run, first_iteration, config.tracking) if trainer.is_main else None
    timeline = Timeline(run, "trainer", record=trainer.is_main)
    publish_s = 0.0

    for iteration in range(first_iteration, config.trainer.num_iterations):
        # 1. Roll out: K episodes of each task. The sampler does it; here we only wait.
        with timeline.span("waiting for rollouts", iteration) as waiting:
            groups = wait_for_groups(run, config, iteration, report=trainer.is_main)

        with timeline.span("training", iteration) as training:
            known = known_columns(trainer, groups, estimator.reads, penalties, environment.has_failed)
            # 2. Advantage: each rollout against the others of its task.
            columns = advantages_of(estimator, groups, known)
            # 3. Filter: only what teaches something is trained on.
            rollouts = [rollout for group in groups for rollout in group.rollouts]
            kept = [rollout for rollout in rollouts if is_kept(rollout, columns[rollout.rollout_id])]
            samples = [sample for rollout in kept for sample in rollout.samples(columns[rollout.rollout_id])]

            # 4. Update: N epochs over shuffled minibatches.
            if samples:
                on_step = _step_reporter(run, iteration) if trainer.is_main else None
                update = trainer.fit(samples, objective, iteration, on_step)
                if config.sampler.source in _OF_THE_POLICY:  # others have sampled at other temperatures, or not at all
                    check_sampler(update, config, iteration)
            else:
                update = Update.skipped()  # in every group all rollouts scored alike: nothing to learn from

        # The figures, the checkpoint, the policy, in this order: killed in between, the iteration is done again and its
        # figures replaced; and a version that others have seen can always be resumed from.
        if metrics:
            advantages = {rollout_id: of_rollout["advantage"] for rollout_id, of_rollout in columns.items()}
            write_updates(run.update_file(iteration), advantages, update.tokens)
            times = {"time/wait_s": waiting.seconds, "time/train_s": training.seconds, "time/publish_s": publish_s}
            policy = {f"policy/{name}": value for name, value in update.figures.items()}
            if any(penalty.charges for penalty in penalties):
                policy["policy/reward_penalty"] = fmean(sum(known[r.rollout_id]["charge"]) for r in rollouts)
            sampled = describe_groups(
                groups, iteration, len(kept), config.sampler.max_staleness, environment.end_reasons
            )
            left_out = describe_left_out(groups, read_dropped(run, iteration))
            metrics.write(iteration, sampled | left_out | policy | times)
        with timeline.span("publishing", iteration) as publishing:
            version = iteration + 1
            if version % config.trainer.checkpoint_every == 0 or version == config.trainer.num_iterations:
                save_checkpoint(trainer, run, version, keep=config.trainer.keep_checkpoints)
            publish_policy(trainer, run, version)
        publish_s = publishing.seconds
    if metrics:
        metrics.close()
    trainer.close()


def resume(trainer: Trainer, run: RunDir) -> int:
    """Load the newest checkpoint; returns the iteration to do next, 0 for a new run."""
    checkpoint = latest_checkpoint(run)
    if checkpoint is None:
        return 0
    version = load_checkpoint(trainer, checkpoint)
    publish_policy(trainer, run, version)  # the process may have died between checkpoint and policy
    return version


def wait_for_groups(run: RunDir, config: Config, iteration: int, report: bool) -> list[Group]:
    """The groups of one iteration, as soon as the sampler has assigned them.

    Raises:
        RuntimeError: the sampler gave no sign of life for SAMPLER_SILENCE_S seconds.
        ValueError: a token is older than `sampler.max_staleness` allows.
    """
    # By change and this machine's own clock: the sampler's may be another machine's, and a laptop sleeps.
    last_sign, heard = None, time.monotonic()
    while not run.iteration_file(iteration).exists():
        sampler = run.read_status("sampler")
        if report:
            run.write_status(
                "trainer",
                phase="waiting",
                iteration=iteration,
                done=sampler.get("done", 0),
                total=sampler.get("total", 1),
            )
        if (sign := sampler.get("updated_at")) != last_sign:
            last_sign, heard = sign, time.monotonic()
        if time.monotonic() - heard > SAMPLER_SILENCE_S:
            raise RuntimeError(
                f"no sign of the sampler for {SAMPLER_SILENCE_S:.0f} s while waiting for {run.iteration_file(iteration)}; "
                f"see {run.logs}/sampler.log"
            )
        time.sleep(POLL_S)
    groups = [read_group(run.group_file(group_id)) for group_id in assigned_groups(run, iteration)]
    for group in groups if config.sampler.source in _OF_THE_POLICY else ():
        oldest = min((version for r in group.rollouts for version in r.policy_versions), default=iteration)
        if iteration - oldest > config.sampler.max_staleness:
            raise ValueError(
                f"{run.group_file(group.group_id)}: sampled by policy version {oldest}, {iteration - oldest} behind "
                f"iteration {iteration}; sampler.max_staleness is {config.sampler.max_staleness}"
            )
    return groups


def _step_reporter(run: RunDir, iteration: int):
    def on_step(done: int, total: int) -> None:
        run.write_status("trainer", phase="training", iteration=iteration, done=done, total=total)

    return on_step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run-dir", type=Path, help="run directory with a config.yaml")
    which.add_argument("--config", type=Path, help="the config that the run was started with")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted settings, with --config")
    args = parser.parse_args()
    if args.run_dir and args.overrides:
        parser.error("a run has its settings; key=value goes with --config")
    die_with_parent()  # the launcher between the supervisor and this process may be killed
    try:
        run = RunDir.open(args.run_dir) if args.run_dir else _run_of(args.config, args.overrides)
        train(run, run.config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run_of(path: Path, overrides: list[str]) -> RunDir:
    """The run that was started with this config. Raises ConfigError when there is none, or it differs."""
    config = load_config(path, overrides)
    if not RunDir(config.run_dir).config_file.exists():
        command = shlex.join(["python", "-m", "loop_rl.launch", "--no-trainer", "--config", str(path), *overrides])
        raise ConfigError(f"{config.run_dir}: no such run; start its sampler first: {command}")
    refuse_contradictions(config, os.environ)
    return RunDir.create(config)


if __name__ == "__main__":
    end_process(main())
