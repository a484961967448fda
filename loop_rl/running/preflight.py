"""Everything that can be wrong with the input is found here, before any process starts."""

from __future__ import annotations

import importlib.util
import sys

from loop_rl.config.base import ConfigError
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.config.settings import Config
from loop_rl.environments.protocol import TaskError
from loop_rl.evaluation.preflight import check_evaluation_inputs, check_ports


def check_inputs(config: Config) -> None:
    """Check the environment, the tasks and the model of a training run; GPUs are another matter, see roles.check_gpus.

    Raises:
        ConfigError: one line that names what is missing and how to get it.
    """
    if config.evaluation.endpoint:
        raise ConfigError(
            f"evaluation.endpoint={config.evaluation.endpoint}: an endpoint can be evaluated, not trained; leave it out"
        )
    check_evaluation_inputs(config, config.evaluation.split)
    check_ports(config)
    try:
        make_part(ENVIRONMENT, config).training_tasks()
    except TaskError as error:
        raise ConfigError(str(error)) from error
    if config.trainer.sequence_parallel_size > 1:
        from loop_rl.training.sequence_parallel import require_divisible_heads  # brings torch, which takes seconds

        require_divisible_heads(config)
    for tracker in config.tracking.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ConfigError(
                f"tracking.trackers: {tracker} is not installed; run `{sys.executable} -m pip install {tracker}`"
            )
