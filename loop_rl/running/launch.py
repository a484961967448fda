"""The supervisor: starts every process of a run, shows how it goes, and ends everything together.

    python -m loop_rl.launch --config configs/tiny.yaml
    python -m loop_rl.launch --config configs/tiny.yaml name=lr-3e-4 trainer.learning_rate=3e-4
    python -m loop_rl.launch --config configs/qwen2.5-32b.yaml --nodes 2          # in a Slurm allocation, or by sbatch
    python -m loop_rl.launch --config configs/qwen2.5-32b.yaml --nodes 2 --hostfile hosts --restarts 3
    python -m loop_rl.launch --config configs/tiny.yaml --local-nodes 2           # two nodes, both this machine
    python -m loop_rl.launch --config configs/tiny.yaml --dry-run                 # the settings, and every command

Phases: check the input, start vLLM, evaluate the untouched policy, train (sampler and trainer side by side), evaluate
the trained policy. Each looks at the run directory first and does only what is missing, so the same command resumes a
run that was stopped, in whatever phase.

On several nodes this is the head, the first of those that serve; `loop_rl.running.node` does the part of each other one.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from loop_rl.config.base import ConfigError
from loop_rl.config.load import dump_config, load_config
from loop_rl.config.settings import Config
from loop_rl.machine.command import run_command
from loop_rl.machine.devices import is_cpu_build, visible_gpus
from loop_rl.running import slurm
from loop_rl.running.dry_run import describe_commands
from loop_rl.running.hosts import LocalHosts, find_hosts
from loop_rl.running.preflight import check_inputs
from loop_rl.running.supervisor import BROKEN, console, launch
from loop_rl.serving.roles import num_gpus, role_of
from loop_rl.store.run_dir import RunDir


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see configs/")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--nodes", type=_positive, default=1, help="machines, this one included (NODES=, default 1)")
    where.add_argument("--local-nodes", type=_positive, help="run as many nodes on this machine (LOCAL_NODES=)")
    parser.add_argument(
        "--hostfile", type=Path, help="machines to reach by ssh, one a line, this one first (HOSTFILE=)"
    )
    parser.add_argument(
        "--restarts", type=int, default=0, help="resume at most so many times after something broke (RESTARTS=)"
    )
    parser.add_argument(
        "--no-trainer", action="store_true", help="all but the trainer, which you start, see docs/multi-node.md"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and every command, and stop")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="dotted settings, such as trainer.zero_stage=3"
    )
    args = parser.parse_intermixed_args()
    return run_command(lambda: _launch(args), "stopped; the same command goes on from here", BROKEN)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _launch(args: argparse.Namespace) -> None:
    num_nodes = args.local_nodes or args.nodes
    config = _with_nodes(args, num_nodes)
    if args.hostfile and (num_nodes == 1 or args.local_nodes):
        raise ConfigError(f"HOSTFILE={args.hostfile} has no effect without NODES= of at least 2; leave it out")
    hosts = None
    if num_nodes > 1:
        if args.local_nodes:
            hosts = LocalHosts.of(config, num_nodes, [] if is_cpu_build() else visible_gpus())
        else:
            hosts = find_hosts(num_nodes, args.hostfile, os.environ)
        if hosts is None:
            return _submit(args, config, num_nodes)
    there = None
    if isinstance(hosts, slurm.SlurmHosts):
        there = slurm.to_first_node(hosts, os.environ, [sys.executable, "-u", "-m", "loop_rl.launch", *_arguments()])
    if args.dry_run:
        print(dump_config(config), end="")
        print(describe_commands(config, hosts, own_trainer=not args.no_trainer, to_head=there))
    elif there:
        console.print(f"This is not {hosts.names[0]}, the first node of the allocation; going on there.")
        os.execvp(there[0], there)
    else:
        launch(config, hosts, args.restarts, own_trainer=not args.no_trainer)


def _with_nodes(args: argparse.Namespace, num_nodes: int) -> Config:
    """The config with a role for each node; says so where it chooses them. Raises ConfigError when they do not agree."""
    config = load_config(args.config, args.overrides)
    nodes = config.nodes
    wanted = max(1, nodes.inference + (0 if args.no_trainer else nodes.training))
    if not nodes.inference and num_nodes > 1:
        roles = ["nodes.inference=1", f"nodes.training={num_nodes - 1}"]
        print(f"{args.config} gives the nodes no roles: {' '.join(roles)}", file=sys.stderr)
        return load_config(args.config, [*args.overrides, *roles])
    if wanted != num_nodes:
        raise ConfigError(
            f"{args.config}: nodes.inference ({nodes.inference}) and nodes.training ({nodes.training}) ask for {wanted} "
            f"nodes, and there are {num_nodes}: give NODES={wanted}, or other nodes.inference= and nodes.training= (both 0 "
            f"for one node)"
        )
    return config


def _submit(args: argparse.Namespace, config: Config, num_nodes: int) -> None:
    """Hand the run in as a Slurm job, after the checks that need no node."""
    gpus = 0 if is_cpu_build() else max(num_gpus(config, role_of(config, index)) for index in range(num_nodes))
    log = Path(config.runs_dir) / f"{config.name}-%j.log"
    command = slurm.submit_command(num_nodes, gpus, config.name, log, _arguments())
    if args.dry_run:
        print(dump_config(config), end="")
        print(describe_commands(config, None, own_trainer=not args.no_trainer, to_head=command))
        return
    check_inputs(config)
    if config.run_dir.exists() and not RunDir(config.run_dir).is_extended_by(config):
        RunDir.create(config)  # refuses another config
    log.parent.mkdir(parents=True, exist_ok=True)
    job = slurm.submit(command)
    console.print(
        f"Slurm job {job}; its log: {str(log).replace('%j', job)}; `scancel {job}` ends it, and loses nothing"
    )


def _arguments() -> list[str]:
    """Those of this process, for the one that will really run."""
    return [argument for argument in sys.argv[1:] if argument != "--dry-run"]
