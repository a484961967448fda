"""What the games have in common, whose worlds are made from seeds and told in text; no environment of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loop_rl.data.messages import Message
from loop_rl.environments import protocol
from loop_rl.environments.protocol import Task, TaskError

COMPLETED, STEP_LIMIT = "completed", "step_limit"
FIRST_SEED = {"train": 0, "dev": 1_000_000, "test": 2_000_000, "demonstrations": 3_000_000}
"""A million seeds a split, so that no world is in two of them."""


class Game(protocol.Environment):
    """Its settings have `train_tasks` and `held_out_tasks`."""

    training_splits = ("train", "dev")
    held_out_splits = ("dev", "test")
    end_reasons = (COMPLETED, STEP_LIMIT)
    has_window = True

    def seeds(self, split: str) -> range:
        """Of a split's worlds. Raises TaskError."""
        if split not in self.all_splits():
            raise TaskError(f"no split {split!r}; there are {', '.join(self.all_splits())}")
        number = self.settings.train_tasks if split == "train" else self.settings.held_out_tasks
        return range(FIRST_SEED[split], FIRST_SEED[split] + number)

    def prompt(self, task: Task) -> list[Message]:
        return self.prompt_from(task, self.first_observation(task))


def pieces_of(turns: Sequence[dict[str, Any]], size: int) -> list[Sequence[dict[str, Any]]]:
    """A game cut into demonstrations of so many turns; what is left over at its end is dropped, unless it is all there is."""
    return [turns[start : start + size] for start in range(0, max(1, len(turns) - size + 1), size)]


def as_demonstration(messages: list[Message], piece: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A piece behind the prompt that it begins with, as `training.tiny_model` reads it."""
    return {"messages": messages, "turns": [{"text": turn["text"], "output": turn["output"]} for turn in piece]}
