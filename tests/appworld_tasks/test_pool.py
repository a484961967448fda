"""The worker pool against the real engine, and against code that does what agent code should not."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appworld_tasks.pool import Observation, WorkerLost, WorkerPool
from appworld_tasks.processes import EngineError
from appworld_tasks.roots import RootError, prepare_worker_root

pytestmark = pytest.mark.slow(80)

TASK = "train-001-contact-phone_1"
PRINT_PID = "import os\nprint(os.getpid())"
FIRST_NAME = 'print(apis.supervisor.show_profile()["first_name"])'
LIBC = '__import__("ctypes").CDLL(None)'

Run = Callable[[Awaitable], object]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Run a coroutine in the event loop that the module's pool lives in."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def pool(run: Run, appworld_root: Path, appworld_python: Path) -> Iterator[WorkerPool]:
    pool = WorkerPool(appworld_root, appworld_python, num_workers=2, execute_timeout_s=1.0)
    run(pool.__aenter__())
    yield pool
    run(pool.__aexit__(None, None, None))


async def play(pool: WorkerPool, *codes: str, name: str = "test") -> list[Observation]:
    async with pool.world(TASK, name) as world:
        return [await world.execute(code) for code in codes]


async def lose(pool: WorkerPool, code: str) -> WorkerLost:
    """Run code that must cost the world, and check that the pool goes on."""
    with pytest.raises(WorkerLost) as raised:
        await play(pool, code, name="lost")
    assert (await play(pool, "print(1)"))[0].output.strip() == "1"
    return raised.value


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_dead(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still alive: {[pid for pid in pids if alive(pid)]}"
        await asyncio.sleep(0.05)


@contextmanager
def no_process_left() -> Iterator[None]:
    """Everything that the body starts must be gone after it."""
    before = children()
    yield
    assert children() <= before


def children() -> set[int]:
    listing = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return {int(line.split()[0]) for line in listing.stdout.splitlines() if line.split()[1] != "ps"}


def test_names_persist_between_turns_and_completion_is_seen(run: Run, pool: WorkerPool) -> None:
    observations = run(play(pool, "x = 20", "print(x + 1)", FIRST_NAME, "apis.supervisor.complete_task(answer=3)"))
    assert [observation.completed for observation in observations] == [False, False, False, True]
    assert observations[0].output == "Execution successful."
    assert observations[1].output.strip() == "21"
    assert observations[2].output.strip().isalpha()


def test_names_do_not_persist_between_episodes(run: Run, pool: WorkerPool) -> None:
    run(play(pool, "y = 1"))
    run(play(pool, "y = 1"))
    assert "NameError" in run(play(pool, "print(y)"))[0].output


@pytest.mark.parametrize("code", ["x = = 1", "1 / 0", "raise SystemExit", "import subprocess", ""])
def test_ordinary_errors_are_observations(run: Run, pool: WorkerPool, code: str) -> None:
    failed, after = run(play(pool, code, "print(2)"))
    assert failed.output.startswith(("Execution failed. Traceback:", "No code"))
    assert after.output.strip() == "2"


def test_interruptible_endless_loop_is_interrupted(run: Run, pool: WorkerPool) -> None:
    stopped, after = run(play(pool, "while True:\n    pass", "print(2)"))
    assert "timed out after 1 seconds" in stopped.output
    assert after.output.strip() == "2"


def test_loop_inside_c_is_killed(run: Run, pool: WorkerPool) -> None:
    assert run(lose(pool, "import itertools\nsum(itertools.repeat(0))")).reason == "timeout"  # it never ends by itself


def test_loop_that_swallows_the_interrupt_is_killed(run: Run, pool: WorkerPool) -> None:
    code = "while True:\n    try:\n        while True:\n            pass\n    except Exception:\n        pass"
    assert run(lose(pool, code)).reason == "timeout"


@pytest.mark.parametrize("code", ["raise KeyboardInterrupt", "raise BaseException('out')"])
def test_base_exception_costs_the_process(run: Run, pool: WorkerPool, code: str) -> None:
    lost = run(lose(pool, code))
    assert lost.reason == "exited"
    assert "agent code raised" in lost.detail


def test_exit_and_crash_are_told_apart(run: Run, pool: WorkerPool) -> None:
    left = run(lose(pool, f"{LIBC}._exit(3)"))
    assert (left.reason, left.detail) == ("exited", "exit code 3")
    crashed = run(lose(pool, '__import__("ctypes").string_at(0)'))
    assert (crashed.reason, crashed.detail) == ("crashed", "killed by SIGSEGV")


def test_forked_copy_neither_answers_nor_survives(run: Run, pool: WorkerPool) -> None:
    # Both return from this code; the copy first, so that they do not save the databases at the same moment.
    fork = f"pid = {LIBC}.fork()\nif pid:\n    {LIBC}.usleep(300_000)\n    print(pid)"
    observations = run(play(pool, fork, "print(2)", "print(3)"))
    assert [observation.output.strip() for observation in observations[1:]] == ["2", "3"]
    run(until_dead([int(observations[0].output)]))


def test_forked_copy_that_stays_in_agent_code_is_killed_with_the_episode(run: Run, pool: WorkerPool) -> None:
    code = f"pid = {LIBC}.fork()\nwhile pid == 0:\n    {LIBC}.sleep(1000)\nprint(pid)"
    run(until_dead([int(run(play(pool, code))[0].output)]))


def test_detached_process_is_killed_with_the_episode(run: Run, pool: WorkerPool) -> None:
    spawn = 'import os\nprint(os.posix_spawn("/bin/sh", ["sh", "-c", "setsid sleep 1000 & echo $! >&2"], {}))'
    sleep = 'import os\nprint(os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, setsid=True))'

    observations = run(play(pool, sleep, spawn, PRINT_PID))
    run(until_dead([int(observation.output) for observation in observations]))
    assert not subprocess.run(["pgrep", "-x", "-f", "sleep 1000"], capture_output=True, text=True).stdout


def test_output_is_cut_in_the_worker(run: Run, pool: WorkerPool) -> None:
    huge, after = run(play(pool, "print('a' * 50_000_000)", "print(2)", name="huge"))
    assert huge.output.endswith("\n[output truncated: 49800001 characters]")  # print adds a newline
    assert len(huge.output) < 200_100
    assert after.output.strip() == "2"
    log = pool.worker_root / "experiments/outputs/huge/tasks" / TASK / "logs/environment_io.md"
    assert log.stat().st_size < 300_000


def test_what_is_not_text_costs_nothing(run: Run, pool: WorkerPool) -> None:
    printed, typed, after = run(play(pool, "print('\\ud800 \\x00 \\n é')", "print('\ud800')\0", "print(2)"))
    assert printed.output.encode().decode() == printed.output and "é" in printed.output
    assert "Syntax error" in typed.output
    assert after.output.strip() == "2"


def test_memory_is_limited(run: Run, pool: WorkerPool) -> None:
    assert "MemoryError" in run(play(pool, "x = bytearray(10**11)"))[0].output


def test_secrets_of_the_parent_are_not_inherited(
    run: Run, appworld_root: Path, appworld_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    async def environment() -> str:
        async with WorkerPool(appworld_root, appworld_python, 1) as pool:
            return (await play(pool, "import os\nprint(dict(os.environ))"))[0].output

    with no_process_left():
        assert "hf_secret" not in run(environment())


def test_killed_worker_costs_one_episode(run: Run, pool: WorkerPool) -> None:
    async def episodes() -> None:
        async with pool.world(TASK, "bystander") as bystander:
            await bystander.execute("x = 1")
            with pytest.raises(WorkerLost) as lost:
                async with pool.world(TASK, "victim") as world:
                    os.kill(int((await world.execute(PRINT_PID)).output), signal.SIGKILL)
                    await world.execute("print(1)")
            assert (lost.value.reason, lost.value.detail) == ("crashed", "killed by SIGKILL")
            assert (await play(pool, "print(1)", name="next"))[0].output.strip() == "1"
            assert (await bystander.execute("print(x)")).output.strip() == "1"

    run(episodes())


def test_lost_world_stays_lost(run: Run, pool: WorkerPool) -> None:
    async def episode() -> None:
        async with pool.world(TASK, "lost") as world:
            for _ in range(2):
                with pytest.raises(WorkerLost):
                    await world.execute("raise KeyboardInterrupt")

    run(episode())


def test_cancelled_episode_frees_its_worker(run: Run, pool: WorkerPool) -> None:
    async def cancel_both_workers() -> None:
        busy = "import itertools\nsum(itertools.repeat(0))"
        tasks = [asyncio.create_task(play(pool, busy, name=f"cancelled-{k}")) for k in range(4)]
        await asyncio.sleep(0.5)  # two execute, two wait in line
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        await asyncio.gather(*(play(pool, "print(1)", name=f"after-{k}") for k in range(4)))

    run(cancel_both_workers())


def test_parallel_episodes_of_one_task_are_independent(run: Run, pool: WorkerPool) -> None:
    async def episode(k: int) -> str:
        observations = await play(
            pool, f"x = {k}", f"apis.supervisor.complete_task(answer='answer-{k}')", "print(x)", name=f"k{k}"
        )
        return observations[-1].output.strip()

    async def group() -> list[str]:
        return await asyncio.gather(*(episode(k) for k in range(6)))

    assert run(group()) == [str(k) for k in range(6)]
    for k in range(6):
        changes = pool.worker_root / f"experiments/outputs/k{k}/tasks/{TASK}/dbs/supervisor.jsonl"
        assert re.findall(r"answer-\d", changes.read_text()) == [f"answer-{k}"]


def test_many_tasks_share_an_experiment_name(run: Run, pool: WorkerPool) -> None:
    tasks = sorted(path.name for path in (pool.worker_root / "data/tasks").glob("train-*"))[:4]

    async def episode(task_id: str) -> None:
        async with pool.world(task_id, "shared") as world:
            await world.execute("print(1)")

    async def episodes() -> None:
        await asyncio.gather(*(episode(task_id) for task_id in tasks))

    run(episodes())
    for task_id in tasks:
        assert (pool.worker_root / "experiments/outputs/shared/tasks" / task_id / "dbs/supervisor.jsonl").exists()


def test_unknown_task_is_an_error_and_no_endless_loop(run: Run, pool: WorkerPool) -> None:
    async def episode() -> None:
        async with pool.world("nothing_1", "x"):
            pass

    with pytest.raises(WorkerLost, match=r"task nothing_1 does not open: .*doesn't exist"):
        run(episode())


def test_metrics_count_what_happened(run: Run, pool: WorkerPool) -> None:
    before = pool.metrics()
    run(play(pool, "print(1)", "print(2)"))
    run(lose(pool, "raise KeyboardInterrupt"))
    after = pool.metrics()
    changes = {name: after[name] - before[name] for name in after}
    assert (changes["episodes"], changes["executions"], changes["lost_exited"]) == (3, 4, 1)
    assert changes["execute_seconds"] > 0


def test_every_episode_has_a_process_of_its_own_and_the_fork_server_is_restarted(
    run: Run, appworld_root: Path, appworld_python: Path
) -> None:
    async def scenario() -> None:
        async with WorkerPool(appworld_root, appworld_python, 1) as pool:
            pids = [int((await play(pool, PRINT_PID))[0].output) for _ in range(4)]
            assert len(set(pids)) == 4

            parent = "import os\nprint(os.getppid())"
            os.kill(int((await play(pool, parent))[0].output), signal.SIGKILL)
            assert (await play(pool, "print(1)"))[0].output.strip() == "1"
            assert pool.metrics()["server_restarts"] == 1

    with no_process_left():
        run(scenario())


OWNER = """
import sys
from appworld_tasks.pool import WorkerPool
from loop_rl.machine.command import run_async
async def main():
    async with WorkerPool(sys.argv[1], sys.argv[2], 1) as pool, pool.world(sys.argv[3], "owner") as world:
        spawn = 'os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, setsid=True)'
        print((await world.execute(f"import os\\nprint(os.getppid(), os.getpid(), {spawn})")).output, flush=True)
        await world.execute("import itertools\\nsum(itertools.repeat(0))")
run_async(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_owner(appworld_root: Path, appworld_python: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-c", OWNER, str(appworld_root), str(appworld_python), TASK]
    repo = Path(__file__).resolve().parents[2]
    owner = subprocess.Popen(command, cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(pids) == 3
    owner.send_signal(how)
    owner.wait(timeout=10)
    asyncio.run(until_dead(pids))


def test_unusable_roots_and_interpreters_are_named(
    run: Run, tmp_path: Path, appworld_root: Path, appworld_python: Path
) -> None:
    with pytest.raises(RootError, match=r"no AppWorld data here.* generate"):
        WorkerPool(tmp_path, appworld_python, 1)
    with pytest.raises(RootError, match="'memory'"):
        prepare_worker_root(tmp_path / "in-memory")
    with pytest.raises(RootError, match="make setup"):
        WorkerPool(appworld_root, tmp_path / "bin" / "python", 1)
    with pytest.raises(RootError, match=r"not installed here.*make setup"):
        run(WorkerPool(appworld_root, sys.executable, 1).__aenter__())
    with pytest.raises(EngineError, match="does not start"):
        run(WorkerPool(appworld_root, "/bin/false", 1).__aenter__())


def test_worker_root_is_a_copy_without_ground_truth(appworld_root: Path, tmp_path: Path) -> None:
    full = tmp_path / "root"
    subprocess.run(["cp", "-r", appworld_root / "data", tmp_path / "data"], check=True)
    full.mkdir()
    (tmp_path / "data").rename(full / "data")
    (full / "experiments" / "outputs" / "earlier").mkdir(parents=True)

    worker = prepare_worker_root(full)
    copied = {path for path in worker.rglob("*") if "experiments" not in path.parts}
    assert len(copied) > 300
    for path in copied:
        assert path.name not in ("ground_truth", "answer.json", "solution.py", "evaluation.py")
        assert not path.is_symlink()
        assert path.is_dir() or path.stat().st_nlink == 1
    assert (full / "experiments").resolve() == worker / "experiments"
    assert (worker / "experiments/outputs/earlier").is_dir()

    stamp = (worker / "data").stat().st_ino
    assert prepare_worker_root(full) == worker
    assert (worker / "data").stat().st_ino == stamp  # nothing to do
    (full / "data/datasets/train.txt").write_text("changed_1\n")
    prepare_worker_root(full)
    assert (worker / "data/datasets/train.txt").read_text() == "changed_1\n"
