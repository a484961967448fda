"""Demonstrations of BabaIsAI, for a tiny policy: shortest ways to win, mixed with random actions.

    python -m loop_rl.environments.babaisai.demonstrator --rooms goto_win make_win --episodes 300 --out demonstrations.jsonl

A demonstration is a piece of a game of `--turns` turns, laid out as an agent with a memory window reads it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from rich.progress import track

from loop_rl.environments.babaisai.environment import observe, prompt
from loop_rl.environments.babaisai.rooms import ROOMS, make_room
from loop_rl.environments.babaisai.rules import WAYS, solution, step
from loop_rl.environments.games import FIRST_SEED, as_demonstration, pieces_of

_CAREFUL, _CARELESS = 0.05, 0.85
"""Share of random actions, by the two kinds of players, as in BabyAI's demonstrations."""


def game(room: str, seed: int, max_steps: int, carelessness: float, rng: random.Random) -> tuple[list[dict], bool]:
    """A game: its turns, each with what was seen, what was done, and what came of it; and whether it was won."""
    state, turns, plan = make_room(room, seed), [], None
    for _ in range(max_steps):
        if rng.random() < carelessness:
            action, plan = rng.choice(list(WAYS)), None
        else:
            plan = plan or solution(state, max_states=3_000) or [rng.choice(list(WAYS))]
            action, *plan = plan
        seen = observe(state)
        state, is_won = step(state, action)
        turns.append({"seen": seen, "text": action, "output": observe(state)})
        if is_won:
            return turns, True
    return turns, False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, required=True, metavar="ROOM")
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--max-steps", type=int, default=30)
    parser.add_argument("--careless-fraction", type=float, default=0.6, help="of the episodes (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=2, help="of a demonstration (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rng, num_won, pieces = random.Random(args.seed), 0, []
    for number in track(range(args.episodes), "playing"):
        carelessness = _CARELESS if rng.random() < args.careless_fraction else _CAREFUL
        room = args.rooms[number % len(args.rooms)]
        turns, is_won = game(room, FIRST_SEED["demonstrations"] + number, args.max_steps, carelessness, rng)
        num_won += is_won
        pieces += [
            as_demonstration(prompt("compact", piece[0]["seen"]), piece) for piece in pieces_of(turns, args.turns)
        ]
    args.out.write_text("".join(json.dumps(piece) + "\n" for piece in pieces))
    print(f"{args.out}: {len(pieces)} demonstrations, {num_won / args.episodes:.0%} of {args.episodes} games won")
    return 0


if __name__ == "__main__":
    sys.exit(main())
