"""Starts what a run lacks, watches it, and ends it: all processes of the node that leads the run."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from rich.console import Console

from loop_rl.config.parts import ENVIRONMENT, find_part
from loop_rl.config.settings import Config
from loop_rl.evaluation.selection import (
    Evaluation,
    final_evaluations,
    is_finished,
    mean_of_first_measure,
    repeated_lines,
    result_version,
    selecting,
)
from loop_rl.evaluation.tables import before_after_table
from loop_rl.inspection.live import live_view
from loop_rl.machine.devices import is_cpu_build, visible_gpus
from loop_rl.machine.processes import ManagedProcess, stop_all
from loop_rl.running.cluster import Cluster, NodeLost
from loop_rl.running.hosts import Hosts
from loop_rl.running.preflight import check_inputs
from loop_rl.running.ranks import accelerate_command, trainer_environment
from loop_rl.serving.replicas import Replicas
from loop_rl.serving.roles import Role, check_gpus, role_of
from loop_rl.serving.server import ServerFailed
from loop_rl.store.metrics import MetricsReader
from loop_rl.store.run_dir import RunDir
from loop_rl.store.secret import secret
from loop_rl.store.timeline import Timeline

POLL_S = 0.3


TRAINER_SILENCE_S = 1800.0
"""With --no-trainer: how long a trainer that somebody else starts may give no sign of life."""


console = Console(highlight=False, soft_wrap=True)


class RunFailed(RuntimeError):
    """A process of the run ended although it should not have; the message holds the last lines of its log."""


BROKEN = (RunFailed, ServerFailed, NodeLost)


def launch(config: Config, hosts: Hosts | None = None, restarts: int = 0, own_trainer: bool = True) -> None:
    """Do every phase of the run that is not done yet, then show its result.

    hosts: the nodes; None is this one alone.
    restarts: how often to go on from the newest checkpoint by itself, when a process has broken.
    own_trainer: False leaves training to ranks that somebody else starts.

    Raises:
        ConfigError: bad input; nothing was started.
        RunFailed, ServerFailed, NodeLost: something broke; everything else was stopped, and the same command goes on
            from there.
    """
    check_inputs(config)
    if not is_cpu_build():
        role = role_of(config, 0) if own_trainer else Role.INFERENCE
        check_gpus(config, role, len(visible_gpus()), f"this machine ({socket.gethostname()})")
    run = RunDir(config.run_dir)
    if run.is_extended_by(config):
        with run.lock("supervisor"):
            before, after = run.config.trainer.num_iterations, config.trainer.num_iterations
            run.extend(config)
            console.print(f"Run {run.path}: {before} iterations become {after}; it goes on from its newest checkpoint.")
    run = RunDir.create(config)
    with run.lock("supervisor"):
        finished = is_finished(run, config)
        if finished:
            console.print(f"Run {run.path} is finished; another name= starts a new one.")
        else:
            _work_until_done(run, config, hosts, restarts, own_trainer)
        split, result = config.evaluation.split, result_version(run, config)
        before, after = (json.loads(run.evaluation_file(version, split).read_text()) for version in (0, result))
        behaviours = find_part(ENVIRONMENT, config.tasks.environment).behaviours
        console.print(before_after_table(before, after, f"held-out tasks ({split})", behaviours))
        for line in repeated_lines(run, config, result):
            console.print(line)
        if config.evaluation.every:
            best = f"{100 * mean_of_first_measure(run, config, result):.1f} percent on {config.evaluation.select_split}"
            console.print(f"after: version {result}, the best of {len(config.candidate_versions)} with {best}")
        if not (finished and run.report_file.exists()):
            from loop_rl.inspection.report.report import (
                write_report,  # plotly takes a second, and only the end needs it
            )

            write_report([run], run.report_file)
        console.print(f"Report: {run.report_file}; read the rollouts with `make view RUN={run.path}`")
        console.print(f"Everything about this run: {run.path}/ (metrics.jsonl, rollouts/, policy/, logs/)")


def _work_until_done(run: RunDir, config: Config, hosts: Hosts | None, restarts: int, own_trainer: bool) -> None:
    for restart in range(restarts + 1):
        done, total = run.latest_version(), config.trainer.num_iterations
        goes_on = f"goes on after iteration {done} of {total}" if done else f"{total} iterations"
        console.print(f"Run {run.path}: {goes_on}" + (f" (restart {restart} of {restarts})" if restart else ""))
        try:
            return _work(run, config, hosts, own_trainer)
        except BROKEN as error:
            if restart == restarts:
                raise
            console.print(f"{error}\nEverything was stopped.", markup=False)


def _work(run: RunDir, config: Config, hosts: Hosts | None, own_trainer: bool) -> None:
    timeline = Timeline(run, "launch")
    cluster = Cluster(run, config, hosts)
    replicas = Replicas(config, run.logs, secret(run))
    try:
        with console.status("starting vLLM"), timeline.span("starting vLLM") as starting:
            cluster.start()
            replicas.start()
            cluster.wait_until_reported()
            _beside(replicas.wait_until_ready, cluster.check)
            cluster.wait_until_serving()
        urls = [*replicas.urls, *cluster.urls]
        console.print(f"vLLM answers at {' '.join(urls)} after {starting.seconds:.0f} s")

        def check() -> None:
            replicas.tend()
            cluster.check()

        def evaluate(evaluations: Sequence[Evaluation]) -> None:
            for evaluation in evaluations:
                if not evaluation.file(run).exists():
                    with timeline.span("evaluation", evaluation.version):
                        _evaluate(run, evaluation, urls, check)

        evaluate([Evaluation(0, config.evaluation.split, repeat=1)])
        if run.latest_version() < config.trainer.num_iterations:
            _train(run, config, urls, cluster, own_trainer, check)
        for version in config.candidate_versions:  # those that training has not waited for
            evaluate(selecting(config, version))
        evaluate(final_evaluations(config, result_version(run, config)))
    finally:
        cluster.dismiss()
        replicas.stop()
        cluster.stop()


def _beside(work: Callable[[], None], check: Callable[[], None]) -> None:
    """Do `work` in a thread and `check` all the while; raises what either of them raises."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    while not done.done():
        check()
        time.sleep(POLL_S)
    done.result()


def _evaluation_command(run: RunDir, evaluation: Evaluation, urls: list[str]) -> list[str]:
    command = [sys.executable, "-m", "loop_rl.evaluate", "--run-dir", str(run.path), "--summary"]
    command += ["--version", str(evaluation.version), "--split", evaluation.split, "--repeat", str(evaluation.repeat)]
    return [*command, *_server_arguments(urls)]


def _evaluate(run: RunDir, evaluation: Evaluation, urls: list[str], check: Callable[[], None]) -> None:
    """Evaluate in a process of its own, which shows its own progress bar."""
    process = subprocess.Popen(_evaluation_command(run, evaluation, urls), start_new_session=True)
    try:
        while process.poll() is None:
            check()
            time.sleep(POLL_S)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
    if process.returncode != 0:
        raise RunFailed(
            f"evaluation of policy version {evaluation.version} ended with exit status {process.returncode}"
        )


def _train(
    run: RunDir, config: Config, urls: list[str], cluster: Cluster, own_trainer: bool, check: Callable[[], None]
) -> None:
    """Sampler and trainer side by side until the last version is published."""
    sampler = [sys.executable, "-m", "loop_rl.sampling.sampler", "--run-dir", str(run.path), *_server_arguments(urls)]
    processes = [ManagedProcess("sampler", sampler, run.logs / "sampler.log")]
    is_training = cluster.is_training
    if not own_trainer:
        is_training = _OutsideTrainer(run, config).is_training
        console.print(f"waiting for a trainer: accelerate launch ... -m loop_rl.train --run-dir {run.path}")
    elif role_of(config, 0) == Role.EVERYTHING:
        trainer = [*accelerate_command(config.trainer.num_processes), "-m", "loop_rl.train", "--run-dir", str(run.path)]
        variables = trainer_environment(config, Role.EVERYTHING)
        processes.append(ManagedProcess("trainer", trainer, run.logs / "trainer.log", variables))
    beside = _EvaluationsBeside(run, config, urls)

    def check_all() -> None:
        check()
        beside.tend()

    try:
        cluster.train()
        _watch(run, config, processes, is_training, check_all)
    except BaseException:
        cluster.dismiss()  # they end while the processes here do
        raise
    finally:
        stop_all([*processes, *beside.processes])


class _EvaluationsBeside:
    """Candidates are evaluated while training goes on, one at a time, with the same servers. What is not done when training ends
    is done after it. Of whole models a server holds one, which training needs: those all come after it."""

    def __init__(self, run: RunDir, config: Config, urls: list[str]) -> None:
        self._run, self._config, self._urls = run, config, urls
        self.processes: list[ManagedProcess] = []
        """The one that works."""

    def tend(self) -> None:
        """Start what is due. Raises RunFailed when one has failed."""
        if self._config.model.lora is None:
            return
        for process in self.processes:
            if (status := process.poll()) is None:
                return
            if status != 0:
                raise RunFailed(process.epitaph())
            console.print(process.log_tail(), markup=False)
        self.processes = []
        due = [
            evaluation
            for version in self._config.candidate_versions
            if version <= self._run.latest_version()
            for evaluation in selecting(self._config, version)
            if not evaluation.file(self._run).exists()
        ]
        if due:
            log = self._run.logs / f"evaluation-{due[0].file(self._run).stem}.log"
            command = _evaluation_command(self._run, due[0], self._urls)
            self.processes = [ManagedProcess("evaluation", command, log)]


class _OutsideTrainer:
    """A trainer that somebody else has started, known by what it leaves in the run directory."""

    def __init__(self, run: RunDir, config: Config) -> None:
        self._run = run
        self._last_version = config.trainer.num_iterations
        self._status = run.read_status("trainer")
        self._heard = time.monotonic()

    def is_training(self) -> bool:
        """Whether it is not done. Raises RunFailed after long silence."""
        status = self._run.read_status("trainer")
        if status != self._status:
            self._status, self._heard = status, time.monotonic()
        if time.monotonic() > self._heard + TRAINER_SILENCE_S:
            raise RunFailed(f"no sign of a trainer for {TRAINER_SILENCE_S:.0f} s; start one, or leave --no-trainer out")
        return self._run.latest_version() < self._last_version


def _watch(
    run: RunDir,
    config: Config,
    processes: list[ManagedProcess],
    is_training: Callable[[], bool],
    check: Callable[[], None],
) -> None:
    """Show how it goes until every process here has ended well and those elsewhere are done training."""
    metrics = MetricsReader(run)
    with live_view(console, run, config, history=metrics.new_lines()) as view:
        while any(process.poll() is None for process in processes) or is_training():
            check()
            for process in processes:
                if process.poll() not in (None, 0):
                    raise RunFailed(process.epitaph())
            for name in ("sampler", "trainer"):
                view.advance(name, run.read_status(name))
            for line in metrics.new_lines():
                view.add(line)
            time.sleep(POLL_S)
        check()
        for process in processes:
            if process.poll() != 0:
                raise RunFailed(process.epitaph())
        for line in metrics.new_lines():
            view.add(line)


def _server_arguments(urls: list[str]) -> list[str]:
    return [argument for url in urls for argument in ("--server", url)]
