"""BabyAI (arXiv 1810.08272) in text: find, fetch and open things in small grid rooms, on the package minigrid.

    python -m loop_rl.environments.babyai demonstrations --levels goto pickup open --episodes 4000 --out demonstrations.jsonl

A task is a level and a seed; every seed makes another room. The agent sees the 7 x 7 cells before it, a line a thing, and
names one of six actions. Splits have other seeds, and so have demonstrations, which the package's own bot plays, more or
less carefully.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from loop_rl.config.base import ConfigError, Section
from loop_rl.data.messages import Message
from loop_rl.data.rollout import Rollout, Usage
from loop_rl.environments.figures import cost, outcomes, success_rate
from loop_rl.environments.games import COMPLETED, FIRST_SEED, STEP_LIMIT, Game
from loop_rl.environments.named_actions import parse_action
from loop_rl.environments.protocol import Score, Step

Level = Literal["goto", "pickup", "open", "putnext", "pickup-then-goto", "local"]
LEVELS: tuple[Level, ...] = ("goto", "pickup", "open", "putnext", "pickup-then-goto", "local")
ACTIONS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
"""By the numbers that minigrid gives them."""
DEFAULT_ACTION = "go forward"
"""Carried out where the agent names none."""
_CAREFUL, _CARELESS = 0.02, 0.85
"""Share of random actions, by the two kinds of demonstrators. A policy that imitates both can tell from its own first actions
which it is, so reinforcement has something to prefer."""
_DISTRACTORS = {"local": 4}
"""Things in the room that are not asked for."""

_RULES = """\
You are in a room of a grid world and are given a mission. In every turn you are told what you see: things before you, how \
many steps forward and how many steps to the left or right of you they are.
Your actions are: turn left, turn right, go forward, pick up (the thing directly before you), drop (what you carry), toggle \
(open or close the door directly before you). To go to a thing is to stand directly before it, facing it.
Answer with one line of thought that begins with THINK: and then one line that begins with ACTION: and names one action."""


class Settings(Section):
    """Of `environment: babyai`, which needs the package minigrid (`make setup` installs it)."""

    levels: list[Level] = Field(["goto", "pickup", "open"], min_length=1)
    """What there is to do: go to a thing, pick one up, open a door, put one thing next to another, pick one up and then go to
    another, or go to one among others (`local`)."""
    room_size: int = Field(6, ge=5, le=25)
    """Cells along a side of a room, its walls included. BabyAI: 8."""
    max_steps: int = Field(12, ge=1)
    """Actions after which the environment itself ends an episode. Keep `agent.max_turns` above."""
    train_tasks: int = Field(64, ge=1, le=1_000_000)
    """Rooms of each level to train on."""
    held_out_tasks: int = Field(32, ge=1, le=1_000_000)
    """Rooms of each level in the splits dev and test."""
    prompt: Literal["full", "compact"] = "full"
    """`full` tells an instruction-tuned model the rules; `compact` is for a tiny model that knows them."""

    @model_validator(mode="after")
    def _levels_once(self) -> Self:
        if len(set(self.levels)) < len(self.levels):
            raise ValueError(f"tasks.levels names one twice: {', '.join(self.levels)}")
        return self


@dataclass(frozen=True)
class Task:
    """One room, and what is to be done in it."""

    task_id: str
    family: str
    labels: Mapping[str, str]
    instruction: str
    level: Level
    seed: int


class Environment(Game):
    """Rooms; episodes run in this process, a step takes less than a millisecond."""

    Settings = Settings
    label_name = "level"

    def check(self, run_name: str) -> None:
        _minigrid()

    def tasks(self, split: str) -> list[Task]:
        seeds = self.seeds(split)
        return [self._task(level, seed) for level in self.settings.levels for seed in seeds]

    def first_observation(self, task: Task) -> str:
        return observe(self._room(task.level, task.seed))

    def prompt_from(self, task: Task, observation: str) -> list[Message]:
        return prompt(self.settings.prompt, task.instruction, observation)

    def demonstration(self, task: Task) -> list[str] | None:
        """What minigrid's bot does, without a mistake of its own."""
        played = play_bot(task.level, task.seed, self.settings, 0.0, random.Random(0))
        return [turn["text"] for turn in played["turns"]] if played else None

    @contextlib.asynccontextmanager
    async def episode(self, task: Task, name: str, keep_outputs: bool) -> AsyncIterator[Episode]:
        yield Episode(self._room(task.level, task.seed))

    def figures(self, tasks: Sequence[Task], rollouts: Sequence[Rollout], usages: Sequence[Usage]) -> dict[str, Any]:
        return {
            "success": success_rate(tasks, rollouts),
            **outcomes(rollouts),
            **cost(rollouts, usages),
        }

    def _task(self, level: Level, seed: int) -> Task:
        mission = _mission(level, seed, self.settings.room_size)
        return Task(f"{level}-{seed:07d}", level, {"level": level}, mission, level, seed)

    def _room(self, level: Level, seed: int) -> Any:
        return make_room(level, seed, self.settings.room_size, self.settings.max_steps)


class Episode:
    """One room, from its first step on."""

    def __init__(self, room: Any) -> None:
        self._room = room
        self._solved = False

    async def step(self, action: str) -> Step:
        named = parse_action(action, ACTIONS)
        executed = named or DEFAULT_ACTION
        _, reward, terminated, truncated, _ = self._room.step(ACTIONS.index(executed))
        self._solved = reward > 0
        end = COMPLETED if terminated else STEP_LIMIT if truncated else ""
        return Step(
            observe(self._room),
            reward=float(self._solved),
            end=end,
            truncated=bool(truncated and not terminated),
            executed=executed,
            valid=bool(named),
            log=(drawing(self._room),),
        )

    async def score(self) -> Score:
        return Score(0.0, self._solved)  # the last step's reward says it all


def prompt(style: str, mission: str, observation: str) -> list[Message]:
    """The messages before the first action."""
    rules = _RULES if style == "full" else "babyai"
    return [{"role": "system", "content": rules}, {"role": "user", "content": f"{mission}\n{observation}"}]


def observe(room: Any) -> str:
    """What the agent sees, a line a thing, the nearest first: what it carries, things, doors, and the wall ahead."""
    grid, visible = room.gen_obs_grid()
    size = room.agent_view_size
    lines = []
    for forward in range(size):
        for right in sorted(range(-(size // 2), size // 2 + 1), key=abs):
            column, row = size // 2 + right, size - 1 - forward
            thing = grid.get(column, row)
            is_wall = thing is not None and thing.type == "wall"
            if thing is None or not visible[column, row] or (forward, right) == (0, 0) or (is_wall and right):
                continue
            lines.append((forward + abs(right), f"{_name(thing)} {_place(forward, right)}"))
    seen = [text for _, text in sorted(lines, key=lambda line: line[0])]
    return "\n".join([*([f"you carry a {_name(room.carrying)}"] if room.carrying else []), *seen]) or "nothing"


def drawing(room: Any) -> str:
    """The room for a reader, two characters a cell: the agent as an arrow; a thing and its color by their first letters, an open door as
    a small letter."""

    def cell(x: int, y: int) -> str:
        thing = room.grid.get(x, y)
        if (x, y) == tuple(room.agent_pos):
            return ">v<^"[room.agent_dir] + " "
        if thing is None:
            return ". "
        if thing.type == "wall":
            return "# "
        letter = thing.type[0].upper() if thing.type != "ball" else "O"
        is_open_door = thing.type == "door" and thing.is_open
        return (letter.lower() if is_open_door else letter) + thing.color[0]

    return "\n".join("".join(cell(x, y) for x in range(room.width)).rstrip() for y in range(room.height))


def _name(thing: Any) -> str:
    if thing.type == "wall":
        return "wall"
    state = ("open " if thing.is_open else "locked " if thing.is_locked else "closed ") if thing.type == "door" else ""
    return f"{state}{thing.color} {thing.type}"


def _place(forward: int, right: int) -> str:
    side = f"{abs(right)} {'right' if right > 0 else 'left'}" if right else ""
    return " ".join(part for part in (f"{forward} forward" if forward else "", side) if part)


def make_room(level: Level, seed: int, room_size: int, max_steps: int) -> Any:
    """A room as it is before the first step; the same for the same arguments, in every process."""
    room = _level_class()(level, room_size, max_steps)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints every layout that it throws away
        room.reset(seed=seed)
    return room


@lru_cache(maxsize=100_000)
def _mission(level: Level, seed: int, room_size: int) -> str:
    return make_room(level, seed, room_size, 1).mission


@lru_cache
def _level_class() -> type:
    _minigrid()
    from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
    from minigrid.envs.babyai.core.verifier import BeforeInstr, GoToInstr, ObjDesc, OpenInstr, PickupInstr, PutNextInstr

    class Room(RoomGridLevel):
        """One room, but for `open`, where a door leads into a second one."""

        def __init__(self, level: Level, room_size: int, max_steps: int) -> None:
            self._level = level
            columns = 2 if level == "open" else 1
            super().__init__(room_size=room_size, max_steps=max_steps, num_rows=1, num_cols=columns)

        def gen_mission(self) -> None:
            self.place_agent(0, 0)
            if self._level == "open":
                door, _ = self.add_door(0, 0, door_idx=0, locked=False)
                self.instrs = OpenInstr(ObjDesc("door", door.color))
                return
            wanted = 2 if self._level in ("pickup-then-goto", "putnext") else 1
            things = self.add_distractors(num_distractors=wanted + _DISTRACTORS.get(self._level, 1), all_unique=True)
            self.check_objs_reachable()
            first, second = (ObjDesc(thing.type, thing.color) for thing in things[:2])
            self.instrs = {
                "goto": lambda: GoToInstr(first),
                "local": lambda: GoToInstr(first),
                "pickup": lambda: PickupInstr(first),
                "putnext": lambda: PutNextInstr(first, second),
                "pickup-then-goto": lambda: BeforeInstr(PickupInstr(first), GoToInstr(second)),
            }[self._level]()

    return Room


def _minigrid() -> None:
    """Raises ConfigError where the package is missing."""
    try:
        import minigrid  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"tasks.environment=babyai needs {error.name}; run `make setup`") from error


def play_bot(level: Level, seed: int, settings: Settings, carelessness: float, rng: random.Random) -> dict | None:
    """An episode of minigrid's bot as a conversation (see `training.tiny_model`), each of whose actions is a random one
    with a probability of `carelessness`; None where the bot loses its way."""
    from minigrid.utils.baby_ai_bot import BabyAIBot, DisappearedBoxError

    room = make_room(level, seed, settings.room_size, settings.max_steps)
    bot, taken, turns = BabyAIBot(room), None, []
    messages = prompt("compact", room.mission, observe(room))
    while True:
        try:
            wise = int(bot.replan(taken))
        except (DisappearedBoxError, AssertionError):
            return None
        taken = rng.randrange(len(ACTIONS)) if wise >= len(ACTIONS) or rng.random() < carelessness else wise
        _, _, terminated, truncated, _ = room.step(taken)
        turns.append({"text": ACTIONS[taken], "output": observe(room)})
        if terminated or truncated:
            return {"messages": messages, "turns": turns, "success": bool(terminated)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("demonstrations", help="write conversations of the bot, one a line")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    command.add_argument("--episodes", type=int, default=4000)
    command.add_argument("--careless-fraction", type=float, default=0.6, help="of the episodes (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    settings, rng, solved, written = Settings(), random.Random(args.seed), 0, 0
    with args.out.open("w") as file:
        for number in range(args.episodes):
            level = args.levels[number % len(args.levels)]
            carelessness = _CARELESS if rng.random() < args.careless_fraction else _CAREFUL
            seed = FIRST_SEED["demonstrations"] + number
            if conversation := play_bot(level, seed, settings, carelessness, rng):
                solved += conversation.pop("success")
                written += 1
                file.write(json.dumps(conversation) + "\n")
    print(f"{args.out}: {written} demonstrations, {solved / max(1, written):.0%} of them solve their task")
    return 0


if __name__ == "__main__":
    sys.exit(main())
