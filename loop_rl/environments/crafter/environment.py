"""Crafter in text: survive in a world of your own, and unlock 22 achievements. Episodes of hundreds of turns; a reward in most of them.

A task is a seed; every seed makes another world, and the same actions in it do the same. Who sleeps does nothing until it wakes up, so
the steps in between pass by themselves, and their rewards count.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from loop_rl.config.base import ConfigError, Section
from loop_rl.data.messages import Message
from loop_rl.data.rollout import Rollout, Usage
from loop_rl.environments.crafter.text import drawing, observe
from loop_rl.environments.figures import cost, mean, outcomes, share
from loop_rl.environments.games import STEP_LIMIT, Game
from loop_rl.environments.named_actions import parse_action
from loop_rl.environments.protocol import Score, Step

if TYPE_CHECKING:
    from loop_rl.environments.crafter.world import World

ACTIONS: dict[str, str] = {
    "noop": "noop",
    **{
        f"move {name}": f"move_{way}"
        for name, way in zip(("west", "east", "north", "south"), ("left", "right", "up", "down"), strict=True)
    },
    "do": "do",
    "sleep": "sleep",
    **{f"place {thing}": f"place_{thing}" for thing in ("stone", "table", "furnace", "plant")},
    **{
        f"make {stuff} {tool}": f"make_{stuff}_{tool}"
        for tool in ("pickaxe", "sword")
        for stuff in ("wood", "stone", "iron")
    },
}
"""By the names that the agent gives them, what the package calls them."""
DEFAULT_ACTION = "noop"
"""Carried out where the agent names none."""
DIED = "died"
_INSTRUCTION = "Stay alive and unlock as many achievements as you can."

_RULES = """\
You play Crafter, a world of grass, sand, water, trees, stone, caves and creatures. In every turn you are told the nearest thing of \
each kind that you see and how many steps away it is, what you face, your health, food, drink and energy (9 is full), and what you carry.
Your actions are: {actions}. "do" acts on what you face: it collects wood, stone, coal, iron, diamonds, water and saplings (from grass), \
eats a cow or a ripe plant, and strikes a zombie or skeleton. You turn by moving; what is in the way you then face.
A table takes wood; near it you make tools: of wood, of wood and stone, or, with a furnace (of stone) near, too, of wood, coal and iron. \
Stone and coal need a wood pickaxe, iron a stone pickaxe, diamonds an iron pickaxe. Without food, drink and sleep you lose health. \
Each achievement counts once: {achievements}.
Answer with one line of thought that begins with THINK: and then one line that begins with ACTION: and names one action."""


class Settings(Section):
    """Of `environment: crafter`, which needs the package crafter (`make setup` installs it)."""

    area: int = Field(64, ge=16, le=256)
    """Cells along a side of the world. Crafter: 64, which takes a second and more to make; 32 a quarter of that."""
    max_steps: int = Field(2_000, ge=1)
    """Steps of the world after which the environment itself ends an episode. BALROG: 2,000; Crafter: 10,000."""
    train_tasks: int = Field(256, ge=1, le=1_000_000)
    """Worlds to train on."""
    held_out_tasks: int = Field(32, ge=1, le=1_000_000)
    """Worlds in the splits dev and test."""
    prompt: Literal["full", "compact"] = "full"
    """`full` tells an instruction-tuned model the rules, and what is still to do; `compact` is for a tiny model that knows them."""


@dataclass(frozen=True)
class Task:
    """One world."""

    task_id: str
    family: str
    labels: Mapping[str, str]
    instruction: str
    seed: int


class Environment(Game):
    """Worlds; episodes run in this process, a step takes less than a millisecond."""

    Settings = Settings
    end_reasons = (DIED, STEP_LIMIT)

    def check(self, run_name: str) -> None:
        if importlib.util.find_spec("crafter") is None:
            raise ConfigError("tasks.environment=crafter needs crafter; run `make setup`")

    def tasks(self, split: str) -> list[Task]:
        return [
            Task(f"crafter-{seed:07d}", f"crafter-{seed:07d}", {}, _INSTRUCTION, seed) for seed in self.seeds(split)
        ]

    def first_observation(self, task: Task) -> str:
        return observe(self._world(task), self.settings.prompt == "full")

    def prompt_from(self, task: Task, observation: str) -> list[Message]:
        return prompt(self.settings.prompt, observation)

    @contextlib.asynccontextmanager
    async def episode(self, task: Task, name: str, keep_outputs: bool) -> AsyncIterator[Episode]:
        # In a thread, because other episodes wait for their policy meanwhile.
        world = await asyncio.to_thread(self._world, task)
        yield Episode(world, self.settings.max_steps, self.settings.prompt == "full")

    def figures(self, tasks: Sequence[Task], rollouts: Sequence[Rollout], usages: Sequence[Usage]) -> dict[str, Any]:
        return {"progress": progress(rollouts), **outcomes(rollouts), **cost(rollouts, usages)}

    def _world(self, task: Task) -> World:
        from loop_rl.environments.crafter.world import make_world

        return make_world(task.seed, self.settings.area)


class Episode:
    """One world, from its first step on."""

    def __init__(self, world: World, max_steps: int, with_open: bool) -> None:
        self._world, self._max_steps, self._with_open = world, max_steps, with_open

    async def step(self, action: str) -> Step:
        named = parse_action(action, ACTIONS)
        executed = named or DEFAULT_ACTION
        reward, died = self._world.act(ACTIONS[executed])
        slept = 0
        while self._world.player.sleeping and not died and self._world.num_steps < self._max_steps:
            more, died = self._world.act("noop")
            reward, slept = reward + more, slept + 1
        is_over = self._world.num_steps >= self._max_steps
        return Step(
            observe(self._world, self._with_open),
            reward=reward,
            end=DIED if died else STEP_LIMIT if is_over else "",
            truncated=is_over and not died,
            executed=executed,
            valid=bool(named),
            log=(*((f"slept for {slept} steps",) if slept else ()), drawing(self._world)),
        )

    async def score(self) -> Score:
        """The steps' rewards say it all."""
        done = [name for name in self._world.player.achievements if name in self._world.unlocked]
        missing = [name for name in self._world.player.achievements if name not in self._world.unlocked]
        return Score(0.0, not missing, tuple(done), tuple(missing))


def prompt(style: str, observation: str) -> list[Message]:
    """The messages before the first action."""
    if style == "compact":
        rules = "crafter"
    else:
        from loop_rl.environments.crafter.world import ACHIEVEMENTS

        rules = _RULES.format(
            actions=", ".join(ACTIONS), achievements=", ".join(name.replace("_", " ") for name in ACHIEVEMENTS)
        )
    return [{"role": "system", "content": rules}, {"role": "user", "content": observation}]


def progress(rollouts: Sequence[Rollout]) -> dict[str, dict[str, float]]:
    """BALROG's progress, the mean share of achievements that an episode unlocks ("all"), with a 95% interval by the normal distribution;
    and of each achievement the share of episodes that unlock it, with Wilson's."""
    found = {"all": mean([len(rollout.passes) / len(rollout.passes + rollout.failures) for rollout in rollouts])}
    for name in sorted({name for rollout in rollouts for name in rollout.passes + rollout.failures}):
        found[name.replace("_", " ")] = share([name in rollout.passes for rollout in rollouts])
    return found
