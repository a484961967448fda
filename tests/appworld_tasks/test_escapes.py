"""Escapes that agent code tries (tests/support/escapes.py): none gains a reward, touches the next episode or ends the run.

All are played by one pool with one worker, each followed by an honest episode of the same task; every fourth of these is scored.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest
from escapes import ATTEMPTS, PREAMBLE, Attempt, table
from solutions import solution_code

from appworld_tasks.environment import AppWorldEnvironment
from appworld_tasks.pool import WorkerLost
from appworld_tasks.scoring import Score
from appworld_tasks.splits import load_split

pytestmark = pytest.mark.slow(350)

Run = Callable[[Coroutine], object]
SECURITY = Path(__file__).resolve().parents[2] / "docs" / "security.md"
LISTENER = "\0escape-listener"
OUTPUTS = "@OUTPUTS@"  # only the episode knows where they are


class Stage:
    """The pool, the task that all attempts are made in, and what an honest episode of it looks like."""

    def __init__(self, run: Run, root: Path, environment: AppWorldEnvironment, port: int) -> None:
        self.run, self.root, self.environment, self.port = run, root, environment, port
        folders = {
            task.task_id: root / "data/tasks" / task.task_id / "ground_truth" for task in load_split(root, "train")
        }
        self.task = next(
            task
            for task in load_split(root, "train")
            if json.loads((folders[task.task_id] / "answer.json").read_text()) is not None
        )
        self.truth = folders[self.task.task_id]
        self.solution = solution_code(root, self.task.task_id)
        self.num_attempts = 0
        self.honest_outputs, honest = run(self.play(self.honest_codes()))
        assert honest.success, (honest, self.honest_outputs)
        _, idle = run(self.play([]))
        self.idle_reward = idle.reward
        self.before = self.leftovers()

    def honest_codes(self) -> list[str]:
        look = "print(apis.supervisor.show_profile(), DateTime.now(), random.random(), len('four'))"
        return [look, self.solution, "print('done')"]

    def names(self) -> str:
        """What agent code may know, or guess, of the outside."""
        worker_root = self.environment.pool.worker_root
        values = {
            "TASK_ID": self.task.task_id,
            "ANSWER": (self.truth / "answer.json").read_text(),
            "FULL_ROOT": str(self.root),
            "WORKER_ROOT": str(worker_root),
            "OUTPUTS": OUTPUTS,
            "ANSWER_FILE": str(self.truth / "answer.json"),
            "SAMPLER": os.getpid(),
            "PORT": self.port,
        }
        return "\n".join(f"{name} = {value!r}" for name, value in values.items())

    async def play(self, codes: list[str], is_scored: bool = True) -> tuple[list[str], Score | None]:
        outputs = []
        async with self.environment.episode(self.task, "attempt", keep_outputs=False) as episode:
            try:
                for code in codes:
                    code = code.replace(OUTPUTS, str(episode.outputs))
                    outputs.append((await episode.execute(code)).output)
            except WorkerLost as lost:
                outputs.append(str(lost))
            return outputs, await episode.score() if is_scored else None

    def leftovers(self) -> dict[str, object]:
        """What an attempt could leave behind, but for the one worker and the one scorer that come and go."""
        servers = [part._processes._server._process.pid for part in (self.environment.pool, self.environment.scorer)]
        children = Counter(parent for parent in parents().values() if parent in servers)
        worker_root = self.environment.pool.worker_root
        places = [Path("/tmp"), Path("/dev/shm"), Path("/var/tmp"), worker_root, Path.cwd(), self.truth]
        files = {str(path) for place in places for path in place.glob("escape-*")}
        stray = [path for path in worker_root.rglob("*") if path.name.startswith("escape-") or path.is_symlink()]
        truth = {path.name: path.stat().st_mtime_ns for path in self.truth.iterdir()}
        files |= {line for line in Path("/proc/keys").read_text().splitlines() if "escape-" in line}
        mounts = [line.split()[4] for line in Path(f"/proc/{servers[0]}/mountinfo").read_text().splitlines()]
        mounts = [place for place in mounts if not re.fullmatch(r"/workers/\d+", place)]
        return {
            "servers": servers,
            "children": all(count <= 1 for count in children.values()),
            "files": files | {str(path) for path in stray},
            "truth": truth,
            "mounts": mounts,
            "restarts": self.environment.metrics()["server_restarts"],
        }


def parents() -> dict[int, int]:
    """{pid: pid of its parent}"""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def stage(appworld_root: Path, appworld_python: Path) -> Iterator[Stage]:
    environment = AppWorldEnvironment(appworld_root, appworld_python, num_workers=1, execute_timeout_s=5.0)
    with (
        asyncio.Runner() as runner,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        abstract.bind(LISTENER)
        abstract.listen()
        datagrams.bind(listener.getsockname())
        runner.run(environment.__aenter__())
        yield Stage(runner.run, appworld_root, environment, listener.getsockname()[1])
        for open_socket in (listener, abstract, datagrams):
            open_socket.settimeout(0.1)
            with pytest.raises(TimeoutError):  # nobody has come through
                open_socket.recv(1) if open_socket is datagrams else open_socket.accept()
        runner.run(environment.__aexit__(None, None, None))


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=[attempt.name for attempt in ATTEMPTS])
def test_escape_ends_in_nothing(stage: Stage, attempt: Attempt) -> None:
    why_not = stage.environment.pool.protections.get(attempt.needs)
    if why_not:
        pytest.skip(f"not to be tried here, {attempt.needs!r} is not enforced: {why_not}")
    codes = [stage.solution] * attempt.after_work + [stage.names() + PREAMBLE + attempt.code, "print(1)"]
    outputs, score = stage.run(stage.play(codes))
    if not attempt.after_work:
        assert score.reward <= stage.idle_reward and not score.success, outputs

    stage.num_attempts += 1
    next_outputs, next_score = stage.run(stage.play(stage.honest_codes(), is_scored=stage.num_attempts % 4 == 0))
    assert next_outputs == stage.honest_outputs
    assert next_score is None or next_score.success, next_score
    assert stage.leftovers() == stage.before


def test_the_table_of_attempts_is_the_one_in_the_documentation() -> None:
    assert len({attempt.name for attempt in ATTEMPTS}) == len(ATTEMPTS) >= 40
    assert table() in SECURITY.read_text(), "put the output of `python tests/support/escapes.py` into docs/security.md"
