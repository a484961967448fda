"""LOOP (Leave-One-Out PPO, arXiv 2502.01600) for LLM agents in AppWorld."""

__version__ = "0.1.0"
