"""How the trainer's ranks are started: by `accelerate launch`, on one node or several."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from loop_rl.config.settings import Config
from loop_rl.machine.devices import is_cpu_build, visible_gpus
from loop_rl.serving.roles import Role, trainer_gpus

_CONFIG_FILE = Path(__file__).parents[2] / "configs" / "accelerate" / "one-node.yaml"


@dataclass(frozen=True)
class Rendezvous:
    """Where the training nodes meet."""

    num_nodes: int
    rank: int
    """Of this node among the training nodes."""
    address: str
    """Of the training node with rank 0."""
    port: int | str


def accelerate_command(num_processes: int, rendezvous: Rendezvous | None = None) -> list[str]:
    """`accelerate launch` with as many ranks on this machine, to be followed by what they run.

    The config file is given so that accelerate leaves the user's default one alone.
    """
    # As `accelerate launch`, whose other commands take five more seconds to import.
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    # With a precision in the file, accelerate refuses the DeepSpeed settings that the trainer makes of the run's.
    launch += ["--config_file", str(_CONFIG_FILE), "--mixed_precision", "no"]
    if rendezvous is None or rendezvous.num_nodes == 1:
        return [*launch, "--num_processes", str(num_processes)]
    return [
        *launch,
        *("--num_processes", str(num_processes * rendezvous.num_nodes)),
        *("--num_machines", str(rendezvous.num_nodes), "--machine_rank", str(rendezvous.rank)),
        *("--main_process_ip", rendezvous.address, "--main_process_port", str(rendezvous.port)),
        *("--rdzv_backend", "static", "--same_network"),
    ]


def trainer_environment(config: Config, role: Role) -> dict[str, str]:
    """Variables of this node's ranks: on GPUs, the devices that are theirs."""
    if is_cpu_build():
        return {"OMP_NUM_THREADS": "1"}
    return {"CUDA_VISIBLE_DEVICES": ",".join(trainer_gpus(config, role, visible_gpus()))}
