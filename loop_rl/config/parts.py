"""Parts that a config names, found when they are needed; the one place where a name becomes code.

A part of ours is the name of a file in the folder of its kind; one from outside is `module:Class`. The settings that it adds
to its section are its class's `Settings`, checked with the config that names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import ValidationError, create_model, model_validator

from loop_rl.config.base import ConfigError, Section


@dataclass(frozen=True)
class Kind:
    """A kind of part."""

    section: str
    """Of the config."""
    key: str
    """The setting of that section that names the part."""
    package: str
    """Where ours lie."""
    class_name: str
    """What their class is called."""
    many: bool = False
    """The setting is a list of names."""

    def names(self) -> list[str]:
        """Of ours."""
        found = pkgutil.iter_modules(importlib.import_module(self.package).__path__)
        return [module.name for module in found if module.name not in _NO_PARTS]


_NO_PARTS = ("protocol", "figures", "behaviour", "games", "named_actions", "standard_deviation")
"""Files of these folders that hold what all parts share."""
ENVIRONMENT = Kind("tasks", "environment", "loop_rl.environments", "Environment")
ALGORITHM = (
    ADVANTAGE := Kind("algorithm", "advantage", "loop_rl.algorithms.advantages", "Advantage"),
    FILTER := Kind("algorithm", "filter", "loop_rl.algorithms.filters", "Filter"),
    OBJECTIVE := Kind("algorithm", "objective", "loop_rl.algorithms.objectives", "Objective"),
    PENALTIES := Kind("algorithm", "penalties", "loop_rl.algorithms.penalties", "Penalty", many=True),
)


def find_part(kind: Kind, name: str) -> type:
    """The class of a part. Raises ConfigError when there is none of that name."""
    key = f"{kind.section}.{kind.key}"
    if ":" in name:
        if not isinstance(part := load(key, name), type):
            raise ConfigError(f"{key}={name}: not a class")
        return part
    if name not in kind.names():
        raise ConfigError(f"{key}={name}: there are {', '.join(kind.names())}, or module:Class of your own")
    try:
        return getattr(importlib.import_module(f"{kind.package}.{name}"), kind.class_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{key}={name}: {error}; see docs/running.md for what an environment needs") from error


def make_part(kind: Kind, config: Any) -> Any:
    """The part that a config names, made from its section."""
    section = getattr(config, kind.section)
    return find_part(kind, getattr(section, kind.key))(section)


def make_parts(kind: Kind, config: Any) -> list[Any]:
    """Those of a kind of which the config may name several."""
    section = getattr(config, kind.section)
    return [find_part(kind, name)(section) for name in getattr(section, kind.key)]


def named_parts(section: type[Section], kinds: Sequence[Kind], tree: Any) -> tuple[tuple[Kind, str], ...]:
    """The parts that `tree`, what is given for a section, names; where it is malformed, which the section's own check
    will say, those of the defaults."""
    given = tree if isinstance(tree, dict) else {}
    named: list[tuple[Kind, str]] = []
    for kind in kinds:
        default = section.model_fields[kind.key].default
        value = given.get(kind.key, default)
        if kind.many:
            named += [(kind, name) for name in (value if isinstance(value, list) else []) if isinstance(name, str)]
        else:
            named.append((kind, value if isinstance(value, str) else default))
    return tuple(dict.fromkeys(named))


@lru_cache
def with_parts(section: type[Section], named: tuple[tuple[Kind, str], ...]) -> type[Section]:
    """A section with the settings of the parts of these names; the same class whenever it is asked for.

    Raises:
        ConfigError: no such part, or two of them have a setting of the same name.
    """
    parts, owner = [], dict.fromkeys(section.model_fields, "itself")
    for kind, name in named:
        settings = find_part(kind, name).Settings
        for field in settings.model_fields:
            if field in owner:
                raise ConfigError(
                    f"{kind.section}.{kind.key}={name}: its setting {field} is one of {owner[field]} already"
                )
            owner[field] = f"{kind.key}={name}"
        parts.append(settings)

    def check(self: Section) -> Section:
        """Each part's own check of its settings."""
        for settings in parts:
            try:
                settings.model_validate({name: getattr(self, name) for name in settings.model_fields})
            except ValidationError as error:
                raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        return self

    fields = {name: (field.annotation, field) for settings in parts for name, field in settings.model_fields.items()}
    validators = {"_parts_check": model_validator(mode="after")(check)}
    return create_model(
        section.__name__, __base__=section, __doc__=section.__doc__, __validators__=validators, **fields
    )


def refuse_unread(config: Any) -> None:
    """Refuse an objective that reads what the advantage estimator does not give, or needs what the trainer cuts up. Raises
    ValueError."""
    advantage, objective, penalties = (
        make_part(ADVANTAGE, config),
        make_part(OBJECTIVE, config),
        make_parts(PENALTIES, config),
    )
    reads = objective.reads.union(*(penalty.reads | penalty.charges for penalty in penalties))
    if missing := sorted(reads - advantage.gives - {"behaviour", "recomputed", "reference"}):
        raise ValueError(
            f"algorithm.objective: {config.algorithm.objective} reads {', '.join(missing)}, which algorithm.advantage: "
            f"{config.algorithm.advantage} does not give (it gives {', '.join(sorted(advantage.gives))})"
        )
    if "reference" in reads and config.model.lora is None:
        raise ValueError(
            "algorithm.penalties: [kl] and algorithm.preferred_to: reference compare with the model without its adapter, and with "
            "model.lora: null no copy of it is left; give model.lora a section, or leave them out"
        )
    if config.sampler.source == "turns" and "value" not in advantage.reads:
        raise ValueError(
            f"algorithm.advantage: {config.algorithm.advantage} compares whole episodes of a task, and sampler.source: turns gives pieces of "
            "any; take one with a critic (dual_gae, critic), or sampler.source: groups"
        )
    if config.sampler.source not in ("groups", "turns") and "behaviour" in objective.reads:
        raise ValueError(
            f"algorithm.objective: {config.algorithm.objective} compares with the policy that sampled, and sampler.source: "
            f"{config.sampler.source} is no such policy's of this iteration; take likelihood"
        )
    if "value" in advantage.reads and config.algorithm.filter != "everything":
        raise ValueError(
            f"algorithm.filter: {config.algorithm.filter} takes rollouts away that the critic of algorithm.advantage: "
            f"{config.algorithm.advantage} has to learn from (one that it expects nothing of and that earns nothing has no advantage); "
            "set algorithm.filter: everything"
        )
    if "value" in advantage.reads and config.algorithm.critic_warmup_iterations >= config.trainer.num_iterations:
        raise ValueError(
            f"algorithm.critic_warmup_iterations ({config.algorithm.critic_warmup_iterations}) leaves nothing of "
            f"trainer.num_iterations ({config.trainer.num_iterations}) to the policy"
        )
    if getattr(config.algorithm, "critic", None) == "adapter" and config.model.lora is None:
        raise ValueError(
            "algorithm.critic: adapter is one on the frozen model, and with model.lora: null nothing is frozen: it would need a second "
            "model; give model.lora a section, or take algorithm.critic: head"
        )
    if config.sampler.source == "search" and not objective.compares_pairs:
        raise ValueError(
            f"sampler.source: search finds pairs of actions, and algorithm.objective: {config.algorithm.objective} compares none; take "
            "algorithm.advantage: pair and algorithm.objective: preference"
        )
    algorithm = config.algorithm
    if config.agent.memory == "window" and (
        getattr(algorithm, "ratio", "token") in ("trajectory", "gspo") or getattr(algorithm, "max_mean_log_weight", 0)
    ):
        raise ValueError(
            "agent.memory: window makes each turn a sample of its own, and algorithm.ratio: trajectory or gspo and "
            "algorithm.max_mean_log_weight are about whole rollouts; take algorithm.ratio: turn or token"
        )
    if objective.compares_pairs:
        _refuse_odd_pairs(config)
    if config.trainer.sequence_parallel_size > 1 and objective.needs_whole_sequences:
        raise ValueError(
            f"algorithm.objective: {config.algorithm.objective} with these settings (such as algorithm.ratio or "
            "algorithm.max_mean_log_weight) needs whole sequences, and trainer.sequence_parallel_size "
            f"({config.trainer.sequence_parallel_size}) cuts them up"
        )


def _refuse_odd_pairs(config: Any) -> None:
    """Refuse settings under which an objective would not see its pairs whole, or not alike. Raises ValueError."""
    algorithm = config.algorithm
    if algorithm.average != "rollout":
        raise ValueError(
            f"algorithm.average: {algorithm.average} has no meaning with algorithm.objective: {algorithm.objective}, which is one "
            "number for a pair; leave it out"
        )
    if algorithm.filter == "successful":
        raise ValueError(
            f"algorithm.filter: successful takes the worse one of each pair away from algorithm.objective: {algorithm.objective}; "
            "leave it out"
        )
    if (config.trainer.minibatch_rollouts or 2) % 2:
        raise ValueError(
            f"trainer.minibatch_rollouts ({config.trainer.minibatch_rollouts}) is odd, and algorithm.objective: "
            f"{algorithm.objective} learns from pairs of them"
        )


def refuse_splits(config: Any) -> None:
    """Refuse splits, and a memory, that the environment does not have for that. Raises ValueError."""
    environment = find_part(ENVIRONMENT, config.tasks.environment)
    if config.agent.memory == "window" and not environment.has_window:
        raise ValueError(
            f"agent.memory: window: episodes of {config.tasks.environment} cannot be told from their middle on; take whole"
        )
    for key, split, splits in (
        ("tasks.train_split", config.tasks.train_split, environment.training_splits),
        ("evaluation.split", config.evaluation.split, environment.held_out_splits),
        *(("evaluation.more_splits", split, environment.held_out_splits) for split in config.evaluation.more_splits),
        *(
            ("evaluation.select_split", split, environment.held_out_splits)
            for split in config.evaluation.selecting_splits
        ),
    ):
        if split not in splits:
            raise ValueError(f"{key}: {split} is none of {', '.join(splits)} (environment {config.tasks.environment})")


def load(key: str, name: str) -> Callable:
    """What the setting `key` names as `module:name`. Raises ConfigError when there is no such function or class."""
    module_name, _, attribute = name.partition(":")
    try:
        part = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}={name}: {error}") from error
    if not callable(part):
        raise ConfigError(f"{key}={name}: not a function or class")
    return part
