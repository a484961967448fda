"""AppWorld: a REPL with the APIs of nine apps, run by `appworld_tasks`; its prompts, its figures, how agents behave in it."""

from loop_rl.environments.appworld.environment import Environment

__all__ = ["Environment"]
