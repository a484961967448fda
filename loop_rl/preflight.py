"""Everything that can be wrong with the input is found here, before any process starts."""

from __future__ import annotations

import importlib.util
import sys

from appworld_tasks.roots import RootError, check_python, check_root
from appworld_tasks.splits import SplitError, load_split, training_tasks
from loop_rl.chat import Chat, ChatError
from loop_rl.config import Config, ConfigError


def check_inputs(config: Config) -> None:
    """Check AppWorld, the tasks and the model.

    Raises:
        ConfigError: one line that names what is missing and how to get it.
    """
    if "memory" in config.name:
        # Part of every AppWorld experiment's name, and so of a path; see roots.check_root.
        raise ConfigError(f"name={config.name}: AppWorld misreads paths with the word 'memory'; choose another name=")
    try:
        check_python(config.tasks.python)
        check_root(config.tasks.root)
        training_tasks(config.tasks.root, config.tasks.train_split, config.tasks.difficulties, config.tasks.task_ids)
        load_split(config.tasks.root, config.evaluation.split)
    except (RootError, SplitError) as error:
        raise ConfigError(str(error)) from error
    for tracker in config.tracking.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ConfigError(
                f"tracking.trackers: {tracker} is not installed; run `{sys.executable} -m pip install {tracker}`"
            )
    try:
        Chat.from_pretrained(config.model.path, config.agent)
    except ChatError as error:
        raise ConfigError(str(error)) from error
