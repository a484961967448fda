"""Turns of episodes that are under way, on disk as soon as each is done: rollouts/unfinished/turns-<iteration>.jsonl, a turn a line.

The files of an iteration's rollouts take their place once its number of turns is full.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from loop_rl.data.rollout import Turn
from loop_rl.machine.files import parse_lines
from loop_rl.store.run_dir import RunDir


@dataclass(frozen=True)
class DoneTurn:
    """One turn, and all that has to be known of its episode to train on it."""

    episode: int
    """Number of the episode."""
    task_id: str
    number: int
    """Of the turn in its episode, from 0."""
    turn: Turn
    next_ids: list[int]
    """What the policy reads next; empty where it reads nothing."""
    earlier_reward: float
    """Of the episode's turns before this one."""
    started_at: float
    """Unix time in seconds."""
    duration_s: float
    generation_s: float
    environment_s: float
    end: dict[str, Any] = field(default_factory=dict)
    """Where the episode ended with it: end_reason, ending, score, success, passes and failures of its rollout."""


class TurnJournal:
    """The turns of the iterations that are not full. One process at a time writes."""

    def __init__(self, run: RunDir) -> None:
        self._folder = run.unfinished_rollouts

    def read(self, first: int) -> dict[int, list[DoneTurn]]:
        """By iteration, from this one on; the files of earlier ones, which were left over, are deleted."""
        found = {}
        for path in sorted(self._folder.glob("turns-*.jsonl")):
            iteration = int(path.stem.removeprefix("turns-"))
            if iteration < first:
                path.unlink()
                continue
            data = path.read_bytes()
            if not data.endswith(b"\n"):  # the process was killed while it wrote
                path.write_bytes(data[: data.rfind(b"\n") + 1])
            found[iteration] = parse_lines(path.read_bytes(), _done_turn, path)
        return found

    def append(self, iteration: int, done: DoneTurn) -> None:
        """Raises OSError where the disk is full."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path(iteration).open("a") as file:
            file.write(json.dumps(asdict(done)) + "\n")

    def close(self, iteration: int) -> None:
        """Its turns are elsewhere now."""
        self._path(iteration).unlink(missing_ok=True)

    def _path(self, iteration: int):
        return self._folder / f"turns-{iteration:06d}.jsonl"


def _done_turn(row: dict[str, Any]) -> DoneTurn:
    return DoneTurn(**row | {"turn": Turn(**row["turn"])})


def in_order(turns: Sequence[DoneTurn]) -> dict[int, list[DoneTurn]]:
    """By episode, each in order."""
    found: dict[int, list[DoneTurn]] = {}
    for done in sorted(turns, key=lambda done: (done.episode, done.number)):
        found.setdefault(done.episode, []).append(done)
    return found
