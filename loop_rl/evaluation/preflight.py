"""What an evaluation needs, looked at before a server starts."""

from __future__ import annotations

from appworld_tasks.roots import RootError, check_python, check_root
from appworld_tasks.splits import SplitError, load_split
from loop_rl.agents.chat import Chat, ChatError
from loop_rl.config.base import ConfigError
from loop_rl.config.settings import Config


def check_evaluation_inputs(config: Config, split: str) -> None:
    """Check AppWorld, the tasks of a split and the model, as far as an evaluation needs them.

    Raises:
        ConfigError: one line that names what is missing and how to get it.
    """
    if "memory" in config.name:
        # Part of every AppWorld experiment's name, and so of a path; see roots.check_root.
        raise ConfigError(f"name={config.name}: AppWorld misreads paths with the word 'memory'; choose another name=")
    try:
        check_python(config.tasks.python)
        check_root(config.tasks.root)
        load_split(config.tasks.root, split)
    except (RootError, SplitError) as error:
        raise ConfigError(str(error)) from error
    if config.evaluation.endpoint:
        return  # it has the tokenizer
    try:
        Chat.from_pretrained(config.model.path, config.agent)
    except ChatError as error:
        raise ConfigError(str(error)) from error
