"""The scenarios: one file each; a new file is a new scenario."""

import pkgutil
from functools import cache
from importlib import import_module
from types import ModuleType

SPLITS = ("train", "dev", "test_normal", "test_challenge")


@cache
def load_all() -> dict[str, ModuleType]:
    """Every scenario file by its name, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: load(name) for name in names}


def load(name: str) -> ModuleType:
    """Import one scenario file."""
    return import_module(f"{__name__}.{name}")


def of_split(split: str) -> list[str]:
    """Names of the scenarios of one split, difficulties taking turns so that any first few are a fair choice."""
    by_difficulty = {
        difficulty: [n for n, s in load_all().items() if split == s.SPLIT and difficulty == s.DIFFICULTY]
        for difficulty in (1, 2, 3)
    }
    longest = max(map(len, by_difficulty.values()))
    return [names[index] for index in range(longest) for names in by_difficulty.values() if index < len(names)]
