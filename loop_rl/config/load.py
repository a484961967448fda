"""From a YAML file and overrides to a checked `Config`, and back."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, create_model

from loop_rl.config.base import ConfigError, Section, section_of
from loop_rl.config.parts import ALGORITHM, ENVIRONMENT, named_parts, refuse_splits, refuse_unread, with_parts
from loop_rl.config.settings import AlgorithmConfig, Config, TasksConfig

METHODS = Path(__file__).parents[2] / "configs" / "methods"


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file and apply overrides such as `trainer.learning_rate=1e-4`.

    A file may name another, which it lies over: `base: other.yaml`, meant from its own folder.

    An override `method=NAME` lays configs/methods/NAME.yaml, or the file of that name, over the config, below all other
    overrides; the run is then called <name>-<NAME> unless one of them names it.

    Raises:
        ConfigError: in one line, what is wrong, with the key, the file and the nearest valid key.
    """
    path = Path(path)
    tree = _with_base(path)
    others = []
    for override in overrides or []:
        if override.startswith("method="):
            tree = _with_method(tree, override.removeprefix("method="))
        else:
            others.append(override)
    for override in others:
        _apply_override(tree, override)
    return parse_config(tree, source=str(path))


def _with_base(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    tree = _read(path)
    if "base" not in tree:
        return tree
    base = path.parent / str(tree.pop("base"))
    if base.resolve() in {file.resolve() for file in (path, *above)}:
        raise ConfigError(f"{path}: base: {base} leads back to itself")
    return _laid_over(_with_base(base, (path, *above)), tree)


def methods() -> list[str]:
    """Names of the methods that come along."""
    return sorted(path.stem for path in METHODS.glob("*.yaml"))


def _with_method(tree: dict[str, Any], name: str) -> dict[str, Any]:
    file = METHODS / f"{name}.yaml" if name in methods() else Path(name)
    if not file.is_file():
        raise ConfigError(f"method={name}: there are {', '.join(methods())}, or a YAML file of your own")
    return _laid_over(tree | {"name": f"{tree.get('name', 'run')}-{file.stem}"}, _read(file))


def _laid_over(tree: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """A tree with the settings of another in the place of its own."""
    both = {
        key: _laid_over(tree[key], value)
        for key, value in upper.items()
        if isinstance(value, dict) and isinstance(tree.get(key), dict)
    }
    return tree | upper | both


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}  # a SafeLoader
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        known = ", ".join(sorted(str(p) for p in Path("configs").glob("*.yaml")))
        raise ConfigError(f"{path}: cannot read config: {error.strerror} (known: {known})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(tree).__name__}")
    return tree


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML's own loaders silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        line_of: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in line_of:
                raise yaml.YAMLError(f"{key} is given twice, in lines {line_of[key]} and {line}")
            line_of[key] = line
        return super().construct_mapping(node, deep)


def parse_config(tree: dict[str, Any], source: str) -> Config:
    """Check a tree of settings. Raises ConfigError naming `source` and the first offending key."""
    _move_prompt(tree)
    try:
        kind = config_class(tree)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    _refuse_unknown(tree, kind, prefix="", source=source)
    try:
        config = kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":  # one of ours, which names the key itself
            key = key.rpartition(".")[0] if message.startswith(f"{key.rpartition('.')[2]}:") else ""
            key += "." if key else ""
            raise ConfigError(f"{source}: {key}{message}") from error
        given = "" if first["type"] in ("missing", "value_error") else f" (got {first['input']!r})"
        raise ConfigError(f"{source}: {key + ': ' if key else ''}{message}{given}") from error
    try:
        refuse_unread(config)
        refuse_splits(config)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    return config


def _move_prompt(tree: dict[str, Any]) -> None:
    """`agent.prompt` is the environment's since there are several; older configs, and those used to them, say it there."""
    agent, tasks = tree.get("agent"), tree.get("tasks") or {}
    if isinstance(agent, dict) and isinstance(tasks, dict) and "prompt" in agent and "prompt" not in tasks:
        tree |= {
            "agent": {k: v for k, v in agent.items() if k != "prompt"},
            "tasks": tasks | {"prompt": agent["prompt"]},
        }


def config_class(tree: dict[str, Any]) -> type[Config]:
    """`Config` with the settings of the parts that a tree of settings names. Raises ConfigError: there is no such part."""
    tasks = with_parts(TasksConfig, named_parts(TasksConfig, (ENVIRONMENT,), tree.get("tasks")))
    algorithm = with_parts(AlgorithmConfig, named_parts(AlgorithmConfig, ALGORITHM, tree.get("algorithm")))
    return _config_class(tasks, algorithm)


@lru_cache  # so that equal configs are of the same class, and equal
def _config_class(tasks: type[Section], algorithm: type[Section]) -> type[Config]:
    sections = {
        "tasks": (tasks, Field(default_factory=tasks)),
        "algorithm": (algorithm, Field(default_factory=algorithm)),
    }
    return create_model("Config", __base__=Config, __doc__=Config.__doc__, **sections)


def dump_config(config: Config) -> str:
    """The resolved config as YAML; `load_config` of it gives an equal config."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, width=120)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected key=value, for example trainer.learning_rate=1e-4")
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is not a section")
    try:
        node[leaf] = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: not valid YAML: {' '.join(str(error).split())}") from error


def _refuse_unknown(
    tree: dict[str, Any], section: type[Section], prefix: str, source: str, whole: type[Section] | None = None
) -> None:
    whole = whole or section
    for key, value in tree.items():
        field = section.model_fields.get(key)
        if field is None:
            valid = _all_keys(whole)
            near = difflib.get_close_matches(f"{prefix}{key}", valid, n=1, cutoff=0.0)
            raise ConfigError(f"{source}: unknown setting {prefix}{key!s}; did you mean {near[0]}?")
        if (inner := section_of(field)) and isinstance(value, dict):
            _refuse_unknown(value, inner, f"{prefix}{key}.", source, whole)


def _all_keys(section: type[Section], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        if inner := section_of(field):
            keys += _all_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys
