"""Crafter: worlds by seed, what the text says against what the world holds, actions by name, sleep."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import subprocess
import sys

import pytest
from crafter import constants, objects

from loop_rl.config.load import parse_config
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.data.rollout import Rollout
from loop_rl.environments.crafter.environment import ACTIONS, DIED, STEP_LIMIT, Episode, progress
from loop_rl.environments.crafter.text import drawing, nearest, observe
from loop_rl.environments.crafter.world import ACHIEVEMENTS, VIEW, make_world
from loop_rl.environments.protocol import TaskError

AREA = 24


def environment(**tasks):
    tree = {"name": "t", "model": {"path": "none"}, "tasks": {"environment": "crafter", "area": AREA} | tasks}
    return make_part(ENVIRONMENT, parse_config(tree | {"evaluation": {"split": "test"}}, "test"))


def play(world, actions: list[str], max_steps: int = 10_000) -> tuple[list, object]:
    async def run():
        episode, steps = Episode(world, max_steps, with_open=True), []
        for action in actions:
            steps.append(await episode.step(action))
            if steps[-1].end:
                break
        return steps, await episode.score()

    return asyncio.run(run())


def wander(seed: int, num_steps: int) -> list[str]:
    rng = random.Random(seed)
    return [rng.choice([*ACTIONS, "move west", "move east", "move north", "do"]) for _ in range(num_steps)]


def trace(seed: int) -> str:
    """All that is said in an episode, shortened to a digest."""
    steps, _ = play(make_world(seed, AREA), wander(seed, 300))
    said = "|".join(f"{step.observation}{step.reward}{step.end}" for step in steps)
    return hashlib.sha256(said.encode()).hexdigest()


def test_the_same_seed_and_actions_do_the_same_in_every_process():
    here = [trace(seed) for seed in (0, 1)]
    assert here == [trace(seed) for seed in (0, 1)] and here[0] != here[1]
    code = "import test_crafter as t; junk = [bytearray(97) for _ in range(999)]; print(t.trace(0), t.trace(1))"
    paths = os.pathsep.join(sys.path)
    again = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{os.path.dirname(__file__)}{os.pathsep}{paths}", "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.split() == here


@pytest.mark.parametrize("seed", range(4))
def test_every_kind_in_view_is_told_where_its_nearest_is(seed):
    world = make_world(seed, AREA)
    rng = random.Random(seed)
    for _ in range(40):
        world.act(ACTIONS[rng.choice(list(ACTIONS))])
        x, y = world.player.pos
        nearest: dict[str, int] = {}
        for column in range(x - VIEW[0] // 2, x + VIEW[0] // 2 + 1):
            for row in range(y - VIEW[1] // 2, y + VIEW[1] // 2 + 1):
                material, thing = world._world[column, row]
                if (column, row) == (x, y) or material is None:
                    continue
                kind = type(thing).__name__.lower() if thing else material
                nearest[kind] = min(nearest.get(kind, 99), abs(column - x) + abs(row - y))
        lines = observe(world, with_open=False).split("\n")
        told = dict(_parsed(line) for line in lines[:-3])
        assert {kind: abs(dx) + abs(dy) for kind, (dx, dy) in told.items()} == nearest
        for kind, (dx, dy) in told.items():
            material, thing = world._world[x + dx, y + dy]
            assert kind == (type(thing).__name__.lower() if thing else material)
        ahead = world._world[x + world.player.facing[0], y + world.player.facing[1]]
        facing = type(ahead[1]).__name__.lower() if ahead[1] else ahead[0] or "the end of the world"
        assert lines[-3] == f"you face {facing}"


def _parsed(line: str) -> tuple[str, tuple[int, int]]:
    words = line.split()
    dx = dy = 0
    while len(words) > 1 and words[-1] in ("north", "south", "east", "west"):
        number, way = int(words[-2]), words[-1]
        dx += number * {"east": 1, "west": -1}.get(way, 0)
        dy += number * {"south": 1, "north": -1}.get(way, 0)
        words = words[:-2]
    return " ".join(words), (dx, dy)


def test_needs_and_things_carried_are_those_of_the_player():
    world = make_world(3, AREA)
    world.player.inventory |= {"health": 3, "drink": 0, "wood": 5, "stone_pickaxe": 1}
    *_, needs, have, still = observe(world, with_open=True).split("\n")
    assert needs == "health 3, food 9, drink 0, energy 9" and have == "you have 5 wood, 1 stone pickaxe"
    assert still.startswith("still to do: collect coal, ") and still.count(",") == len(ACHIEVEMENTS) - 1


def test_the_drawing_shows_what_is_in_view():
    world = make_world(5, AREA)
    rows = [row.split(" ") for row in drawing(world).split("\n")]
    assert [len(row) for row in rows] == [VIEW[0]] * VIEW[1] and rows[VIEW[1] // 2][VIEW[0] // 2] == "@"
    signs = {"grass": ".", "water": "~", "tree": "t", "stone": "#", "cow": "C"}
    for kind, (dx, dy) in nearest(world).items():
        assert rows[dy + VIEW[1] // 2][dx + VIEW[0] // 2] == signs.get(kind, rows[dy + 3][dx + 4])


def test_every_action_of_the_package_has_a_name():
    assert sorted(ACTIONS.values()) == sorted(constants.actions)


def put(world, material: str) -> None:
    """Before the player."""
    dx, dy = world.player.facing
    world._world[world.player.pos[0] + dx, world.player.pos[1] + dy] = material


def test_wood_makes_a_table_and_a_tool_and_each_achievement_is_worth_one():
    world = make_world(5, AREA)
    put(world, "tree")
    steps, score = play(world, ["do"] * 5)
    assert [step.reward for step in steps] == [1, 0, 0, 0, 0] and world.player.inventory["wood"] == 0 + 1
    put(world, "tree")
    play(world, ["do"])
    put(world, "tree")
    play(world, ["do"])
    put(world, "grass")
    steps, score = play(world, ["THINK: now\nACTION: Place Table.", "make wood pickaxe", "jump"])
    assert [round(step.reward, 6) for step in steps] == [1, 1, 0]
    assert [step.executed for step in steps] == ["place table", "make wood pickaxe", "noop"]
    assert [step.valid for step in steps] == [True, True, False]
    assert score.passes == ("collect_wood", "make_wood_pickaxe", "place_table") and not score.success
    assert len(score.passes) + len(score.failures) == len(ACHIEVEMENTS) == 22


def test_sleep_passes_by_itself_and_its_rewards_count():
    world = make_world(6, AREA)
    world.player.inventory["energy"] = 8
    before = world.num_steps
    (step,), score = play(world, ["sleep"])
    assert world.num_steps > before + 10 and step.log[0] == f"slept for {world.num_steps - before - 1} steps"
    assert not world.player.sleeping and "wake_up" in score.passes
    assert step.reward == pytest.approx(1 + (world.player.health - 9) / 10)


def test_death_ends_an_episode_for_good_and_the_step_limit_only_cuts_it():
    world = make_world(7, AREA)
    put(world, "lava")
    way = {(-1, 0): "move west", (1, 0): "move east", (0, -1): "move north", (0, 1): "move south"}
    steps, _ = play(world, [way[tuple(world.player.facing)]])
    assert (steps[-1].end, steps[-1].truncated) == (DIED, False) and steps[-1].reward == pytest.approx(-0.9)
    steps, _ = play(make_world(7, AREA), ["noop"] * 9, max_steps=5)
    assert len(steps) == 5 and (steps[-1].end, steps[-1].truncated) == (STEP_LIMIT, True)


def test_splits_have_worlds_of_their_own_and_progress_is_balrogs():
    world = environment(train_tasks=5, held_out_tasks=4)
    splits = {split: {task.seed for task in world.tasks(split)} for split in world.all_splits()}
    assert [len(seeds) for seeds in splits.values()] == [5, 4, 4] and len(set().union(*splits.values())) == 13
    with pytest.raises(TaskError, match="no split 'x'"):
        world.tasks("x")
    done, missing = list(ACHIEVEMENTS[:11]), list(ACHIEVEMENTS[11:])
    rollouts = [_rollout("a", done, missing), _rollout("b", [], [*done, *missing])]
    found = progress(rollouts)
    assert found["all"]["value"] == pytest.approx(0.25) and found["collect coal"]["value"] == 0.5
    assert len(found) == 1 + 22 and found["wake up"]["value"] == 0  # the same rows, whatever was unlocked


def _rollout(task_id: str, passes: list[str], failures: list[str]) -> Rollout:
    return Rollout("r", 0, 0, task_id, "", {}, "", "died", "terminated", 0, False, passes, failures, [], 0, 0, 0, 0)


def test_a_world_is_not_what_an_episode_before_made_of_it():
    task = environment().tasks("test")[0]
    world = make_world(task.seed, AREA)
    for action in wander(1, 50):
        world.act(ACTIONS[action])
    assert observe(make_world(task.seed, AREA), True) == environment().first_observation(task)
    assert any(isinstance(thing, objects.Player) for thing in world._world.objects)
