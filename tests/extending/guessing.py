"""An environment of one's own: guess a letter; a vowel is worth a half, three turns are played."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from loop_rl.environments import protocol
from loop_rl.environments.figures import cost, outcomes, success_rate
from loop_rl.environments.protocol import Score, Step


@dataclass
class Round:
    task_id: str
    family: str = "letters"
    labels: dict = field(default_factory=lambda: {"kind": "vowels"})
    instruction: str = "Guess a letter."


class Guessing(protocol.Environment):
    held_out_splits = ("test",)
    end_reasons = ("over",)

    def tasks(self, split):
        return [Round(f"{split}-{i}") for i in range(4)]

    def prompt(self, task):
        return [{"role": "user", "content": task.instruction}]

    @contextlib.asynccontextmanager
    async def episode(self, task, name, keep_outputs):
        yield Play()

    def figures(self, tasks, rollouts, usages):
        return {"success": success_rate(tasks, rollouts), **outcomes(rollouts), **cost(rollouts, usages)}


class Play:
    def __init__(self):
        self.points, self.turns = 0.0, 0

    async def step(self, action):
        self.turns += 1
        letter = next((c for c in action.casefold() if c.isalpha()), "")
        executed = letter or "x"
        reward = 0.5 if executed in "aeiou" else 0.0
        self.points += reward
        return Step(
            f"{executed}: {reward}",
            reward,
            end="over" if self.turns == 3 else "",
            executed=executed,
            valid=bool(letter),
        )

    async def score(self):
        return Score(0.0, success=self.points > 0)
