"""Episodes in the isolated pool against episodes in plain AppWorld.

    python benchmarks/pool.py --root .appworld/builtin --python .venv-appworld/bin/python --episodes 48

An episode is the ground-truth solution of a training task, tasks taking turns, from opening its world to its score. No
LLM is waited for, so this is the most that the environment can do.

plain    AppWorld as its documentation uses it, in one process: a world, the solution, evaluate, close
pool     isolated workers, as many as stated, and half as many scorers; scores by replay
cpu      seconds of CPU per episode, of all processes together; wall: seconds of one episode

The second table is one scorer alone, over the same saved outputs: by replay, and by diff.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from appworld_tasks.environment import AppWorldEnvironment
from appworld_tasks.processes import EngineError
from appworld_tasks.roots import RootError, check_python, check_root
from appworld_tasks.scoring import Scorer
from appworld_tasks.splits import SplitError, TaskInfo, load_split

WORKERS = (1, 4, 16)
PLAIN = """
import json, os, sys, time
from appworld import AppWorld
from appworld.apps.model_lib import CachedDBHandler
def play(task_id, code):
    CachedDBHandler.reset()
    with AppWorld(task_id, "plain") as world:
        world.execute(code)
        assert world.evaluate().success
        return len(world.requester.requests)
episodes = json.load(sys.stdin)
play(*episodes[0])  # imports and caches
started, cpu = time.time(), sum(os.times()[:4])
calls = 0
for episode in episodes:
    calls += play(*episode)
    print(".", file=sys.stderr, flush=True)
print(json.dumps([time.time() - started, sum(os.times()[:4]) - cpu, calls]), flush=True)
os._exit(0)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(".appworld/builtin"), help="AppWorld's data")
    parser.add_argument("--python", type=Path, default=Path(".venv-appworld/bin/python"), help="AppWorld's interpreter")
    parser.add_argument("--episodes", type=int, default=48, help="number of episodes a row")
    args = parser.parse_args()
    try:
        root, python = check_root(args.root), check_python(args.python)
        tasks = load_split(root, "train")
    except (RootError, SplitError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    episodes = [(tasks[n % len(tasks)], _solution(root, tasks[n % len(tasks)])) for n in range(args.episodes)]
    console = Console()
    pools = Table("", "episodes/s", "API calls/s", "wall of one", "cpu of one")
    scoring = Table("scoring of one episode", "wall", "cpu")
    try:
        with Progress(console=console) as progress:
            bar = progress.add_task("playing", total=len(episodes) * (1 + len(WORKERS)) + 2 * len(tasks))
            advance = lambda: progress.advance(bar)  # noqa: E731
            wall, cpu, calls = plain(root, python, episodes, advance)
            pools.add_row("plain", *_figures(wall, cpu, calls, len(episodes), 1))
            for workers in WORKERS:
                wall, cpu = asyncio.run(pooled(root, python, workers, episodes, advance))
                pools.add_row(f"pool of {workers}", *_figures(wall, cpu, calls, len(episodes), workers))
            for kind, (wall, cpu) in asyncio.run(scored(root, python, episodes[: len(tasks)], advance)).items():
                scoring.add_row(kind, f"{wall:.3f} s", f"{cpu:.3f} s")
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print(pools, scoring)
    console.print(f"{len(episodes)} episodes a row, {calls / len(episodes):.1f} API calls each, {os.cpu_count()} cores")
    return 0


def _solution(root: Path, task: TaskInfo) -> str:
    code = (root / "data/tasks" / task.task_id / "ground_truth/compiled_solution.py").read_text()
    return f"{code}\nsolution(apis, requester)"


def _figures(wall: float, cpu: float, calls: int, number: int, at_once: int) -> list[str]:
    one = f"{wall * at_once / number:.2f} s"
    return [f"{number / wall:.2f}", f"{calls / wall:.1f}", one, f"{cpu / number:.2f} s"]


def plain(root: Path, python: Path, episodes: list, advance) -> tuple[float, float, int]:
    """(seconds, CPU seconds, API calls) of all episodes in one process."""
    with tempfile.TemporaryDirectory() as folder:  # of its own: AppWorld writes below its root
        shutil.copytree(root / "data", Path(folder, "data"))
        process = subprocess.Popen(
            [python, "-c", PLAIN],
            cwd=folder,
            env={"APPWORLD_ROOT": folder, "IPYTHONDIR": folder + "/.ipython", "PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.stdin.write(json.dumps([[task.task_id, code] for task, code in episodes]))
        process.stdin.close()
        for line in process.stderr:
            if line == ".\n":
                advance()
        lines = process.stdout.read().splitlines()
        if process.wait() != 0 or not lines:
            raise EngineError("plain AppWorld does not play the solutions of this root")
        wall, cpu, calls = json.loads(lines[-1])
    return wall, cpu, calls


async def pooled(root: Path, python: Path, workers: int, episodes: list, advance) -> tuple[float, float]:
    """(seconds, CPU seconds) of all episodes, as many at once as there are workers."""
    scorers = max(1, workers // 2)
    async with AppWorldEnvironment(root, python, workers, num_scorers=scorers) as environment:

        async def play(number: int, task: TaskInfo, code: str) -> None:
            async with environment.episode(task, f"bench-{number}", keep_outputs=False) as episode:
                await episode.execute(code)
                score = await episode.score()
            assert score.success, (task.task_id, score)

        await play(0, *episodes[0])
        servers = [part._processes._server._process.pid for part in (environment.pool, environment.scorer)]
        started, before = time.monotonic(), _cpu(servers)
        turns = asyncio.Semaphore(workers)

        async def in_turn(number: int) -> None:
            async with turns:
                await play(number, *episodes[number])
            advance()

        await asyncio.gather(*map(in_turn, range(len(episodes))))
        return time.monotonic() - started, _cpu(servers) - before


async def scored(root: Path, python: Path, episodes: list, advance) -> dict[str, tuple[float, float]]:
    """{kind of scoring: (seconds, CPU seconds) of one episode}"""
    found = {}
    async with AppWorldEnvironment(root, python, 1) as environment:
        for number, (task, code) in enumerate(episodes):
            async with environment.episode(task, f"bench-{number}", keep_outputs=True) as episode:
                await episode.execute(code)
                await episode.score()
        outputs = environment.pool.worker_root / "experiments" / "outputs"
    try:
        for kind in ("replay", "diff"):
            async with Scorer(root, python, scoring=kind) as scorer:
                server = [scorer._processes._server._process.pid]
                started, before = time.monotonic(), _cpu(server)
                for number, (task, _) in enumerate(episodes):
                    assert (await scorer.score(task.task_id, f"bench-{number}")).success
                    advance()
                number = len(episodes)
                found[kind] = (time.monotonic() - started) / number, (_cpu(server) - before) / number
    finally:
        for number in range(len(episodes)):
            shutil.rmtree(outputs / f"bench-{number}", ignore_errors=True)
    return found


def _cpu(servers: list[int]) -> float:
    """CPU seconds of fork servers, their living children and those that have ended."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(path.parent.name) in servers:
            ticks += sum(map(int, fields[11:15]))  # its own and its dead children's
        elif int(fields[1]) in servers:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
