"""What the player of a Crafter world sees and has, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loop_rl.environments.crafter.world import World

NEEDS = ("health", "food", "drink", "energy")
"""Of 9 each."""

_SIGNS = {
    "": " ", "player": "@", "grass": ".", "sand": ":", "path": "_", "water": "~", "stone": "#", "tree": "t", "lava": "!",
    "coal": "c", "iron": "i", "diamond": "d", "table": "=", "furnace": "%",
}  # fmt: skip


def observe(world: World, with_open: bool) -> str:
    """The nearest of each kind of thing in view, a line each, the nearest first; what the player faces; its needs and what it carries.

    with_open: name the achievements that are still locked, too.
    """
    seen = [f"{kind} {place(dx, dy)}" for kind, (dx, dy) in nearest(world).items()]
    dx, dy = world.player.facing
    inventory = world.player.inventory
    carried = [f"{amount} {_words(name)}" for name, amount in inventory.items() if amount and name not in NEEDS]
    lines = [
        *seen,
        f"you face {kind_at(world, dx, dy) or 'the end of the world'}",
        ", ".join(f"{need} {inventory[need]}" for need in NEEDS),
        f"you have {', '.join(carried) or 'nothing'}",
    ]
    if with_open:
        still = [_words(name) for name in world.player.achievements if name not in world.unlocked]
        lines.append(f"still to do: {', '.join(still) or 'nothing'}")
    return "\n".join(lines)


def nearest(world: World) -> dict[str, tuple[int, int]]:
    """Steps to the east and to the south of the nearest thing of each kind in view, the nearest kind first."""
    found: dict[str, tuple[int, int]] = {}
    for dx, dy in sorted(_in_view(), key=lambda step: abs(step[0]) + abs(step[1])):
        if (dx, dy) != (0, 0) and (kind := kind_at(world, dx, dy)):
            found.setdefault(kind, (dx, dy))
    return found


def kind_at(world: World, dx: int, dy: int) -> str:
    """The thing so many steps to the east and to the south of the player: a creature or plant, else the ground; empty beyond the edge."""
    x, y = world.player.pos
    material, thing = world.grid[int(x) + dx, int(y) + dy]
    return _name(thing) if thing is not None else material or ""


def place(dx: int, dy: int) -> str:
    """In words, such as "2 north 1 east"."""
    parts = [f"{abs(dy)} {'south' if dy > 0 else 'north'}"] if dy else []
    parts += [f"{abs(dx)} {'east' if dx > 0 else 'west'}"] if dx else []
    return " ".join(parts)


def drawing(world: World) -> str:
    """What is in view for a reader, two characters a cell: the player is @, creatures and plants have capitals."""
    rows: dict[int, list[str]] = {}
    for dx, dy in _in_view():
        kind = kind_at(world, dx, dy) if (dx, dy) != (0, 0) else "player"
        rows.setdefault(dy, []).append(_SIGNS.get(kind, kind[:1].upper()))
    return "\n".join(" ".join(row) for row in rows.values())


def _in_view() -> Iterator[tuple[int, int]]:
    from loop_rl.environments.crafter.world import VIEW

    for dy in range(-(VIEW[1] // 2), VIEW[1] // 2 + 1):
        for dx in range(-(VIEW[0] // 2), VIEW[0] // 2 + 1):
            yield dx, dy


def _name(thing: Any) -> str:
    name = type(thing).__name__.lower()
    return f"ripe {name}" if name == "plant" and thing.ripe else name


def _words(name: str) -> str:
    return name.replace("_", " ")
