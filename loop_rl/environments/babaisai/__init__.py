"""BabaIsAI (arXiv 2407.13729) in text."""

from loop_rl.environments.babaisai.environment import Environment

__all__ = ["Environment"]
