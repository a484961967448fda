"""BabaIsAI in text: rooms whose rules are words that can be pushed. Win by walking to what wins, or by making it so.

    loop_rl play --config configs/babaisai.yaml

The engine (`rules`) and the forty rooms (`rooms`) are our own. A task is a room's name and a seed; splits have other seeds. The text
gives the rules that hold and, seen from what is you, every word and thing; of walls the nearest in each direction.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from loop_rl.config.base import Section
from loop_rl.data.messages import Message
from loop_rl.data.rollout import Rollout, Usage
from loop_rl.environments.babaisai.rooms import ROOMS, make_room
from loop_rl.environments.babaisai.rules import WAYS, State, kinds_that_are, rules_of, solution, step
from loop_rl.environments.figures import cost, outcomes, success_rate
from loop_rl.environments.games import COMPLETED, STEP_LIMIT, Game
from loop_rl.environments.named_actions import parse_action
from loop_rl.environments.protocol import Score, Step

DEFAULT_ACTION = "idle"
"""Carried out where the agent names none."""
_INSTRUCTION = "Win."

_RULES = """\
You play Baba Is You. Words lie in the room, and where three of them stand side by side, from left to right or downwards, as in "baba is \
you", they are a rule that holds. You move what is you. Walk into a word and you push it, so you can break rules and make new ones. \
You win by standing on something that is win. You cannot enter what is stop.
In every turn you are told which rules hold and where everything is, in steps from you.
Your actions are: {actions}.
Answer with one line of thought that begins with THINK: and then one line that begins with ACTION: and names one action."""


class Settings(Section):
    """Of `environment: babaisai`."""

    rooms: list[str] = Field(["goto_win", "make_win"], min_length=1)
    """Which of the forty rooms, such as two_room-break_stop-goto_win-distr_obj (docs/environments.md)."""
    max_steps: int = Field(100, ge=1)
    """Actions after which the environment itself ends an episode. BALROG: 100."""
    train_tasks: int = Field(64, ge=1, le=1_000_000)
    """Layouts of each room to train on."""
    held_out_tasks: int = Field(32, ge=1, le=1_000_000)
    """Layouts of each room in the splits dev and test."""
    prompt: Literal["full", "compact"] = "full"
    """`full` tells an instruction-tuned model the rules; `compact` is for a tiny model that knows them."""

    @model_validator(mode="after")
    def _known_rooms_once(self) -> Self:
        if unknown := [room for room in self.rooms if room not in ROOMS]:
            raise ValueError(f"tasks.rooms: {unknown[0]} is none of {', '.join(ROOMS)}")
        if len(set(self.rooms)) < len(self.rooms):
            raise ValueError(f"tasks.rooms names one twice: {', '.join(self.rooms)}")
        return self


@dataclass(frozen=True)
class Task:
    """One room, laid out by a seed."""

    task_id: str
    family: str
    labels: Mapping[str, str]
    instruction: str
    room: str
    seed: int


class Environment(Game):
    """Rooms; episodes run in this process, a step takes less than a tenth of a millisecond."""

    Settings = Settings
    label_name = "room"

    def tasks(self, split: str) -> list[Task]:
        seeds = self.seeds(split)
        return [
            Task(f"{room}-{seed:07d}", room, {"room": room}, _INSTRUCTION, room, seed)
            for room in self.settings.rooms
            for seed in seeds
        ]

    def first_observation(self, task: Task) -> str:
        return observe(make_room(task.room, task.seed))

    def prompt_from(self, task: Task, observation: str) -> list[Message]:
        return prompt(self.settings.prompt, observation)

    def demonstration(self, task: Task) -> list[str] | None:
        """The shortest way to win, where a search of a second or two finds one."""
        return solution(make_room(task.room, task.seed))

    @contextlib.asynccontextmanager
    async def episode(self, task: Task, name: str, keep_outputs: bool) -> AsyncIterator[Episode]:
        yield Episode(make_room(task.room, task.seed), self.settings.max_steps)

    def figures(self, tasks: Sequence[Task], rollouts: Sequence[Rollout], usages: Sequence[Usage]) -> dict[str, Any]:
        return {"success": success_rate(tasks, rollouts), **outcomes(rollouts), **cost(rollouts, usages)}


class Episode:
    """One room, from its first step on."""

    def __init__(self, state: State, max_steps: int) -> None:
        self._state, self._steps_left, self._is_won = state, max_steps, False

    async def step(self, action: str) -> Step:
        named = parse_action(action, WAYS)
        executed = named or DEFAULT_ACTION
        self._state, self._is_won = step(self._state, executed)
        self._steps_left -= 1
        is_over = not self._steps_left and not self._is_won
        return Step(
            observe(self._state),
            reward=float(self._is_won),
            end=COMPLETED if self._is_won else STEP_LIMIT if is_over else "",
            truncated=is_over,
            executed=executed,
            valid=bool(named),
            log=(drawing(self._state),),
        )

    async def score(self) -> Score:
        return Score(0.0, self._is_won)  # the last step's reward says it all


def prompt(style: str, observation: str) -> list[Message]:
    """The messages before the first action."""
    rules = _RULES.format(actions=", ".join(WAYS)) if style == "full" else "babaisai"
    return [{"role": "system", "content": rules}, {"role": "user", "content": observation}]


def observe(state: State) -> str:
    """The rules that hold, a line each; then, seen from the first thing that is you, words and things, the nearest first."""
    rules = rules_of(state.words)
    you = kinds_that_are("you", rules)
    said = [f"{noun} is {what}" for noun, what in rules] or ["no rule holds"]
    here = next((thing for thing in state.things if thing.kind in you), None)
    if here is None:
        return "\n".join([*said, "nothing is you"])
    places = [(place, f"word {word}") for place, word in state.words]
    walls: dict[tuple[int, int], int] = {}
    for thing in state.things:
        dx, dy = thing.place[0] - here.place[0], thing.place[1] - here.place[1]
        if thing.kind != "wall":
            if thing is not here:
                places.append((thing.place, _name(thing)))
        elif (dx == 0) != (dy == 0):  # straight ahead
            way = ((dx > 0) - (dx < 0), (dy > 0) - (dy < 0))
            walls[way] = min(walls.get(way, 99), abs(dx) + abs(dy))
    steps = [(place[0] - here.place[0], place[1] - here.place[1], name) for place, name in places]
    steps += [(way[0] * distance, way[1] * distance, "wall") for way, distance in walls.items()]
    lines = [f"{name} {_place(dx, dy)}" for dx, dy, name in sorted(steps, key=lambda s: (abs(s[0]) + abs(s[1]), s))]
    return "\n".join([*said, f"you are a {_name(here)}", *lines])


def _name(thing: Any) -> str:
    return thing.kind if thing.kind in ("baba", "wall") else f"{thing.color} {thing.kind}"


def _place(dx: int, dy: int) -> str:
    parts = [f"{abs(dx)} {'right' if dx > 0 else 'left'}"] if dx else []
    parts += [f"{abs(dy)} {'down' if dy > 0 else 'up'}"] if dy else []
    return " ".join(parts) or "here"


def drawing(state: State) -> str:
    """The room for a reader: words in capitals, things in small letters, four characters a cell."""
    cells = {place: word.upper() for place, word in state.words}
    for thing in state.things:
        cells.setdefault(thing.place, thing.kind)
    rows = range(1, state.height - 1)
    return "\n".join(" ".join(f"{cells.get((x, y), '.'):4}" for x in range(1, state.width - 1)) for y in rows)
