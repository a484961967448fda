"""What an evaluation needs, looked at before a server starts."""

from __future__ import annotations

import socket

from loop_rl.agents.chat import Chat, ChatError
from loop_rl.config.base import ConfigError
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.config.settings import Config
from loop_rl.environments.protocol import Environment, Task, TaskError
from loop_rl.machine.devices import is_cpu_build, visible_gpus
from loop_rl.serving.roles import Role, check_gpus


def check_evaluation_inputs(config: Config, split: str) -> None:
    """Check the environment, the tasks of a split and the model, as far as an evaluation needs them.

    Raises:
        ConfigError: one line that names what is missing and how to get it.
    """
    environment = make_part(ENVIRONMENT, config)
    environment.check(config.name)
    try:
        tasks = environment.tasks(split)
    except TaskError as error:
        raise ConfigError(str(error)) from error
    if config.evaluation.endpoint:
        return  # it has the tokenizer
    try:
        _check_prompt(config, environment, tasks[0])
    except ChatError as error:
        raise ConfigError(str(error)) from error
    _check_positions(config)


def check_servers(config: Config) -> None:
    """Raises ConfigError when this machine has fewer GPUs than the servers of an evaluation need, or their ports are in use."""
    check_ports(config)
    if not is_cpu_build():
        check_gpus(config, Role.INFERENCE, len(visible_gpus()), f"this machine ({socket.gethostname()})")


def _check_prompt(config: Config, environment: Environment, task: Task) -> None:
    """Render the first turn of a real task: a template may refuse a role, and a prompt may fill the context."""
    prompt = Chat.from_pretrained(config.model.path, config.agent).first_turn(environment.prompt(task))
    if len(prompt) >= config.agent.max_context_tokens:
        raise ConfigError(
            f"agent.max_context_tokens={config.agent.max_context_tokens}: the prompt of task {task.task_id} alone has "
            f"{len(prompt)} tokens; raise it"
        )


def _check_positions(config: Config) -> None:
    from transformers import AutoConfig  # takes seconds, and the tokenizer has brought most of it

    try:
        text = AutoConfig.from_pretrained(config.model.path).get_text_config()
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"model.path={config.model.path}: no model config could be read ({reason})") from error
    positions = getattr(text, "max_position_embeddings", None)
    scaled = (getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}).get("factor")
    if positions and not scaled and config.agent.max_context_tokens > positions:
        raise ConfigError(
            f"agent.max_context_tokens={config.agent.max_context_tokens}: {config.model.path} has {positions} positions "
            "(max_position_embeddings), and vLLM serves no more"
        )


def check_ports(config: Config) -> None:
    """Raises ConfigError when a port that servers are to listen on is in use."""
    for index in range(config.server.replicas if config.server.port else 0):
        port = config.server.port + index
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise ConfigError(
                    f"server.port={config.server.port}: port {port} cannot be used ({error.strerror}); choose another, or 0 for "
                    "any free one"
                ) from error
