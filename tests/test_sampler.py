"""What the sampler delivers, in which order, by which policy version, and that stopping it in any way loses nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from served import served_config
from test_agent import FaultyEnvironment
from test_chat import TOKENIZERS, make_task

from loop_rl.chat import Chat
from loop_rl.policy import PolicyClient, PolicyError
from loop_rl.rollout import EndReason, Rollout, Turn, read_group, read_rollouts
from loop_rl.run_dir import RunDir
from loop_rl.sampler import RolloutStore, Schedule, main, sample_run

NUM_GROUPS, GROUP_SIZE = 4, 3  # of the runs below: 2 iterations of 2 groups

PATIENCE_S = 240  # a loaded machine takes its time to start AppWorld


def make_run(tmp_path: Path, served_model: Path, **sections) -> RunDir:
    tree = {
        "runs_dir": str(tmp_path / "runs"),
        "sampler": {"tasks_per_iteration": 2, "rollouts_per_task": GROUP_SIZE, "max_staleness": 0},
        "trainer": {"num_iterations": 2},
        "tasks": {"num_workers": 2},
    }
    for name, settings in sections.items():
        tree[name] = tree.get(name, {}) | settings
    return RunDir.create(served_config(served_model, **tree))


def make_tasks(num_tasks: int) -> list:
    tasks = [make_task(f"instruction {i}") for i in range(num_tasks)]
    for i, task in enumerate(tasks):
        task.task_id, task.scenario_id, task.difficulty = f"s{i}_1", f"s{i}", 1
    return tasks


def make_rollout(job) -> Rollout:
    turn = Turn([1, 2], [3, 4], [-0.5, -1.0], 0, "", "", "")
    return Rollout(
        job.rollout_id, job.group_id, job.iteration, job.task.task_id, job.task.scenario_id, 1, "", EndReason.NO_CODE,
        0.5, False, [], [], [turn], 1.0, 2.0, 0.5, 0.5,
    )  # fmt: skip


def test_no_task_comes_again_before_all_have_been_seen_and_the_seed_fixes_the_order(tmp_path):
    config = served_config(tmp_path, sampler={"tasks_per_iteration": 3}, trainer={"num_iterations": 10})
    tasks = make_tasks(7)
    order = [Schedule(config, tasks).task(g).task_id for g in range(28)]
    assert all(len(set(order[start : start + 7])) == 7 for start in range(0, 28, 7))
    assert len({tuple(order[start : start + 7]) for start in range(0, 28, 7)}) == 4
    assert order == [Schedule(config, tasks[::-1]).task(g).task_id for g in range(28)]
    other = config.model_copy(update={"seed": 6})
    assert order != [Schedule(other, tasks).task(g).task_id for g in range(28)]


def test_a_job_is_named_after_its_place_in_the_schedule(tmp_path):
    config = served_config(tmp_path, sampler={"tasks_per_iteration": 5})
    schedule = Schedule(config, make_tasks(7))
    job = schedule.job(12, 3)
    assert (job.rollout_id, job.experiment_name, job.iteration) == ("g000012-k3", "served-g000012-k3", 2)
    assert len({schedule.job(g, k).seed for g in range(9) for k in range(6)}) == 54


def test_a_store_found_again_knows_what_is_missing(tmp_path):
    run = make_run(tmp_path, tmp_path)
    schedule = Schedule(run.config, make_tasks(3))
    store = RolloutStore(run, schedule)
    jobs = list(store.missing_jobs())
    assert [job.rollout_id for job in jobs[:4]] == ["g000000-k0", "g000000-k1", "g000000-k2", "g000001-k0"]
    for job in (jobs[2], jobs[0], jobs[4], jobs[1]):  # in any order
        store.add(make_rollout(job))
    assert [r.rollout_id for r in read_group(run.group_file(0)).rollouts] == ["g000000-k0", "g000000-k1", "g000000-k2"]
    assert [path.name for path in run.unfinished_rollouts.iterdir()] == ["g000001-k1.parquet"]

    again = RolloutStore(run, schedule)
    assert [job.rollout_id for job in again.missing_jobs()] == [job.rollout_id for job in (jobs[3], *jobs[5:])]
    assert (again.num_finished_groups, again.first_unfinished_iteration(), again.num_rollouts(0)) == (1, 0, 4)


def test_a_process_killed_between_any_two_steps_of_finishing_a_group_loses_nothing(tmp_path, monkeypatch):
    run = make_run(tmp_path, tmp_path)
    schedule = Schedule(run.config, make_tasks(3))
    store = RolloutStore(run, schedule)
    for k in range(GROUP_SIZE - 1):
        store.add(make_rollout(schedule.job(0, k)))

    with monkeypatch.context() as patch:  # killed before the group is written
        patch.setattr(RolloutStore, "_finish_if_whole", lambda *_: None)
        store.add(make_rollout(schedule.job(0, GROUP_SIZE - 1)))
    assert len(list(run.unfinished_rollouts.iterdir())) == GROUP_SIZE and not run.group_file(0).exists()
    pieces = {path: path.read_bytes() for path in run.unfinished_rollouts.iterdir()}
    assert RolloutStore(run, schedule).num_finished_groups == 1
    assert run.group_file(0).exists() and not list(run.unfinished_rollouts.iterdir())

    for path, content in pieces.items():  # killed before the pieces are removed
        path.write_bytes(content)
    assert RolloutStore(run, schedule).num_finished_groups == 1
    assert not list(run.unfinished_rollouts.iterdir())


def test_a_policy_that_does_not_answer_stops_the_sampler_and_writes_no_rollout(tmp_path):
    run = make_run(tmp_path, tmp_path)
    chat = Chat(TOKENIZERS["chatml"], "compact", 64)

    async def sample() -> None:
        async with PolicyClient(["http://127.0.0.1:9"], chat.end_of_turn_id, run.logs) as policy:
            await sample_run(run, run.config, make_tasks(3), FaultyEnvironment(""), chat, policy)

    with pytest.raises(PolicyError, match="does not answer"):
        asyncio.run(sample())
    assert not list(run.path.rglob("*.parquet"))


class SamplerProcess:
    """The sampler as the supervisor starts it; ended when the context is left."""

    def __init__(self, run: RunDir, url: str) -> None:
        command = [sys.executable, "-m", "loop_rl.sampler", "--run-dir", str(run.path), "--server", url]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> SamplerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self) -> tuple[int, str]:
        """Exit status and what it said."""
        _, stderr = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, stderr

    def wait_until(self, condition) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                pytest.fail(f"the sampler did not get there; it said: {self.process.communicate()[1]}")
            time.sleep(0.02)


@pytest.fixture
def real_tasks(appworld_root, appworld_python) -> dict:
    return {"root": str(appworld_root), "python": str(appworld_python)}


def finished_rollouts(run: RunDir) -> dict[str, Rollout]:
    folders = (run.train_rollouts, run.unfinished_rollouts)
    files = [path for folder in folders for path in folder.glob("*.parquet")]
    return {rollout.rollout_id: rollout for path in files for rollout in read_rollouts(path)}


def test_a_run_on_real_tasks_survives_being_killed_and_stopped(tmp_path, served_model, vllm_url, real_tasks):
    run = make_run(tmp_path, served_model, tasks=real_tasks | {"num_workers": 2})

    with SamplerProcess(run, vllm_url) as sampler:
        sampler.wait_until(lambda: len(finished_rollouts_or_none(run)) >= 2)
    before_kill = finished_rollouts(run)
    assert 2 <= len(before_kill) < NUM_GROUPS * GROUP_SIZE

    # Iteration 1 waits for the policy that the trainer makes of iteration 0.
    with SamplerProcess(run, vllm_url) as sampler:
        sampler.wait_until(lambda: all(run.group_file(g).exists() for g in (0, 1)))
        sampler.wait_until(lambda: run.read_status("sampler").get("phase") == "waiting for the policy")
        assert not run.group_file(2).exists()
        assert not list(run.unfinished_rollouts.iterdir())
        status = run.read_status("sampler")
        assert (status["iteration"], status["groups_finished"]) == (1, 2)
        assert (status["done"], status["total"]) == (0, 2 * GROUP_SIZE)

        shutil.copytree(served_model / "v1", run.policy / ".v000001")
        os.replace(run.policy / ".v000001", run.adapter(1))
        sampler.wait_until(lambda: len(finished_rollouts_or_none(run)) > 2 * GROUP_SIZE)
        stopped_at = time.monotonic()
        sampler.process.send_signal(signal.SIGTERM)
        status, said = sampler.wait()
        assert status == 130 and said.endswith("stopped; what is finished is kept\n")
        assert time.monotonic() - stopped_at < 5
    before_stop = finished_rollouts(run)

    with SamplerProcess(run, vllm_url) as sampler:
        assert sampler.wait()[0] == 0
    rollouts = finished_rollouts(run)
    assert rollouts.items() >= (before_kill | before_stop).items()
    assert sorted(rollouts) == [f"g{g:06d}-k{k}" for g in range(NUM_GROUPS) for k in range(GROUP_SIZE)]
    assert not list(run.unfinished_rollouts.iterdir())
    for g in range(NUM_GROUPS):
        group = read_group(run.group_file(g))
        assert (group.group_id, group.iteration) == (g, g // 2)
        assert len({rollout.task_id for rollout in group.rollouts}) == 1
        assert {version for rollout in group.rollouts for version in rollout.policy_versions} == {g // 2}
        assert all(rollout.passes or rollout.failures for rollout in group.rollouts)
    assert len({read_group(run.group_file(g)).rollouts[0].task_id for g in range(NUM_GROUPS)}) == NUM_GROUPS


def finished_rollouts_or_none(run: RunDir) -> dict[str, Rollout]:
    """While the sampler works, a piece can go between being listed and being read."""
    try:
        return finished_rollouts(run)
    except ValueError:
        return {}


def test_a_full_disk_ends_the_run_with_one_line_and_leaves_no_half_file(
    tmp_path, served_model, vllm_url, real_tasks, monkeypatch, capsys
):
    @asynccontextmanager
    async def instant_environment(*args, **kwargs):  # what is tested comes after the episode
        yield FaultyEnvironment("")

    run = make_run(tmp_path, served_model, tasks=real_tasks | {"num_workers": 1})
    run.unfinished_rollouts.mkdir()
    # The second rollout goes to a device that is always full.
    (run.unfinished_rollouts / f".g000000-k1.parquet.{os.getpid()}").symlink_to("/dev/full")
    monkeypatch.setattr("loop_rl.sampler.make_environment", instant_environment)
    monkeypatch.setattr("sys.argv", ["sampler", "--run-dir", str(run.path), "--server", vllm_url])
    assert main() == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {run.unfinished_rollouts}/g000000-k1.parquet: ") and error.count("\n") == 1
    assert "No space left on device" in error
    assert os.listdir(run.unfinished_rollouts) == ["g000000-k0.parquet"] and not os.listdir(run.train_rollouts)
