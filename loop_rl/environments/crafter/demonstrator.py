"""A scripted player of Crafter, for demonstrations: it looks after itself, gathers wood and stone, and makes what it can of them.

    python -m loop_rl.environments.crafter.demonstrator play --episodes 20 --area 32 --max-steps 200
    python -m loop_rl.environments.crafter.demonstrator demonstrations --episodes 300 --careless-fraction 0.7 --out demonstrations.jsonl

It sees what the text tells and no more. A demonstration is a piece of its game of `--turns` turns, laid out as an agent with a memory
window reads it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections import deque
from pathlib import Path

from loop_rl.environments.crafter.environment import ACTIONS, Episode, prompt
from loop_rl.environments.crafter.text import kind_at, nearest, observe
from loop_rl.environments.crafter.world import VIEW, World, make_world
from loop_rl.environments.games import FIRST_SEED, as_demonstration, pieces_of

_WAYS = {"move west": (-1, 0), "move east": (1, 0), "move north": (0, -1), "move south": (0, 1)}
_WALKABLE = ("grass", "sand", "path")
_CAREFUL, _CARELESS = 0.05, 0.8
"""Share of random actions, by the two kinds of players, as in BabyAI's demonstrations."""


class Player:
    """Chooses actions; remembers only which way it was going."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._heading = rng.choice(list(_WAYS))

    def choose(self, world: World) -> str:
        """What to do now."""
        have, done, near = world.player.inventory, world.unlocked, nearest(world)
        has_table = "table" in near and max(map(abs, near["table"])) <= 1
        if have["energy"] < 4 and "zombie" not in near:
            return "sleep"
        if have["drink"] < 5 and "water" in near:
            return self._towards(world, near["water"])
        if have["food"] < 6 and "cow" in near:
            return self._towards(world, near["cow"])
        if "zombie" in near and sum(map(abs, near["zombie"])) <= 2:
            return self._towards(world, near["zombie"])
        for material in ("wood", "stone"):
            for tool in ("pickaxe", "sword"):
                enough = have["wood"] and (material == "wood" or have["stone"])
                if has_table and enough and not have[f"{material}_{tool}"]:
                    return f"make {material} {tool}"
        facing = kind_at(world, *world.player.facing)
        if have["sapling"] and facing == "grass":
            return "place plant"
        if "collect_sapling" not in done and facing == "grass" and self._rng.random() < 0.5:
            return "do"
        if have["stone"] > 2 and "place_stone" not in done and facing in _WALKABLE:
            return "place stone"
        if "table" not in near and have["wood"] >= 4 and facing in _WALKABLE:
            return "place table"
        wanted = ["diamond"] if have["iron_pickaxe"] else []
        wanted += ["iron"] if have["stone_pickaxe"] else []
        wanted += ["coal", "stone"] if have["wood_pickaxe"] and have["stone"] < 5 else []
        wanted += ["tree"] if have["wood"] < 6 else []
        wanted += (
            ["table"] if have["wood"] and not has_table and not (have["stone_pickaxe"] and have["stone_sword"]) else []
        )
        for kind in wanted:
            if kind in near:
                return self._towards(world, near[kind])
        return self._wander(world)

    def _towards(self, world: World, where: tuple[int, int]) -> str:
        """The first step of a shortest way to a thing in view; strikes it once it is faced."""
        if where == tuple(world.player.facing):
            return "do"
        columns, rows = VIEW[0] // 2, VIEW[1] // 2
        first: dict[tuple[int, int], str] = {(0, 0): ""}
        ways = deque([(0, 0)])
        while ways:
            place = ways.popleft()
            for name, (dx, dy) in _WAYS.items():
                there = place[0] + dx, place[1] + dy
                if there == where:
                    return first[place] or name
                inside = abs(there[0]) <= columns and abs(there[1]) <= rows
                if inside and there not in first and kind_at(world, *there) in _WALKABLE:
                    first[there] = first[place] or name
                    ways.append(there)
        return self._wander(world)

    def _wander(self, world: World) -> str:
        if kind_at(world, *_WAYS[self._heading]) not in _WALKABLE or self._rng.random() < 0.05:
            free = [name for name, step in _WAYS.items() if kind_at(world, *step) in _WALKABLE]
            self._heading = self._rng.choice(free or list(_WAYS))
        return self._heading


async def game(
    seed: int, area: int, max_steps: int, carelessness: float, rng: random.Random
) -> tuple[list[dict], list[str]]:
    """A game: its turns, each with what was seen, what was done, and what came of it; and the achievements that it unlocked."""
    world, player = make_world(seed, area), Player(rng)
    episode, seen, turns = Episode(world, max_steps, with_open=False), observe(world, with_open=False), []
    while True:
        wise = player.choose(world)
        action = rng.choice(list(ACTIONS)) if rng.random() < carelessness else wise
        step = await episode.step(action)
        turns.append({"seen": seen, "text": action, "output": step.observation, "reward": step.reward})
        seen = step.observation
        if step.end:
            return turns, list((await episode.score()).passes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, what in (("play", "say how it plays"), ("demonstrations", "write pieces of games, one a line")):
        command = commands.add_parser(name, help=what)
        command.set_defaults(command=name)
        command.add_argument("--episodes", type=int, default=20)
        command.add_argument(
            "--area", type=int, default=32, help="cells along a side of the world (default: %(default)s)"
        )
        command.add_argument("--max-steps", type=int, default=200)
        command.add_argument(
            "--careless-fraction", type=float, default=0.0, help="of the episodes (default: %(default)s)"
        )
        command.add_argument("--seed", type=int, default=0)
        if name == "demonstrations":
            command.add_argument("--turns", type=int, default=2, help="of a demonstration (default: %(default)s)")
            command.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    import asyncio

    rng, progress, returns, pieces = random.Random(args.seed), [], [], []
    for number in range(args.episodes):
        carelessness = _CARELESS if rng.random() < args.careless_fraction else _CAREFUL
        turns, done = asyncio.run(
            game(FIRST_SEED["demonstrations"] + number, args.area, args.max_steps, carelessness, rng)
        )
        progress.append(len(done) / 22)
        returns.append(sum(turn["reward"] for turn in turns))
        if args.command == "demonstrations":
            pieces += [
                as_demonstration(prompt("compact", piece[0]["seen"]), piece) for piece in pieces_of(turns, args.turns)
            ]
    if args.command == "demonstrations":
        args.out.write_text("".join(json.dumps(piece) + "\n" for piece in pieces))
        print(f"{args.out}: {len(pieces)} demonstrations")
    print(
        f"{args.episodes} games: progress {100 * statistics.fmean(progress):.1f}%, return {statistics.fmean(returns):.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
