"""Parts that a config names: `module:function`, found when the config asks for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from loop_rl.config.base import ConfigError


def load_part(key: str, name: str) -> Callable:
    """What the setting `key` names as `module:name`. Raises ConfigError when there is no such function or class."""
    module_name, _, attribute = name.partition(":")
    try:
        part = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}={name}: {error}") from error
    if not callable(part):
        raise ConfigError(f"{key}={name}: not a function")
    return part
