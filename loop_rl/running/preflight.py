"""Everything that can be wrong with the input is found here, before any process starts."""

from __future__ import annotations

import importlib.util
import re
import sys

from loop_rl.config.base import ConfigError
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.config.settings import Config
from loop_rl.environments.protocol import TaskError
from loop_rl.evaluation.preflight import check_evaluation_inputs, check_ports


def check_inputs(config: Config) -> None:
    """Check the environment, the tasks and the model of a training run; GPUs are another matter, see loop_rl.serving.roles.

    Raises:
        ConfigError: one line that names what is missing and how to get it.
    """
    if config.evaluation.endpoint:
        raise ConfigError(
            f"evaluation.endpoint={config.evaluation.endpoint}: an endpoint can be evaluated, not trained; leave it out"
        )
    check_evaluation_inputs(config, config.evaluation.split)
    check_ports(config)
    environment = make_part(ENVIRONMENT, config)
    try:
        for split in (*config.evaluation.more_splits, *config.evaluation.selecting_splits):
            environment.tasks(split)
        tasks = environment.training_tasks()
    except TaskError as error:
        raise ConfigError(str(error)) from error
    if config.sampler.source == "demonstrations" and not any(environment.demonstration(task) for task in tasks):
        raise ConfigError(
            f"sampler.source: demonstrations: none of the {len(tasks)} tasks of tasks.train_split={config.tasks.train_split} comes with a "
            "solution; choose another split, or another source"
        )
    if config.trainer.sequence_parallel_size > 1:
        from loop_rl.training.sequence_parallel import require_divisible_heads  # brings torch, which takes seconds

        require_divisible_heads(config)
    _check_adapter(config)
    for tracker in config.tracking.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ConfigError(
                f"tracking.trackers: {tracker} is not installed; run `{sys.executable} -m pip install {tracker}`"
            )


def _check_adapter(config: Config) -> None:
    """Models with recurrent layers (Mamba and hybrids) may have some that take no adapter: PEFT knows, and is asked."""
    from transformers import AutoConfig, AutoModelForCausalLM  # takes seconds, and the tokenizer has brought most of it

    model_config = AutoConfig.from_pretrained(config.model.path)
    if config.model.lora is None or not any(re.search("mamba|ssm|state_size", name) for name in vars(model_config)):
        return  # to ask takes half a minute of a large model
    import torch

    from loop_rl.training.model import trainable

    try:
        with torch.device("meta"):
            trainable(AutoModelForCausalLM.from_config(model_config), config)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"model.path={config.model.path}: PEFT gives a {model_config.model_type} no adapter ({error}); set model.lora: null "
            "to train all weights, or choose another model"
        ) from error
