"""BabyAI: rooms by seed, what the text says against what the room holds, actions by name, the bot."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_rl.config.base import ConfigError
from loop_rl.config.load import load_config, parse_config
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.environments.babyai import (
    ACTIONS,
    COMPLETED,
    DEFAULT_ACTION,
    LEVELS,
    STEP_LIMIT,
    Settings,
    drawing,
    make_room,
    observe,
    play_bot,
)
from loop_rl.environments.named_actions import parse_action
from loop_rl.environments.protocol import TaskError


def environment(**tasks):
    tree = {"name": "t", "model": {"path": "none"}, "tasks": {"environment": "babyai"} | tasks}
    return make_part(ENVIRONMENT, parse_config(tree | {"evaluation": {"split": "test"}}, "test"))


def play(task, world, actions) -> tuple[list, object]:
    async def run():
        steps = []
        async with world.episode(task, "name", keep_outputs=False) as episode:
            for action in actions:
                steps.append(await episode.step(action))
                if steps[-1].end:
                    break
            return steps, await episode.score()

    return asyncio.run(run())


def test_the_same_seed_is_the_same_room_in_every_process():
    code = (
        "from loop_rl.environments.babyai import *\n"
        "for level in LEVELS:\n"
        "    for seed in (0, 1, 2_000_003):\n"
        "        room = make_room(level, seed, 6, 12)\n"
        "        print(room.mission, room.agent_pos, room.agent_dir, repr(observe(room)))\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout and runs[0].stdout.count("\n") == 3 * len(LEVELS), runs[0].stderr


def test_no_room_is_in_two_splits_and_held_out_rooms_are_not_trained_on():
    world = environment(levels=["goto", "open"], train_tasks=9, held_out_tasks=4)
    splits = {split: world.tasks(split) for split in ("train", "dev", "test")}
    assert {split: len(tasks) for split, tasks in splits.items()} == {"train": 18, "dev": 8, "test": 8}
    rooms = [(task.level, task.seed) for tasks in splits.values() for task in tasks]
    assert len(set(rooms)) == len(rooms) and all(seed < 3_000_000 for _, seed in rooms)  # demonstrations begin there
    assert [task.task_id for task in world.training_tasks()] == [task.task_id for task in splits["train"]]
    assert world.training_tasks()[0].labels == {"level": "goto"}
    with pytest.raises(TaskError, match="no split 'tset'; there are train, dev, test"):
        world.tasks("tset")
    with pytest.raises(ConfigError, match="tasks.train_split: test is none of train, dev"):
        environment(train_split="test")


@pytest.mark.parametrize("level", LEVELS)
def test_the_text_says_where_things_are(level):
    """Against the room's own grid: every thing that is said is there, and what is seen and not said is none."""
    for seed in range(20):
        room = make_room(level, seed, 7, 50)
        ahead, right = room.dir_vec, (-room.dir_vec[1], room.dir_vec[0])
        said = set()
        for line in observe(room).splitlines():
            words = line.split()
            forward = int(words[words.index("forward") - 1]) if "forward" in words else 0
            side = next(
                (int(words[words.index(w) - 1]) * sign for w, sign in (("right", 1), ("left", -1)) if w in words), 0
            )
            place = tuple(room.agent_pos[i] + forward * ahead[i] + side * right[i] for i in (0, 1))
            thing = room.grid.get(*place)
            kind = next(w for w in words if w in ("ball", "box", "key", "door", "wall"))
            assert thing.type == kind and (kind == "wall" or thing.color in words), (line, thing)
            said.add(place)
        for x in range(room.width):
            for y in range(room.height):
                thing = room.grid.get(x, y)
                if thing and thing.type not in ("wall", "door") and room.in_view(x, y) and level != "open":
                    assert (x, y) in said, (thing.type, observe(room))


@given(
    st.sampled_from(ACTIONS),
    st.sampled_from(["", "THINK: I go.\nACTION: ", "ACTION: drop\nno, ACTION:"]),
    st.booleans(),
)
def test_an_action_is_what_follows_the_last_marker_whatever_its_case(action, before, upper):
    text = action.upper() if upper else f"  {action}. "
    assert parse_action(before + text, ACTIONS) == action
    assert parse_action(f"{before}{text}\nafterwards", ACTIONS) == action


@given(st.text(max_size=30))
def test_no_text_breaks_the_parser_and_only_names_are_actions(text):
    assert parse_action(text, ACTIONS) in (*ACTIONS, "")


def test_the_drawing_shows_the_room():
    room = make_room("open", 4, 6, 12)
    rows = [row.ljust(2 * room.width) for row in drawing(room).split("\n")]
    cells = {(x, y): rows[y][2 * x : 2 * x + 2] for x in range(room.width) for y in range(room.height)}
    assert cells[tuple(room.agent_pos)][0] == ">v<^"[room.agent_dir] and cells[0, 0] == "# "
    doors = [(place, cell) for place, cell in cells.items() if cell[0] in "Dd"]
    ((place, cell),) = doors
    assert room.grid.get(*place).type == "door" and cell == f"D{room.grid.get(*place).color[0]}"


def test_an_invalid_action_is_replaced_and_said_to_be():
    world = environment(levels=["goto"], max_steps=3)
    steps, score = play(world.tasks("train")[0], world, ["jump", "turn left", "ACTION: nothing"])
    assert [(step.executed, step.valid) for step in steps] == [
        (DEFAULT_ACTION, False),
        ("turn left", True),
        (DEFAULT_ACTION, False),
    ]
    assert (steps[-1].end, steps[-1].truncated, score.success) == (STEP_LIMIT, True, False)
    assert [step.end for step in steps[:-1]] == ["", ""] and all(step.reward == 0 for step in steps)


@pytest.mark.parametrize("level", LEVELS)
def test_the_bot_solves_what_chance_does_not(level):
    settings, rng = Settings(max_steps=20), random.Random(0)
    solved = []
    for random_share in (0.0, 1.0):
        episodes = [play_bot(level, seed, settings, random_share, rng) for seed in range(20)]
        solved.append(sum(bool(episode and episode["success"]) for episode in episodes))
    assert solved[0] >= 19 and solved[1] <= 10, solved


def test_a_solved_task_is_worth_one_and_ends_completed():
    world, rng = environment(levels=["pickup"], prompt="compact"), random.Random(0)
    task = world.tasks("train")[3]
    bot = play_bot("pickup", task.seed, Settings(), 0.0, rng)
    assert bot["messages"] == world.prompt(task)
    steps, score = play(task, world, [turn["text"] for turn in bot["turns"]])
    assert [step.observation for step in steps] == [turn["output"] for turn in bot["turns"]]
    assert (steps[-1].reward, steps[-1].end, steps[-1].truncated) == (1.0, COMPLETED, False)
    assert (score.reward, score.success) == (0.0, True)


def test_a_missing_package_is_one_line_that_says_what_to_do(tmp_path):
    (tmp_path / "minigrid.py").write_text("raise ModuleNotFoundError(\"No module named 'minigrid'\", name='minigrid')")
    code = "import sys; sys.argv[1:] = ['--config', 'configs/babyai.yaml']; from loop_rl.launch import main; sys.exit(main())"
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 1 and done.stderr == "error: tasks.environment=babyai needs minigrid; run `make setup`\n"


def test_the_shipped_config_asks_for_what_there_is():
    world = make_part(ENVIRONMENT, load_config("configs/babyai.yaml"))
    assert len(world.tasks("test")) == 3 * 32 and world.settings.max_steps < 20
