"""Crafter's engine: the package's world and rules, without its pictures, and the same for the same seed and actions.

The package itself draws an image a step, with random numbers of the world's own at night, and walks through sets of creatures in the
order of their memory addresses, so that only its map repeats.
"""

from __future__ import annotations

import copy
from functools import lru_cache

import crafter
import numpy as np
from crafter import constants, engine

ACHIEVEMENTS: tuple[str, ...] = tuple(constants.achievements)
VIEW = (9, 7)
"""Columns and rows of the world that are seen, the player in the middle."""
_CHUNK = (12, 12)


class World(crafter.Env):
    """One game. `step` takes the name of an action of the package's."""

    def __init__(self, seed: int, area: int) -> None:
        # Instead of the package's own, which loads what it draws with.
        self._seed, self._episode = seed, 0
        self._area, self._view = (area, area), np.array((9, 9))
        self._reward, self._length = True, 0
        self._world = engine.World(self._area, constants.materials, _CHUNK)
        self.reset()

    @property
    def player(self) -> crafter.objects.Player:
        return self._player

    @property
    def grid(self) -> engine.World:
        """What lies where: grid[x, y] is (material, object), both None beyond the edge; y grows southwards."""
        return self._world

    @property
    def num_steps(self) -> int:
        return self._step

    @property
    def unlocked(self) -> set[str]:
        """Achievements."""
        return self._unlocked

    def act(self, action: str) -> tuple[float, bool]:
        """Carry an action out; returns the reward, 1 where it unlocked an achievement and 0.1 for each point of health, and whether the
        player has died."""
        _, reward, died, _ = self.step(constants.actions.index(action))
        return reward, bool(died)

    def _obs(self) -> None:
        return None

    def _sem_view(self) -> None:
        return None

    def _balance_chunk(self, chunk: tuple, objs: set) -> None:
        super()._balance_chunk(chunk, sorted(objs, key=lambda thing: (*map(int, thing.pos), type(thing).__name__)))


def make_world(seed: int, area: int) -> World:
    """A world as it is before the first step."""
    return copy.deepcopy(_generated(seed, area))


@lru_cache(maxsize=512)
def _generated(seed: int, area: int) -> World:
    return World(seed, area)  # a second or more where the area is large
