"""What agents may do is as in plain AppWorld: the same outputs, byte for byte, and the same scores."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from honest_idioms import IDIOMS, LOGIN
from solutions import solution_code

from appworld_tasks.environment import AppWorldEnvironment
from appworld_tasks.splits import load_split

pytestmark = pytest.mark.slow(110)

# The stock package as its documentation uses it: one process, one world after the other, evaluated at the end.
PLAIN = """
import json, os, sys
from appworld import AppWorld
from appworld.apps.model_lib import CachedDBHandler
task_id, idioms = json.load(sys.stdin)
results = {}
for name, codes in idioms.items():
    # What AppWorld keeps from one world to the next; the second, because a token that was logged out stays so.
    CachedDBHandler.reset()
    for app in ("spotify", "simple_note"):
        getattr(__import__("appworld.apps." + app + ".apis").apps, app).apis.logging_manager.blacklisted_tokens.clear()
    with AppWorld(task_id, "plain", timeout_seconds=30) as world:
        outputs = [world.execute(code) for code in codes]
        completed = world.task_completed()
        tests = world.evaluate()
    passes, failures = ([test["requirement"] for test in found] for found in (tests.passes, tests.failures))
    results[name] = [outputs, completed, passes, failures]
with open(sys.argv[1], "w") as file:
    json.dump(results, file)
    file.flush()
    os._exit(0)
"""


@pytest.fixture(scope="module")
def results(appworld_root: Path, appworld_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    """{idiom: [outputs, completed, passes, failures]} of plain AppWorld, and of the pool with scoring by replay."""
    root = tmp_path_factory.mktemp("plain")
    shutil.copytree(appworld_root / "data", root / "data")
    task = next(
        task
        for task in load_split(root, "train")
        if json.loads((root / "data/tasks" / task.task_id / "ground_truth/answer.json").read_text()) is not None
    )
    given = {"@LOGIN": LOGIN, "@SOLUTION": solution_code(root, task.task_id)}
    idioms = {name: [given.get(code, code) for code in codes] for name, codes in IDIOMS.items()}

    plain = root / "plain.json"
    environment = {"APPWORLD_ROOT": str(root), "IPYTHONDIR": str(root / ".ipython"), "PYTHONHASHSEED": "0"}
    subprocess.run(
        [appworld_python, "-c", PLAIN, plain],
        cwd=root,
        env=environment,
        input=json.dumps([task.task_id, idioms]),
        text=True,
        check=True,
        capture_output=True,
        timeout=300,
    )

    async def in_the_pool() -> dict[str, list]:
        played = {}
        async with AppWorldEnvironment(appworld_root, appworld_python, num_workers=1) as pool:
            for name, codes in idioms.items():
                async with pool.episode(task, "idioms", keep_outputs=False) as episode:
                    observations = [await episode.execute(code) for code in codes]
                    score = await episode.score()
                outputs = [observation.output for observation in observations]
                played[name] = [outputs, observations[-1].completed, list(score.passes), list(score.failures)]
        return played

    return json.loads(plain.read_text()), asyncio.run(in_the_pool())


@pytest.mark.parametrize("name", IDIOMS)
def test_honest_idiom_is_as_in_plain_appworld(results: tuple, name: str) -> None:
    plain, pooled = (result[name] for result in results)
    assert pooled == plain


def test_there_are_enough_idioms_and_some_are_solutions(results: tuple) -> None:
    plain, _ = results
    assert len(IDIOMS) >= 25
    assert [name for name, (*_, failures) in plain.items() if not failures] == [
        "the honest solution",
        "the honest solution after mistakes",
    ]
