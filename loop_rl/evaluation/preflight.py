"""What an evaluation needs, looked at before a server starts."""

from __future__ import annotations

import socket

from loop_rl.agents.chat import Chat, ChatError
from loop_rl.config.base import ConfigError
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.config.settings import Config
from loop_rl.environments.protocol import TaskError
from loop_rl.machine.devices import is_cpu_build, visible_gpus
from loop_rl.serving.server import num_server_gpus


def check_evaluation_inputs(config: Config, split: str) -> None:
    """Check the environment, the tasks of a split and the model, as far as an evaluation needs them.

    Raises:
        ConfigError: one line that names what is missing and how to get it.
    """
    environment = make_part(ENVIRONMENT, config)
    environment.check(config.name)
    try:
        environment.tasks(split)
    except TaskError as error:
        raise ConfigError(str(error)) from error
    if config.evaluation.endpoint:
        return  # it has the tokenizer
    try:
        Chat.from_pretrained(config.model.path, config.agent)
    except ChatError as error:
        raise ConfigError(str(error)) from error


def check_server_gpus(config: Config) -> None:
    """Raises ConfigError when this machine has fewer GPUs than the servers of an evaluation need."""
    needed, num_visible = num_server_gpus(config), len(visible_gpus())
    if not is_cpu_build() and num_visible < needed:
        raise ConfigError(
            f"this machine ({socket.gethostname()}): server.replicas ({config.server.replicas}) * server.tensor_parallel_size "
            f"({config.server.tensor_parallel_size}) need {needed} GPUs, and it has {num_visible}; set fewer"
        )
