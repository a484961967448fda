"""Slurm: the nodes of an allocation, how a command gets to one of them, and how a run is handed in as a job."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loop_rl.config.base import ConfigError
from loop_rl.machine.network import NoAddress, address_of

BATCH_SCRIPT = Path(__file__).parents[2] / "launch" / "train.sbatch"
_TIMEOUT_S = 60


@dataclass(frozen=True)
class SlurmHosts:
    """The nodes of the allocation that this process is in."""

    names: tuple[str, ...]

    def command(self, index: int, argv: Sequence[str]) -> list[str]:
        return [*_srun(self.names[index]), *argv]

    def address(self, index: int) -> str:
        """A node's address; where its name means nothing to the resolver, Slurm knows it."""
        try:
            return address_of(self.names[index])
        except NoAddress:
            shown = _output(["scontrol", "show", "node", self.names[index]])
            match = re.search(r"NodeAddr=(\S+)", shown)
            if match is None:
                raise
            return address_of(match.group(1))


def in_allocation(environment: Mapping[str, str]) -> bool:
    return "SLURM_JOB_ID" in environment and "SLURM_JOB_NODELIST" in environment


def hosts_of_allocation(environment: Mapping[str, str]) -> SlurmHosts:
    """Raises ConfigError when Slurm does not answer."""
    return SlurmHosts(tuple(_output(["scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]]).split()))


def to_first_node(hosts: SlurmHosts, environment: Mapping[str, str], argv: Sequence[str]) -> list[str] | None:
    """The command that runs `argv` on the first node, None if this process is there.

    The shell of `salloc` runs where it was typed, which is no node of the allocation.
    """
    here = environment.get("SLURMD_NODENAME")
    return None if here == hosts.names[0] else [*_srun(hosts.names[0]), *argv]


def can_submit() -> bool:
    return shutil.which("sbatch") is not None


def submit_command(num_nodes: int, gpus_per_node: int, job_name: str, log: Path, argv: Sequence[str]) -> list[str]:
    """`sbatch` for launch/train.sbatch, which runs `argv`; partition, account and the like come from SBATCH_ variables.

    log: with %j for the job's number.
    """
    gpus = [f"--gpus-per-node={gpus_per_node}"] if gpus_per_node else []
    options = [f"--nodes={num_nodes}", *gpus, f"--job-name={job_name}", f"--output={log}"]
    return ["sbatch", "--parsable", *options, str(BATCH_SCRIPT), *argv]


def submit(command: Sequence[str]) -> str:
    """Hand in a job; returns its number. Raises ConfigError with what sbatch says."""
    return _output(command).strip().partition(";")[0]


def _srun(host: str) -> list[str]:
    # The steps of a run share its nodes: the head's is on the first one all the time. A step takes the CPUs and GPUs
    # that the job has there; which process uses which is decided here.
    return [
        *("srun", "--nodes=1", "--ntasks=1", f"--nodelist={host}", "--overlap", "--cpu-bind=none"),
        *("--kill-on-bad-exit=1", "--quit-on-interrupt", "--export=ALL", f"--chdir={os.getcwd()}"),
    ]


def _output(command: Sequence[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{command[0]}: {error}") from error
    if result.returncode != 0:
        raise ConfigError(f"{' '.join(command[:3])}: {' '.join(result.stderr.split())}")
    return result.stdout
