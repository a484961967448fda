"""What the sampler delivers, in which order, by which policy version, and that stopping it in any way loses nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from served import SECRET, served_config
from test_agent import FaultyEnvironment
from test_chat import TOKENIZERS, make_task

from loop_rl.agents.chat import Chat
from loop_rl.agents.policy import PolicyError
from loop_rl.config.base import ConfigError
from loop_rl.config.parts import load
from loop_rl.data.rollout import EndReason, Rollout, Turn
from loop_rl.environments.protocol import ScoringError
from loop_rl.sampling.curriculum import shuffled_epochs
from loop_rl.sampling.sampler import main, sample
from loop_rl.sampling.sources.groups import Dispatcher, NothingToLearn
from loop_rl.serving.client import PolicyClient
from loop_rl.store import rollouts as rollout_store
from loop_rl.store.rollout_files import read_group, read_rollouts
from loop_rl.store.rollouts import RolloutStore, assigned_groups, read_dropped
from loop_rl.store.run_dir import RunDir
from loop_rl.training.figures import describe_groups, describe_left_out

pytestmark = pytest.mark.slow(100)

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
    run = RunDir.create(served_config(served_model, **tree))
    (run.path / "secret").write_text(SECRET)
    return run


def make_tasks(num_tasks: int) -> list:
    tasks = [make_task(f"instruction {i}") for i in range(num_tasks)]
    for i, task in enumerate(tasks):
        task.task_id, task.family, task.labels = f"s{i}_1", f"s{i}", {}
    return tasks


def make_rollout(job, version: int = 0) -> Rollout:
    turn = Turn([1, 2], [3, 4], [-0.5, -1.0], version, "", "", "")
    return Rollout(
        job.rollout_id, job.group_id, job.iteration, job.task.task_id, job.task.family, {}, "", "no_code", "terminated",
        0.5, False, [], [], [turn], 1.0, 2.0, 0.5, 0.5,
    )  # fmt: skip


def test_no_task_comes_again_before_all_have_been_seen_and_the_seed_fixes_the_order():
    tasks = make_tasks(7)
    order = [shuffled_epochs(tasks, group_id, 5, []).task_id for group_id in range(28)]
    assert all(len(set(order[start : start + 7])) == 7 for start in range(0, 28, 7))
    assert len({tuple(order[start : start + 7]) for start in range(0, 28, 7)}) == 4
    assert order != [shuffled_epochs(tasks, group_id, 6, []).task_id for group_id in range(28)]


def hardest(tasks, group_id, seed, outcomes):
    """A curriculum: whatever was done worst so far, then what was never tried."""
    tried = {outcome.task_id: sum(outcome.rewards) for outcome in outcomes}
    return min(tasks, key=lambda task: tried.get(task.task_id, -1))


def test_a_curriculum_of_ones_own_sees_the_outcomes_and_unknown_ones_are_refused(tmp_path):
    run = make_run(tmp_path, tmp_path, sampler={"curriculum": "test_sampler:hardest", "tasks_per_iteration": 1})
    course = Course(run, make_tasks(3))
    for _ in range(2):
        assert course.rollout_all() == GROUP_SIZE
        course.publish()
    assert [outcome.task_id for outcome in course.dispatcher._store.outcomes.values()] == ["s0_1", "s1_1"]
    for name in ("test_sampler:no_such", "no_such_module:f"):
        with pytest.raises(ConfigError, match=f"sampler.curriculum={name}"):
            load("sampler.curriculum", name)


class Course:
    """A dispatcher whose episodes last as long as the test wants; time passes by its calls only."""

    open: ClassVar[list] = []

    def __init__(self, run: RunDir, tasks: list) -> None:
        self.run, self.version, self.loop = run, 0, asyncio.new_event_loop()
        self.dispatcher = Dispatcher(run, run.config, tasks, lambda: self.version, lambda iteration: nullcontext())
        self.jobs, self.assigning = self.dispatcher.jobs(), self.loop.create_task(self.dispatcher.assign())
        self.asked = self.loop.create_task(anext(self.jobs, None))
        self.started: list = []
        Course.open.append(self)

    def settle(self) -> None:
        """Let everything happen that can."""
        for _ in range(5):
            self.loop.run_until_complete(asyncio.sleep(0))
            while not self._assigned_is_stored():  # another thread writes it
                self.loop.run_until_complete(asyncio.sleep(0.002))
            self.loop.run_until_complete(asyncio.sleep(0))
            while self.asked.done() and self.asked.result() is not None:
                self.started.append(self.asked.result())
                self.asked = self.loop.create_task(anext(self.jobs, None))
                self.loop.run_until_complete(asyncio.sleep(0))

    def _assigned_is_stored(self) -> bool:
        outcomes = self.dispatcher._store.outcomes
        return all(
            self.run.iteration_file(iteration).exists() and outcomes.keys() >= {*assigned_groups(self.run, iteration)}
            for iteration in range(self.dispatcher.num_assigned)
        )

    def start(self) -> list:
        """All jobs that have started since the last call."""
        self.settle()
        started, self.started = self.started, []
        return started

    def finish(self, job, **fields) -> None:
        self.dispatcher.finished(replace(make_rollout(job, self.version), **fields))

    def rollout_all(self) -> int:
        jobs = self.start()
        for job in jobs:
            self.finish(job)
        self.settle()
        return len(jobs)

    def publish(self) -> None:
        self.version += 1
        self.dispatcher.wake()

    def close(self) -> None:
        for task in (self.asked, self.assigning):
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(self.asked, self.assigning, return_exceptions=True))
        self.loop.close()

    def groups(self, iteration: int) -> list[int]:
        self.settle()
        return assigned_groups(self.run, iteration)


def test_on_policy_nothing_starts_before_the_next_version_and_jobs_are_named_after_their_group(tmp_path):
    run = make_run(tmp_path, tmp_path)
    course = Course(run, make_tasks(3))
    jobs = course.start()
    assert [job.rollout_id for job in jobs] == [f"g{g:06d}-k{k}" for g in range(2) for k in range(GROUP_SIZE)]
    assert jobs[4].outputs_name == "served-g000001-k1" and len({job.seed for job in jobs}) == 6
    for job in reversed(jobs[1:]):
        course.finish(job)
        assert not course.start() and not run.iteration_file(0).exists()
    course.finish(jobs[0])
    assert course.groups(0) == [0, 1] and not list(run.unfinished_rollouts.iterdir())
    assert not course.start()
    for group_id in (0, 1):
        group = read_group(run.group_file(group_id))
        assert group.iteration == 0
        assert [r.rollout_id for r in group.rollouts] == [f"g{group_id:06d}-k{k}" for k in range(GROUP_SIZE)]
    course.publish()
    assert course.rollout_all() == 6 and course.groups(1) == [2, 3]
    assert course.asked.result() is None and course.assigning.done()


@pytest.fixture(autouse=True)
def close_courses():
    yield
    while Course.open:
        Course.open.pop().close()


def asynchronous(tmp_path: Path, **sampler) -> RunDir:
    sampler = {"tasks_per_iteration": 1, "rollouts_per_task": 3, "max_staleness": 2} | sampler
    return make_run(tmp_path, tmp_path, sampler=sampler, trainer={"num_iterations": 5})


def test_groups_are_taken_as_they_finish_and_stragglers_carry_over_until_they_must_be_waited_for(tmp_path):
    run = asynchronous(tmp_path)
    course = Course(run, make_tasks(3))
    jobs = course.start()
    assert [job.group_id for job in jobs] == [0] * 3 + [1] * 3 + [2] * 3  # (v + s + 1 - a) G
    straggler = jobs[0]
    for job in jobs[1:6]:
        course.finish(job)
    assert course.groups(0) == [1]
    course.publish()
    for job in jobs[6:]:
        course.finish(job)
    assert course.groups(1) == [2]
    course.publish()
    others = course.start()
    for job in others:
        course.finish(job)
    course.settle()
    assert len(others) == 6 and not run.iteration_file(2).exists()  # group 0, of version 0, must be in iteration 2
    course.finish(straggler)
    assert course.groups(2) == [0]


def test_where_dropping_is_allowed_nothing_is_waited_for_and_what_is_too_old_is_put_aside(tmp_path):
    run = asynchronous(tmp_path, over_stale="drop", max_staleness=1)
    course = Course(run, make_tasks(3))
    jobs = course.start()
    for job in jobs[2:]:
        course.finish(job)  # two of group 0 are not finished
    assert course.groups(0) == [1]
    course.publish()
    for job in (more := course.start()):
        course.finish(job)
    assert course.groups(1) == [2] and len(more) == 3
    course.publish()
    course.settle()
    assert all(job.cut.is_set() for job in jobs[:2]) and not jobs[2].cut.is_set()
    for job in jobs[:2]:
        course.finish(job, end_reason=EndReason.CUT_OFF)
    course.rollout_all()
    assert json.loads(run.iteration_file(2).read_text())["dropped"] == [0]
    assert [r.rollout_id for r in read_dropped(run, 2)] == ["g000000-k2", "g000000-k0", "g000000-k1"]
    assert not list(run.unfinished_rollouts.glob("g000000*"))


def test_once_enough_is_finished_the_rest_is_cut_off_and_its_bias_is_counted(tmp_path):
    run = asynchronous(tmp_path, max_staleness=0, tasks_per_iteration=2, cut_off_at=0.6)
    course = Course(run, make_tasks(3))
    jobs = course.start()
    for job in (jobs[0], jobs[1], jobs[3]):
        course.finish(job, score=1.0)
    course.settle()
    assert not any(job.cut.is_set() for job in jobs)  # 3 of 6
    course.finish(jobs[4], score=1.0)
    course.settle()
    assert [job.rollout_id for job in jobs if job.cut.is_set()] == ["g000000-k2", "g000001-k2"]
    for job in (jobs[2], jobs[5]):
        course.finish(job, end_reason=EndReason.CUT_OFF, turns=make_rollout(job).turns * 3)
    assert course.groups(0) == [0, 1]
    groups = [read_group(run.group_file(g)) for g in (0, 1)]
    assert [(len(group.rollouts), len(group.cut)) for group in groups] == [(2, 1), (2, 1)]
    figures = describe_left_out(groups, [])
    assert figures == {
        "cut/num_rollouts": 2, "cut/action_tokens": 6, "cut/action_tokens_kept": 2, "cut/return": 0.5, "cut/return_kept": 1
    }  # fmt: skip
    assert describe_groups(groups, 0, 4, 0, ())["staleness/0"] == 1


def test_a_cut_waits_until_every_task_has_its_minimum(tmp_path):
    run = asynchronous(tmp_path, max_staleness=0, tasks_per_iteration=2, cut_off_at=0.5, cut_off_min=3)
    course = Course(run, make_tasks(3))
    jobs = course.start()
    for job in jobs[:3]:
        course.finish(job)
    course.settle()
    assert not any(job.cut.is_set() for job in jobs)  # half are finished, but none of the second task
    for job in jobs[3:]:
        course.finish(job)
    assert course.groups(0) == [0, 1]


def test_of_groups_that_earned_the_same_others_are_begun_in_their_place(tmp_path):
    run = asynchronous(tmp_path, max_staleness=0, tasks_per_iteration=1, drop_uniform=True)
    course = Course(run, make_tasks(3))
    for job in course.start():
        course.finish(job)  # all earn 0.5
    jobs = course.start()
    assert {job.group_id for job in jobs} == {1}
    for job, score in zip(jobs, (1.0, 0.5, 0.5), strict=True):
        course.finish(job, score=score)
    assert course.groups(0) == [1] and json.loads(run.iteration_file(0).read_text())["dropped"] == [0]
    assert len(read_dropped(run, 0)) == GROUP_SIZE
    course.publish()
    with pytest.raises(NothingToLearn, match="in 11 groups in a row all rollouts earned the same"):
        for _ in range(20):
            for job in course.start():
                course.finish(job)


def test_a_uniform_group_that_a_killed_process_finished_is_dropped_when_it_is_found(tmp_path):
    run = asynchronous(tmp_path, max_staleness=0, tasks_per_iteration=1, drop_uniform=True)
    course = Course(run, make_tasks(3))
    store = course.dispatcher._store
    for job in course.start():
        store.add(make_rollout(job))  # and then it was killed
    again = Course(run, make_tasks(3))
    assert {job.group_id for job in again.start()} == {1}


def test_a_group_short_of_rollouts_is_used_with_those_it_has_and_one_of_a_single_rollout_is_not(tmp_path):
    run = asynchronous(tmp_path, max_staleness=0, tasks_per_iteration=1)
    course = Course(run, make_tasks(3))
    jobs = course.start()
    course.dispatcher.unscorable(jobs[1], ScoringError("no"))
    for job in (jobs[0], jobs[2]):
        course.finish(job)
    assert course.groups(0) == [0] and len(read_group(run.group_file(0)).rollouts) == 2
    course.publish()
    jobs = course.start()
    for job in jobs[:2]:
        course.dispatcher.unscorable(job, ScoringError("no"))
    course.finish(jobs[2])
    assert course.rollout_all() == 3  # of another group
    assert course.groups(1) == [2] and json.loads(run.iteration_file(1).read_text())["dropped"] == [1]
    course.publish()
    with pytest.raises(ScoringError, match="again and again"):
        for _ in range(10):
            for job in course.start():
                course.dispatcher.unscorable(job, ScoringError("again and again"))


def test_a_store_found_again_goes_on_where_it_was_whenever_its_process_was_killed(tmp_path, monkeypatch):
    run = asynchronous(tmp_path)
    course = Course(run, make_tasks(3))
    jobs = course.start()
    for job in jobs[3:6] + jobs[:2]:
        course.finish(job)
    assert course.groups(0) == [1]
    again = Course(run, make_tasks(3))
    assert again.dispatcher.num_assigned == 1
    assert [job.rollout_id for job in again.start()] == ["g000000-k2", *(f"g000002-k{k}" for k in range(3))]
    assert again.start() == [] and again.dispatcher.num_in_flight == 4

    # Killed after the group's file was written, before the iteration's list; then, before its pieces were removed.
    for job in (jobs[2], *jobs[6:]):
        again.finish(job)
    again.version = 1
    for step in ("write_atomically", "_close"):
        with monkeypatch.context() as patch:
            target = RolloutStore if step == "_close" else rollout_store
            patch.setattr(target, step, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                RolloutStore(run).assign(1, {0: list(RolloutStore(run).unassigned[0].values())}, [])
        store = RolloutStore(run)
        assert store.num_assigned == (1 if step == "write_atomically" else 2)
        assert set(store.unassigned) == ({0, 2} if step == "write_atomically" else {2})
        assert run.group_file(0).exists() == (step == "_close")
        assert all(len(rollouts) == 3 for rollouts in store.unassigned.values())


def test_a_run_of_before_there_were_lists_of_iterations_is_refused(tmp_path):
    run = make_run(tmp_path, tmp_path)
    run.metrics_file.write_text("{}\n")
    with pytest.raises(ConfigError, match="made by an older loop_rl"):
        RolloutStore(run)


def test_a_policy_that_does_not_answer_stops_the_sampler_and_writes_no_rollout(tmp_path):
    run = make_run(tmp_path, tmp_path)
    chat = Chat(TOKENIZERS["chatml"], 64)

    async def try_to() -> None:
        async with PolicyClient(["http://127.0.0.1:9"], chat.end_of_turn_id, run.logs, "", patience_s=0.5) as policy:
            await sample(run, run.config, make_tasks(3), FaultyEnvironment(""), chat, policy)

    with pytest.raises(PolicyError, match="http://127.0.0.1:9"):
        asyncio.run(try_to())
    assert not list(run.path.rglob("*.parquet"))


class SamplerProcess:
    """The sampler as the supervisor starts it; ended when the context is left."""

    def __init__(self, run: RunDir, url: str) -> None:
        command = [sys.executable, "-m", "loop_rl.sampling.sampler", "--run-dir", str(run.path), "--server", url]
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
        sampler.wait_until(run.iteration_file(0).exists)
        # The process before, and this one as it began, may have been waiting too.
        sampler.wait_until(lambda: run.read_status("sampler").get("iteration") == 1)
        sampler.wait_until(lambda: run.read_status("sampler")["phase"] == "waiting for the policy")
        assert not run.group_file(2).exists()
        assert not list(run.unfinished_rollouts.iterdir())
        status = run.read_status("sampler")
        assert (status["done"], status["total"]) == (0, 2 * GROUP_SIZE)

        shutil.copytree(served_model / "v1", run.policy / ".v000001")
        os.replace(run.policy / ".v000001", run.policy_folder(1))
        sampler.wait_until(lambda: len(finished_rollouts_or_none(run)) > 2 * GROUP_SIZE)
        sampler.process.send_signal(signal.SIGTERM)
        status, said = sampler.wait()
        assert status == 130 and said.endswith("stopped; what is finished is kept\n")
        assert len(finished_rollouts(run)) < NUM_GROUPS * GROUP_SIZE  # it did not play to the end what was under way
    before_stop = finished_rollouts(run)

    with SamplerProcess(run, vllm_url) as sampler:
        assert sampler.wait()[0] == 0
    rollouts = finished_rollouts(run)
    for rollout_id, rollout in (before_kill | before_stop).items():
        assert replace(rollouts[rollout_id], iteration=-1) == replace(rollout, iteration=-1)
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
    tmp_path, served_model, vllm_url, monkeypatch, capsys
):
    # What is tested comes after the episode.
    run = make_run(tmp_path, served_model, tasks={"environment": "test_agent:InstantEnvironment", "num_workers": 1})
    run.unfinished_rollouts.mkdir()
    # The second rollout goes to a device that is always full.
    (run.unfinished_rollouts / f".g000000-k1.parquet.{os.getpid()}").symlink_to("/dev/full")
    monkeypatch.setattr("sys.argv", ["sampler", "--run-dir", str(run.path), "--server", vllm_url])
    assert main() == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {run.unfinished_rollouts}/g000000-k1.parquet: ") and error.count("\n") == 1
    assert "No space left on device" in error
    assert os.listdir(run.unfinished_rollouts) == ["g000000-k0.parquet"] and not os.listdir(run.train_rollouts)
