"""What each node of a run does, and on which of its GPUs."""

from __future__ import annotations

from enum import StrEnum

from loop_rl.config.base import ConfigError
from loop_rl.config.settings import Config
from loop_rl.serving.server import num_server_gpus


class Role(StrEnum):
    """What a node does."""

    EVERYTHING = "everything"
    """The only node."""
    INFERENCE = "inference"
    """Serves the policy; the first of them samples, too."""
    TRAINING = "training"


def role_of(config: Config, index: int) -> Role:
    """Role of node `index`; nodes that serve come first."""
    if not config.nodes.inference:
        return Role.EVERYTHING
    return Role.INFERENCE if index < config.nodes.inference else Role.TRAINING


def num_gpus(config: Config, role: Role) -> int:
    """GPUs that a node needs."""
    serving, training = num_server_gpus(config), config.trainer.num_processes
    if role == Role.EVERYTHING:
        return max(serving, training) if config.trainer.share_gpus else serving + training
    return serving if role == Role.INFERENCE else training


def trainer_gpus(config: Config, role: Role, visible: list[str]) -> list[str]:
    """Devices of this node's ranks, rank by rank: behind those of the servers, or the same with `trainer.share_gpus`."""
    behind = role == Role.EVERYTHING and not config.trainer.share_gpus
    first = num_server_gpus(config) if behind else 0
    return visible[first : first + config.trainer.num_processes]


def check_gpus(config: Config, role: Role, num_visible: int, where: str) -> None:
    """Raises ConfigError when `where`, a node, has fewer GPUs than its role needs; names the settings."""
    needed = num_gpus(config, role)
    if num_visible >= needed:
        return
    server = f"server.replicas ({config.server.replicas}) * server.tensor_parallel_size ({config.server.tensor_parallel_size})"
    trainer = f"trainer.num_processes ({config.trainer.num_processes})"
    what = {Role.EVERYTHING: f"{server} + {trainer}", Role.INFERENCE: server, Role.TRAINING: trainer}[role]
    fix = "set fewer"
    if role == Role.EVERYTHING and config.trainer.share_gpus:
        what = f"the larger of {server} and {trainer}"
    elif role == Role.EVERYTHING:
        fix = "set fewer, or trainer.share_gpus: true to put both on the same ones"
    raise ConfigError(f"{where}: {what} need {needed} GPUs, and it has {num_visible}; {fix}")
