"""The machines of a run on several nodes, and how a command gets to each of them.

Where they come from: a Slurm allocation, a host file and ssh, or this machine alone, taken several times. The first is
always the one that this process runs on.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loop_rl.config.base import ConfigError
from loop_rl.config.settings import Config
from loop_rl.machine.network import address_of, is_own
from loop_rl.running import slurm
from loop_rl.serving.roles import num_gpus, role_of

# Without a password prompt, which nobody would see; a peer that is gone is noticed within a minute.
DEFAULT_REMOTE_SHELL = "ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=10 -o ServerAliveCountMax=6"


class Hosts(Protocol):
    """The nodes of a run, in order."""

    names: tuple[str, ...]

    def command(self, index: int, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` on node `index`, in this working directory, with this stdin and stdout."""
        ...

    def address(self, index: int) -> str:
        """Address by which this machine reaches node `index`. Raises NoAddress."""
        ...


@dataclass(frozen=True)
class LocalHosts:
    """This machine, as several nodes; on GPUs each has its share."""

    names: tuple[str, ...]
    gpus: tuple[str, ...]
    """CUDA_VISIBLE_DEVICES of each node; empty strings where there are no GPUs."""

    @classmethod
    def of(cls, config: Config, num_nodes: int, visible: Sequence[str]) -> LocalHosts:
        shares, first = [], 0
        for index in range(num_nodes):
            size = num_gpus(config, role_of(config, index)) if visible else 0
            shares.append(",".join(visible[first : first + size]))
            first += size
        return cls(tuple(f"local-{index}" for index in range(num_nodes)), tuple(shares))

    def command(self, index: int, argv: Sequence[str]) -> list[str]:
        return ["env", f"CUDA_VISIBLE_DEVICES={self.gpus[index]}", *argv] if any(self.gpus) else list(argv)

    def address(self, index: int) -> str:
        return "127.0.0.1"


@dataclass(frozen=True)
class SshHosts:
    """Machines of a host file, reached by ssh or what behaves like it: `<shell> HOST 'one command line'`."""

    names: tuple[str, ...]
    remote_shell: tuple[str, ...]

    def command(self, index: int, argv: Sequence[str]) -> list[str]:
        return [*self.remote_shell, self.names[index], f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(argv)}"]

    def address(self, index: int) -> str:
        return address_of(self.names[index].rpartition("@")[2])


def find_hosts(num_nodes: int, hostfile: Path | None, environment: Mapping[str, str]) -> Hosts | None:
    """The nodes to use; None when they have to be asked for, by sbatch.

    Raises:
        ConfigError: there is no way to other nodes, or not to `num_nodes` of them; says what is missing.
    """
    if slurm.in_allocation(environment):
        if hostfile:
            raise ConfigError(
                f"HOSTFILE={hostfile} has no effect in a Slurm allocation, whose nodes are used; leave it out"
            )
        hosts = slurm.hosts_of_allocation(environment)
        if len(hosts.names) != num_nodes:
            raise ConfigError(
                f"NODES={num_nodes}, and the Slurm allocation {environment['SLURM_JOB_ID']} has {len(hosts.names)} nodes; "
                f"give NODES={len(hosts.names)}, or allocate {num_nodes}"
            )
        return hosts
    if hostfile:
        names = read_hostfile(hostfile)
        if len(names) != num_nodes:
            raise ConfigError(f"NODES={num_nodes}, and {hostfile} lists {len(names)} hosts; make them agree")
        shell = tuple(shlex.split(environment.get("REMOTE_SHELL") or DEFAULT_REMOTE_SHELL))
        hosts = SshHosts(tuple(names), shell)
        if not is_own(hosts.address(0)):
            raise ConfigError(
                f"{hostfile}: the first host, {names[0]} ({hosts.address(0)}), is not this machine; start there, or list "
                f"this machine first"
            )
        return hosts
    if slurm.can_submit():
        return None
    raise ConfigError(
        f"NODES={num_nodes}: no way to other nodes; needs one of: a Slurm allocation around this command, sbatch on the "
        f"PATH, HOSTFILE=<file with one host a line>, or LOCAL_NODES={num_nodes} to try it on this machine"
    )


def read_hostfile(path: Path) -> list[str]:
    """Host names, one a line; `#` starts a comment. Raises ConfigError naming the line."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"HOSTFILE={path}: cannot be read: {error.strerror}") from error
    names: list[str] = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if len(words) > 1:
            raise ConfigError(
                f"{path}, line {number}: {' '.join(words[1:])}: only a host; how many GPUs a node uses is said by "
                f"server.replicas, server.tensor_parallel_size and trainer.num_processes"
            )
        if words and words[0] in names:
            raise ConfigError(f"{path}, line {number}: {words[0]} is listed twice")
        names += words
    return names
