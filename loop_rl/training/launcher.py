"""What a launcher of the user's own may say beside the config."""

from __future__ import annotations

from collections.abc import Mapping

from loop_rl.config.base import ConfigError
from loop_rl.config.settings import Config

_LAUNCHER_FIELDS = ("deepspeed_multinode_launcher", "deepspeed_hostfile")
"""What a config file of accelerate may say about DeepSpeed: how ranks are started, and nothing else."""


def refuse_contradictions(config: Config, environment: Mapping[str, str]) -> None:
    """Check what a launcher started by hand has set for this rank against the run's settings.

    Raises:
        ConfigError: a value that the run contradicts, so that it would have no effect, or another number of ranks.
    """
    _refuse_other_ranks(config, environment)
    _refuse_fields_of_a_file(environment)
    _refuse_other_values(config, environment)
    _refuse_another_precision(config, environment)


def _refuse_other_ranks(config: Config, environment: Mapping[str, str]) -> None:
    trainer = config.trainer
    num_ranks = trainer.num_processes * max(1, config.nodes.training)
    world_size = int(environment.get("WORLD_SIZE", "1"))
    if world_size != num_ranks:
        raise ConfigError(
            f"the launcher started {world_size} ranks, the run has {num_ranks} (trainer.num_processes on each training "
            f"node): start them with --num_processes {num_ranks}"
        )


def _refuse_fields_of_a_file(environment: Mapping[str, str]) -> None:
    from_file = environment.get("ACCELERATE_CONFIG_DS_FIELDS", "").split(",")
    if surplus := [name for name in from_file if name not in ("", "none", *_LAUNCHER_FIELDS)]:
        raise ConfigError(
            f"{', '.join(surplus)}: the run's settings say this, so accelerate's config file must not; leave it out, as in "
            f"configs/accelerate/one-node.yaml"
        )


def _refuse_other_values(config: Config, environment: Mapping[str, str]) -> None:
    trainer = config.trainer
    offload = "cpu" if trainer.offload_optimizer else "none"
    # Variable, what a config file of accelerate calls it, what the run says, the run's setting.
    of_the_run = [
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "zero_stage", str(trainer.zero_stage), "trainer.zero_stage"),
        (
            "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE",
            "offload_optimizer_device",
            offload,
            "trainer.offload_optimizer",
        ),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "offload_param_device", "none", "no setting of loop_rl"),
        ("ACCELERATE_GRADIENT_CLIPPING", "gradient_clipping", str(trainer.max_grad_norm), "trainer.max_grad_norm"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "gradient_accumulation_steps", "1", "trainer.minibatch_rollouts"),
        ("ACCELERATE_DEEPSPEED_CONFIG_FILE", "deepspeed_config_file", None, "trainer"),
    ]
    for variable, name, value, setting in of_the_run:
        given = environment.get(variable)
        if given is not None and (value is None or _plain(given) != _plain(value)):
            raise ConfigError(
                f"accelerate's {name} is {given}, where the run has {value or 'settings of its own'} ({setting}): "
                f"leave {name} out of accelerate's config file"
            )


def _refuse_another_precision(config: Config, environment: Mapping[str, str]) -> None:
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no" and (precision, config.model.dtype) != ("bf16", "bfloat16"):
        raise ConfigError(
            f"accelerate's mixed_precision is {precision}, where the run has {config.model.dtype} (model.dtype): leave "
            f"mixed_precision out of accelerate's config file"
        )


def _plain(value: str) -> str | float:
    """1 and 1.0 are one number."""
    try:
        return float(value)
    except ValueError:
        return value
