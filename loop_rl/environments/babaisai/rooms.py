"""The forty rooms of BabaIsAI that BALROG plays, under its names, laid out by a seed.

One room of 8 x 8, or two of 13 x 9 with a wall between them. In a `goto_win` the rule that wins holds; in a `make_win` its noun
stands elsewhere; `break_stop` hides the goal behind a wall that `is stop`, `maybe_break_stop` now and then. Distractors: another thing
(`distr_obj`), its noun where it can be of no use (`distr_rule`), a noun of nothing that is there (`irrelevant_rule`), another rule that
wins with nothing there to win by (`distr_win_rule`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loop_rl.environments.babaisai.rules import Place, State, Thing

_KINDS, _COLORS = ("ball", "key", "door"), ("red", "blue", "green")
_ONE, _TWO = ("", "-distr_obj", "-distr_rule", "-distr_obj_rule", "-distr_obj-irrelevant_rule"), "-distr_win_rule"
ROOMS: tuple[str, ...] = (
    *(f"{task}{extra}" for task in ("goto_win", "make_win") for extra in _ONE),
    *(
        f"two_room-{task}{extra}"
        for task in ("goto_win", "break_stop-goto_win", "maybe_break_stop-goto_win", "make_win", "break_stop-make_win")
        for extra in (*_ONE, *([_TWO] if task in ("goto_win", "make_win") else []))
    ),
    "two_room-make_you",
    "two_room-make_you-make_win",
    "two_room-make_wall_win",
)


@dataclass(frozen=True)
class Area:
    """Cells, all of them inside the fence."""

    left: int
    top: int
    columns: int
    rows: int

    def __iter__(self) -> Iterator[Place]:
        return iter([(self.left + x, self.top + y) for y in range(self.rows) for x in range(self.columns)])


def make_room(name: str, seed: int) -> State:
    """A room as it is before the first step; the same for the same name and seed. KeyError for one that is not of `ROOMS`."""
    if name not in ROOMS:
        raise KeyError(name)
    rng = random.Random(f"{name}/{seed}")
    layout = _two_rooms if name.startswith("two_room-") else _one_room
    return layout(name.removeprefix("two_room-"), rng)


class _Builder:
    """A room that is being laid out."""

    def __init__(self, width: int, height: int, rng: random.Random) -> None:
        self._width, self._height, self._rng = width, height, rng
        self._words: dict[Place, str] = {}
        self._things: list[Thing] = []

    def rule(self, noun: str, what: str, place: Place) -> list[Place]:
        """Three words from this place on to the right; returns where they stand."""
        places = [(place[0] + i, place[1]) for i in range(3)]
        self._words.update(zip(places, (noun, "is", what), strict=True))
        return places

    def word(self, word: str, cells: Sequence[Place] | Area) -> None:
        self._words[self._free(cells)] = word

    def displace(self, place: Place, cells: Area) -> None:
        """Break a rule: one of its words goes elsewhere."""
        self._words[self._free(cells)] = self._words.pop(place)

    def wall(self, column: int) -> None:
        self._things += [Thing((column, row), "wall", "grey") for row in range(1, self._height - 1)]

    def thing(self, kind: str, color: str, cells: Area) -> None:
        self._things.append(Thing(self._free(cells), kind, color))

    def state(self) -> State:
        return State(self._width, self._height, frozenset(self._words.items()), tuple(sorted(self._things)))

    def _free(self, cells: Sequence[Place] | Area) -> Place:
        taken = {thing.place for thing in self._things} | self._words.keys()
        return self._rng.choice([place for place in cells if place not in taken])


def _colored_kinds(rng: random.Random) -> list[tuple[str, str]]:
    """Three things of different kinds: the goal, a distractor, and one that is not there."""
    return [(kind, rng.choice(_COLORS)) for kind in rng.sample(_KINDS, 3)]


def _one_room(name: str, rng: random.Random) -> State:
    room = _Builder(8, 8, rng)
    goal, other, absent = _colored_kinds(rng)
    room.rule("baba", "you", (1, 6))
    (noun, _, _) = room.rule(goal[0], "win", (1, 1))
    if name.startswith("make_win"):
        room.displace(noun, Area(2, 2, 4, 4))
    useless = [*((x, y) for y in (6, 1) for x in (4, 5, 6)), *((6, y) for y in range(2, 6))]
    if "irrelevant_rule" in name:
        room.word(absent[0], useless)
    elif name.endswith("_rule"):
        room.word(other[0], useless)
    floor = Area(1, 2, 6, 5)
    room.thing("baba", "white", floor)
    room.thing(*goal, floor)
    if "distr_obj" in name:
        room.thing(*other, floor)
    return room.state()


def _two_rooms(name: str, rng: random.Random) -> State:
    room = _Builder(13, 9, rng)
    room.wall(6)
    goal, other, absent = _colored_kinds(rng)
    left, right = Area(2, 3, 4, 3), Area(7, 3, 4, 3)  # from where words can be pushed in all directions
    narrow_left, narrow_right = Area(2, 3, 3, 3), Area(8, 3, 3, 3)
    right_edge = [*((11, y) for y in range(2, 7)), *((x, 7) for x in range(8, 12))]
    left_floor, right_floor = Area(1, 1, 4, 7), Area(7, 2, 4, 6)
    everywhere = [*Area(1, 2, 5, 6), *Area(7, 2, 5, 6)]
    (win_noun, _, _) = room.rule(goal[0], "win", (9, 1))

    if name.startswith("make_you"):
        room.rule("baba", "you", (1, 6))
        room.rule("wall", "stop", (1, 1))  # in the corner, where nothing can break it
        room.word(other[0], narrow_left)
        if name.endswith("make_win"):
            room.displace(win_noun, narrow_right)
        room.thing("baba", "white", narrow_left)
        room.thing(*goal, right_floor)
        room.thing(*other, right_floor)
        return room.state()
    if name == "make_wall_win":
        room.rule("baba", "you", (1, 7))
        room.rule("wall", "stop", (2, 2))
        room.word(absent[0], narrow_right)
        room.displace(win_noun, right_edge)
        room.thing("baba", "white", narrow_left)
        room.thing(*goal, right_floor)
        room.thing(*other, right_floor)
        return room.state()

    room.rule("baba", "you", (1, 7))
    (_, is_word, stop_word) = room.rule("wall", "stop", (1, 2))
    if "irrelevant_rule" in name:
        room.word(absent[0], right)
    elif name.endswith("distr_obj_rule"):
        room.word(other[0], right_edge)
    elif name.endswith("distr_rule"):
        room.word(other[0], right)
    elif name.endswith(_TWO):
        room.word(other[0], right_edge)
        room.rule(absent[0], "win", (9, 4))
    if name.startswith(("goto_win", "make_win")):  # the wall stops nobody, and the goal is on this side
        room.displace(rng.choice([is_word, stop_word]), left)
    if "make_win" in name:
        room.displace(win_noun, right)
    room.thing("baba", "white", left)
    floor = everywhere if name.startswith("maybe") else right_floor if name.startswith("break_stop") else left_floor
    room.thing(*goal, floor)
    if "distr_obj" in name or name.endswith(_TWO):
        room.thing(*other, floor)
    return room.state()
