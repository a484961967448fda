"""Crafter (arXiv 2109.06780) in text."""

from loop_rl.environments.crafter.environment import Environment

__all__ = ["Environment"]
