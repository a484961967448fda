"""Every command of a run, node by node, without running any."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from loop_rl.config.settings import Config
from loop_rl.running.cluster import node_command
from loop_rl.running.hosts import Hosts
from loop_rl.running.node import logs_of
from loop_rl.running.ranks import Rendezvous, accelerate_command
from loop_rl.serving.roles import Role, role_of
from loop_rl.serving.server import VllmServer
from loop_rl.store.run_dir import RunDir


def describe_commands(
    config: Config, hosts: Hosts | None, own_trainer: bool = True, to_head: Sequence[str] | None = None
) -> str:
    """The commands, as YAML comments; what is found only by running is in angle brackets.

    hosts: the nodes; None is this one alone, or those that `to_head` gets.
    to_head: the command that brings the supervisor to the first node, when this is not it.
    """
    run = RunDir(config.run_dir)
    lines = [f"node 0: {shlex.join(to_head)}", "which runs there:"] if to_head else []
    if to_head and hosts is None:
        return _comment([lines[0]])
    names = hosts.names if hosts else ("this machine",)
    lines.append(f"node 0 ({names[0]}):")
    lines += _servers(config, run, 0, "127.0.0.1")
    urls = ["--server", "<url>"] * config.server.replicas * max(1, config.nodes.inference)
    module = [sys.executable, "-m"]
    version = ["--version", "<0, then the last>", "--summary"]
    lines.append(_indented([*module, "loop_rl.evaluate", "--run-dir", str(run.path), *version, *urls]))
    lines.append(_indented([*module, "loop_rl.sampling.sampler", "--run-dir", str(run.path), *urls]))
    if own_trainer and role_of(config, 0) == Role.EVERYTHING:
        lines.append(_indented(_trainer(config, run, None)))
    for index in range(1, len(names)):
        command = hosts.command(index, node_command(run, index, "<address of node 0>", "<token>"))
        lines += [f"node {index} ({names[index]}): {shlex.join(command)}", "which runs there:"]
        if role_of(config, index) == Role.INFERENCE:
            lines += _servers(config, run, index, "<its address>")
        else:
            rank = index - config.nodes.inference
            first = f"<address of node {config.nodes.inference}>"
            lines.append(_indented(_trainer(config, run, Rendezvous(config.nodes.training, rank, first, "<its port>"))))
    return _comment(lines)


def _servers(config: Config, run: RunDir, index: int, host: str) -> list[str]:
    logs = logs_of(run, index) if index else run.logs
    commands = []
    for replica in range(config.server.replicas):
        server = VllmServer(config, replica, logs / f"vllm-{replica}.log", "127.0.0.1", secret="")
        command = server.command()
        command[command.index("--host") + 1] = host
        if not config.server.port:
            command[command.index("--port") + 1] = "<free port>"
        commands.append(_indented(command))
    return commands


def _trainer(config: Config, run: RunDir, rendezvous: Rendezvous | None) -> list[str]:
    command = accelerate_command(config.trainer.num_processes, rendezvous)
    return [*command, "-m", "loop_rl.train", "--run-dir", str(run.path)]


def _indented(command: Sequence[str]) -> str:
    return f"  {shlex.join(command)}"


def _comment(lines: Sequence[str]) -> str:
    return "\n".join(f"# {line}" for line in lines)
