"""The supervisor: starts every process of a run on this node, shows how it goes, and ends everything together.

    python -m loop_rl.launch --config configs/tiny.yaml
    python -m loop_rl.launch --config configs/tiny.yaml name=lr-3e-4 trainer.learning_rate=3e-4
    python -m loop_rl.launch --config configs/tiny.yaml --dry-run

Phases: check the input, start vLLM, evaluate the untouched policy, train (sampler and trainer side by side), evaluate
the trained policy. Each looks at the run directory first and does only what is missing, so the same command resumes a
run that was stopped, in whatever phase.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from loop_rl.command import run_command
from loop_rl.config import Config, dump_config, load_config
from loop_rl.live import live_view
from loop_rl.metrics import MetricsReader
from loop_rl.preflight import check_inputs
from loop_rl.processes import ManagedProcess, stop_all
from loop_rl.run_dir import RunDir
from loop_rl.server import ServerFailed, VllmServer, is_cpu_build
from loop_rl.tables import before_after_table
from loop_rl.timeline import Timeline

POLL_S = 0.3
console = Console(highlight=False, soft_wrap=True)


class RunFailed(RuntimeError):
    """A process of the run ended although it should not have; the message holds the last lines of its log."""


def launch(config: Config) -> None:
    """Do every phase of the run that is not done yet, then show its result.

    Raises:
        ConfigError: bad input; nothing was started.
        RunFailed: a process broke; everything else was stopped, and the same command goes on from there.
    """
    check_inputs(config)
    run = RunDir.create(config)
    with run.lock("supervisor"):
        done, total = run.latest_version(), config.trainer.num_iterations
        finished = done == total and run.evaluation_file(total, config.evaluation.split).exists()
        if finished:
            console.print(f"Run {run.path} is finished; another name= starts a new one.")
        else:
            console.print(
                f"Run {run.path}: " + (f"goes on after iteration {done} of {total}" if done else f"{total} iterations")
            )
            _work(run, config)
        split = config.evaluation.split
        before, after = (json.loads(run.evaluation_file(version, split).read_text()) for version in (0, total))
        console.print(before_after_table(before, after, f"held-out tasks ({split})"))
        if not (finished and run.report_file.exists()):
            from loop_rl.inspection.report import write_report  # plotly takes a second, and only the end needs it

            write_report([run], run.report_file)
        console.print(f"Report: {run.report_file}; read the rollouts with `make view RUN={run.path}`")
        console.print(f"Everything about this run: {run.path}/ (metrics.jsonl, rollouts/, policy/, logs/)")


def _work(run: RunDir, config: Config) -> None:
    timeline = Timeline(run, "launch")
    servers = [VllmServer(config, index, run.logs / f"vllm-{index}.log") for index in range(config.server.replicas)]
    try:
        with console.status("starting vLLM"), timeline.span("starting vLLM") as starting:
            for server in servers:
                server.start()
            for server in servers:
                server.wait_until_ready()
        console.print(f"vLLM answers at {' '.join(s.url for s in servers)} after {starting.seconds:.0f} s")
        last_version, split = config.trainer.num_iterations, config.evaluation.split
        if not run.evaluation_file(0, split).exists():
            with timeline.span("evaluation", 0):
                _evaluate(run, 0, servers)
        if run.latest_version() < last_version:
            _train(run, config, servers)
        if not run.evaluation_file(last_version, split).exists():
            with timeline.span("evaluation", last_version):
                _evaluate(run, last_version, servers)
    finally:
        for server in servers:
            server.stop()


def _evaluate(run: RunDir, version: int, servers: list[VllmServer]) -> None:
    """Evaluate in a process of its own, which shows its own progress bar."""
    command = [
        sys.executable,
        "-m",
        "loop_rl.evaluate",
        "--run-dir",
        str(run.path),
        "--version",
        str(version),
        "--summary",
    ]
    process = subprocess.Popen([*command, *_server_arguments(servers)], start_new_session=True)
    try:
        while process.poll() is None:
            _check_servers(servers)
            time.sleep(POLL_S)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
    if process.returncode != 0:
        raise RunFailed(f"evaluation of policy version {version} ended with exit status {process.returncode}")


def _train(run: RunDir, config: Config, servers: list[VllmServer]) -> None:
    """Sampler and trainer side by side until the last version is published."""
    sampler = [sys.executable, "-m", "loop_rl.sampler", "--run-dir", str(run.path), *_server_arguments(servers)]
    trainer = [*accelerate_command(config.trainer.num_processes), "-m", "loop_rl.train", "--run-dir", str(run.path)]
    processes = [
        ManagedProcess("sampler", sampler, run.logs / "sampler.log"),
        ManagedProcess("trainer", trainer, run.logs / "trainer.log", trainer_environment(config)),
    ]
    try:
        _watch(run, config, processes, servers)
    finally:
        stop_all(processes)


def accelerate_command(num_processes: int) -> list[str]:
    """`accelerate launch` with as many ranks on this machine, to be followed by what they run."""
    return [
        *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--use_deepspeed"),
        *("--num_processes", str(num_processes), "--num_machines", "1", "--mixed_precision", "no"),
        *("--main_process_port", "0", "--dynamo_backend", "no"),
    ]


def trainer_environment(config: Config) -> dict[str, str]:
    """Variables of the trainer's ranks: on GPUs, the devices behind those of the vLLM servers."""
    if is_cpu_build():
        return {"OMP_NUM_THREADS": "1"}
    first = config.server.replicas * config.server.tensor_parallel_size
    devices = range(first, first + config.trainer.num_processes)
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, devices))}


def _watch(run: RunDir, config: Config, processes: list[ManagedProcess], servers: list[VllmServer]) -> None:
    """Show how it goes until every process has ended well."""
    metrics = MetricsReader(run)
    with live_view(console, run, config, history=metrics.new_lines()) as view:
        while any(process.poll() is None for process in processes):
            _check_servers(servers)
            for process in processes:
                if process.poll() not in (None, 0):
                    raise RunFailed(_epitaph(process))
                view.advance(process.name, run.read_status(process.name))
            for line in metrics.new_lines():
                view.add(line)
            time.sleep(POLL_S)
        for process in processes:
            if process.poll() != 0:
                raise RunFailed(_epitaph(process))
        for line in metrics.new_lines():
            view.add(line)


def _check_servers(servers: list[VllmServer]) -> None:
    for server in servers:
        if server.process.poll() is not None:
            raise RunFailed(_epitaph(server.process))


def _epitaph(process: ManagedProcess) -> str:
    status = process.poll()
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
    return f"{process.name} {how}; last lines of {process.log}:\n{process.log_tail()}"


def _server_arguments(servers: list[VllmServer]) -> list[str]:
    return [argument for server in servers for argument in ("--server", server.url)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see configs/")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="dotted settings, such as trainer.zero_stage=3"
    )
    args = parser.parse_args()
    return run_command(lambda: _launch(args), "stopped; the same command goes on from here", (RunFailed, ServerFailed))


def _launch(args: argparse.Namespace) -> None:
    config = load_config(args.config, args.overrides)
    if args.dry_run:
        print(dump_config(config), end="")
    else:
        launch(config)


if __name__ == "__main__":
    sys.exit(main())
