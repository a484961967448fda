"""Rooms in which the rules are words that can be pushed: `wall is stop` holds as long as the three words stand side by side.

A pure function from state and action to state. A rule is a noun, `is`, and a property or another noun, read from left to right or
downwards. What `is you` moves; it pushes words, in rows too, and cannot enter what `is stop` or `is you`. Words cannot be pushed into those
either. Whoever `is you` and stands on what `is win`, or is it, has won: by the rules before its move or those after. A noun that
`is` another noun becomes it. Things otherwise share cells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

Place = tuple[int, int]
"""Column and row, from 0 at the upper left; the outermost ones are a fence."""

WAYS: dict[str, Place] = {"idle": (0, 0), "up": (0, -1), "right": (1, 0), "down": (0, 1), "left": (-1, 0)}
"""Actions."""
NOUNS = ("baba", "wall", "ball", "key", "door")
PROPERTIES = ("you", "win", "stop")


@dataclass(frozen=True, order=True)
class Thing:
    """Something that a noun means."""

    place: Place
    kind: str
    color: str = ""


@dataclass(frozen=True)
class State:
    """A room at one moment."""

    width: int
    height: int
    words: frozenset[tuple[Place, str]]
    things: tuple[Thing, ...]
    """Sorted."""

    def is_inside(self, place: Place) -> bool:
        return 0 < place[0] < self.width - 1 and 0 < place[1] < self.height - 1


def rules_of(words: Iterable[tuple[Place, str]]) -> list[tuple[str, str]]:
    """Rules that hold, each a noun and what it is, in the order in which they are read."""
    at = dict(words)
    found = []
    for (x, y), word in sorted(at.items(), key=lambda item: (item[0][1], item[0][0])):
        if word == "is":
            for before, after in (((x - 1, y), (x + 1, y)), ((x, y - 1), (x, y + 1))):
                noun, what = at.get(before, ""), at.get(after, "")
                if noun in NOUNS and what in NOUNS + PROPERTIES:
                    found.append((noun, what))
    return found


def kinds_that_are(what: str, rules: Iterable[tuple[str, str]]) -> set[str]:
    """Nouns of which a rule says that."""
    return {noun for noun, property_ in rules if property_ == what}


def has_won(state: State, rules: Iterable[tuple[str, str]]) -> bool:
    """Whether something that is you is where something is that is win."""
    you, win = kinds_that_are("you", rules), kinds_that_are("win", rules)
    goals = {thing.place for thing in state.things if thing.kind in win}
    return any(thing.kind in you and thing.place in goals for thing in state.things)


def step(state: State, action: str) -> tuple[State, bool]:
    """The room after an action, and whether it is won."""
    before = rules_of(state.words)
    moved = _moved(state, WAYS[action], before) if action != "idle" else state
    if has_won(moved, before):
        return moved, True
    after = rules_of(moved.words)
    becomes = {noun: what for noun, what in reversed(after) if what in NOUNS and what != noun}  # the first read counts
    if becomes:
        changed = (replace(thing, kind=becomes.get(thing.kind, thing.kind)) for thing in moved.things)
        moved = replace(moved, things=tuple(sorted(changed)))
    return moved, has_won(moved, after)


def _moved(state: State, way: Place, rules: list[tuple[str, str]]) -> State:
    you, stop = kinds_that_are("you", rules), kinds_that_are("stop", rules)
    words = dict(state.words)
    things = list(state.things)
    # Those in front first, so that one does not stand in the other's way.
    ours = sorted(
        (i for i, thing in enumerate(things) if thing.kind in you),
        key=lambda i: -(things[i].place[0] * way[0] + things[i].place[1] * way[1]),
    )
    for i in ours:
        solid = {thing.place for thing in things if thing.kind in stop | you}
        there = _next(things[i].place, way)
        row = []
        while (end := _next(there, way, len(row))) in words:
            row.append(end)
        if not state.is_inside(end) or end in solid or there in solid:
            continue
        for place in reversed(row):
            words[_next(place, way)] = words.pop(place)
        things[i] = replace(things[i], place=there)
    return replace(state, words=frozenset(words.items()), things=tuple(sorted(things)))


def _next(place: Place, way: Place, times: int = 1) -> Place:
    return place[0] + way[0] * times, place[1] + way[1] * times


def solution(state: State, max_states: int = 20_000) -> list[str] | None:
    """The fewest actions that win, by breadth-first search; None where there are none among that many states."""
    paths: dict[State, tuple[State, str] | None] = {state: None}
    waiting = deque([state])
    while waiting and len(paths) < max_states:
        here = waiting.popleft()
        for action in ("up", "right", "down", "left"):
            there, is_won = step(here, action)
            if is_won:
                return [*_path(paths, here), action]
            if there not in paths:
                paths[there] = here, action
                waiting.append(there)
    return None


def _path(paths: dict[State, tuple[State, str] | None], state: State) -> Iterator[str]:
    actions = []
    while (step_before := paths[state]) is not None:
        state, action = step_before
        actions.append(action)
    return reversed(actions)
