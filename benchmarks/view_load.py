"""How long the viewer takes over many rollouts: python benchmarks/view_load.py [1000 10000 100000] [--rows 1000000]

For each size a run of made-up rollouts is written to a temporary folder (groups of 6, 8 turns, some 1,500 tokens and
6,000 characters each), and `loop_rl view` is started over it as a user does. Times are in seconds, over HTTP:

start    from the command until the address is printed
cold     the first page, asked for at once, while nothing is indexed
filling  the slowest of the pages asked for while the index is made
index    from the command until every file is indexed
warm     the first page; this and what follows is the median of 5
search   a word that every rollout holds, and one that one in a hundred holds
sort     by reward, and page 20 of it; deep is the last page by advantage
size     of the index, in MB

--rows adds an index of as many rows without any files behind it, put straight into SQLite.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loop_rl.config.load import parse_config
from loop_rl.data.rollout import EndReason, Rollout, Turn
from loop_rl.inspection.viewer.index import _INSERT, TRAINING, Index
from loop_rl.store.rollout_files import write_rollouts
from loop_rl.store.run_dir import RunDir

GROUP_SIZE = 6
NUM_TURNS = 8
APPS = ["amazon", "file_system", "gmail", "phone", "simple_note", "splitwise", "spotify", "todoist", "venmo"]
COLUMNS = ["start", "cold", "filling", "index", "warm", "search_all", "search_rare", "sort", "page_20", "deep", "size"]


def make_rollout(group_id: int, k: int, rng: random.Random) -> Rollout:
    words = [f"{rng.choice(APPS)}_{rng.randrange(2000)}" for _ in range(40)]

    def make_turn() -> Turn:
        app = rng.choice(APPS)
        code = "\n".join(f"v{i} = apis.{app}.show_{rng.choice(words)}(page_limit=20)" for i in range(5)) + "\nprint(v0)"
        text = f"I look at {rng.choice(words)} next.\n```python\n{code}\n```"
        observation = json.dumps([{"id": i, "title": rng.choice(words)} for i in range(8)])
        ids = [rng.randrange(150_000) for _ in range(95)]
        logprobs = [-rng.random() for _ in ids]
        return Turn(ids, ids, logprobs, group_id // 40, text, code, observation, [f"GET /{app} {{}}"] * 5)

    reward = rng.randrange(9) / 8
    return Rollout(
        rollout_id=f"g{group_id:06d}-k{k}",
        group_id=group_id,
        iteration=group_id // 40,
        task_id=f"{group_id % 500:07x}_{group_id % 3 + 1}",
        scenario_id=f"{group_id % 500:07x}",
        difficulty=group_id % 3 + 1,
        instruction=f"Do something everyday with {' and '.join(words[:8])}"
        + (" rarely" if rng.random() < 0.01 else ""),
        end_reason=rng.choice(list(EndReason)),
        reward=reward,
        success=reward == 1,
        passes=words[:6],
        failures=words[6:8],
        turns=[make_turn() for _ in range(NUM_TURNS)],
        started_at=1.7e9 + group_id + k,
        duration_s=100 * rng.random(),
        generation_s=10.0,
        environment_s=10.0,
    )


def make_run(folder: Path, num_groups: int) -> RunDir:
    config = {"name": "load", "runs_dir": str(folder), "model": {"path": "models/tiny"}}
    run, rng = RunDir.create(parse_config(config, source="benchmark")), random.Random(0)
    for group_id in range(num_groups):
        write_rollouts(run.group_file(group_id), [make_rollout(group_id, k, rng) for k in range(GROUP_SIZE)])
    return run


def fill_index(run: RunDir, num_rows: int) -> None:
    """Rows that differ, of 30 words each, without files."""
    rng = random.Random(0)
    with closing(Index(run).connect()) as connection:
        for row in range(num_rows):
            group_id, reward = row // GROUP_SIZE, rng.randrange(9) / 8
            rollout_id, task = f"g{group_id:06d}-k{row % GROUP_SIZE}", f"{group_id % 500:07x}"
            values = [
                rollout_id,
                group_id,
                group_id // 40,
                f"{task}_1",
                task,
                group_id % 3 + 1,
                "Do it.",
                rng.choice(list(EndReason)),
                reward,
            ]
            values += [
                reward == 1,
                1.7e9 + row,
                100 * rng.random(),
                8,
                rng.randrange(5000),
                group_id // 40,
                group_id // 40,
            ]
            cursor = connection.execute(f"INSERT {_INSERT}", (0, TRAINING, *values, rollout_id))
            words = " ".join(["apis", *(f"w{rng.randrange(20_000)}" for _ in range(29))]) + (
                " rarely" if row % 100 == 0 else ""
            )
            connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (cursor.lastrowid, words))
        connection.execute("UPDATE rollouts SET advantage = reward - 0.5")
        connection.execute("UPDATE state SET generation = generation + 1")
        connection.commit()


def measure(run: RunDir, num_rollouts: int) -> dict[str, float]:
    """Every figure of COLUMNS, of a viewer started for it."""
    started = time.monotonic()
    command = [sys.executable, "-m", "loop_rl", "view", str(run.path), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as viewer:
        try:
            url = viewer.stdout.readline().split(": ")[1].split()[0]
            figures = {"start": time.monotonic() - started, "cold": seconds(url), "filling": 0.0}
            while "looking" in (progress := status(url)) or "indexing" in progress:
                figures["filling"] = max(figures["filling"], seconds(url))
                time.sleep(0.2)
            figures["index"] = time.monotonic() - started
            for name, query in {
                "warm": "",
                "search_all": "?text=apis",
                "search_rare": "?text=rarely",
                "sort": "?sort=reward",
                "page_20": "?sort=reward&page=20",
                "deep": f"?sort=advantage&page={max(1, num_rollouts // 100)}",
            }.items():
                figures[name] = statistics.median(seconds(url + query) for _ in range(5))
        finally:
            viewer.terminate()
    return figures | {"size": (run.path / ".index.sqlite").stat().st_size / 1e6}


def seconds(url: str) -> float:
    started = time.monotonic()
    with urllib.request.urlopen(url) as response:
        response.read()
    return time.monotonic() - started


def status(url: str) -> str:
    with urllib.request.urlopen(f"{url}status") as response:
        return json.load(response)["progress"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="*", default=[1_000, 10_000, 100_000], help="rollouts")
    parser.add_argument("--rows", type=int, help="an index of as many rows, without files")
    args = parser.parse_args()
    table = Table("rollouts", *COLUMNS)
    for size, with_files in [*((size, True) for size in args.sizes), *([(args.rows, False)] if args.rows else [])]:
        with tempfile.TemporaryDirectory() as folder:
            run = make_run(Path(folder), size // GROUP_SIZE if with_files else 0)
            if not with_files:
                fill_index(run, size)
            figures = measure(run, size)
        table.add_row(f"{size:,}", *(f"{figures[name]:.3g}" for name in COLUMNS))
        Console(width=160).print(table)


if __name__ == "__main__":
    main()
