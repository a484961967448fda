"""Scores of real episodes, against AppWorld's own evaluation; and the averages over them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from solutions import solution_code

from appworld_tasks.environment import AppWorldEnvironment
from appworld_tasks.goal_completion import goal_completion, scenario_goal_completion, task_goal_completion
from appworld_tasks.pool import WorkerLost
from appworld_tasks.scoring import Score, ScoringError
from appworld_tasks.splits import TaskInfo, load_split

pytestmark = pytest.mark.slow(90)

Run = Callable[[Awaitable], object]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def environment(run: Run, appworld_root: Path, appworld_python: Path) -> Iterator[AppWorldEnvironment]:
    environment = AppWorldEnvironment(appworld_root, appworld_python, num_workers=2, execute_timeout_s=5.0)
    run(environment.__aenter__())
    yield environment
    run(environment.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def tasks(appworld_root: Path) -> list[TaskInfo]:
    return load_split(appworld_root, "train")


async def play(environment: AppWorldEnvironment, task: TaskInfo, name: str, keep: bool, *codes: str) -> Score:
    async with environment.episode(task, name, keep) as episode:
        for code in codes:
            await episode.execute(code)
        return await episode.score()


def outputs(environment: AppWorldEnvironment, name: str) -> Path:
    return environment.pool.worker_root / "experiments/outputs" / name


def test_solution_scores_one_and_doing_nothing_less(
    run: Run, environment: AppWorldEnvironment, tasks: list[TaskInfo], appworld_root: Path
) -> None:
    task = tasks[0]
    solved = run(play(environment, task, "a", False, solution_code(appworld_root, task.task_id)))
    assert (solved.reward, solved.success, solved.failures) == (1.0, True, ())
    # The same task again in the same scorer process: nothing of the first may be left.
    idle = run(play(environment, task, "b", False))
    assert 0 <= idle.reward < 1 and not idle.success
    assert set(idle.passes + idle.failures) == set(solved.passes)
    assert idle.reward == len(idle.passes) / len(solved.passes)


def test_whole_split_agrees_with_appworld_evaluate(
    run: Run, environment: AppWorldEnvironment, tasks: list[TaskInfo], appworld_root: Path, appworld_python: Path
) -> None:
    async def episode(number: int, task: TaskInfo) -> Score:
        if number == 1:
            return await play(environment, task, "split", True)
        if number == 4:  # solved, and then lost: counts as not solved
            async with environment.episode(task, "split", True) as episode:
                await episode.execute(solution_code(appworld_root, task.task_id))
                with pytest.raises(WorkerLost):
                    await episode.execute("raise KeyboardInterrupt")
                return await episode.score()
        return await play(environment, task, "split", True, solution_code(appworld_root, task.task_id))

    async def split() -> list[Score]:
        return await asyncio.gather(*(episode(number, task) for number, task in enumerate(tasks)))

    scores = run(split())
    assert scores[4] == Score(0.0, False, (), ("worker lost: exited: agent code raised KeyboardInterrupt",))
    successes = {task.task_id: score.success for task, score in zip(tasks, scores, strict=True)}
    assert [task_id for task_id, success in successes.items() if not success] == [tasks[1].task_id, tasks[4].task_id]

    command = [appworld_python.with_name("appworld"), "evaluate", "split", "train", "--root", appworld_root]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    theirs = json.loads((outputs(environment, "split") / "evaluations/train.json").read_text())
    ours = goal_completion(successes, {task.task_id: task.difficulty for task in tasks})["all"]
    assert ours.task.percent == theirs["aggregate"]["task_goal_completion"]
    assert ours.scenario.percent == theirs["aggregate"]["scenario_goal_completion"]
    for task, score in zip(tasks, scores, strict=True):
        individual = theirs["individual"][task.task_id]
        assert score.success == individual["success"]
        if score is not scores[4]:
            assert list(score.passes) == [test["requirement"] for test in individual["passes"]]


def test_outputs_of_training_episodes_are_deleted(
    run: Run, environment: AppWorldEnvironment, tasks: list[TaskInfo]
) -> None:
    run(play(environment, tasks[0], "kept", True))
    run(play(environment, tasks[0], "deleted", False))
    assert (outputs(environment, "kept") / "tasks" / tasks[0].task_id / "dbs").is_dir()
    assert not outputs(environment, "deleted").exists()


def test_lost_episode_scores_zero_and_leaves_nothing(
    run: Run, environment: AppWorldEnvironment, tasks: list[TaskInfo]
) -> None:
    async def episode() -> Score:
        async with environment.episode(tasks[0], "lost", False) as episode:
            with pytest.raises(WorkerLost):
                await episode.execute("raise KeyboardInterrupt")
            return await episode.score()

    assert run(episode()).reward == 0.0
    assert not outputs(environment, "lost").exists()


def test_a_task_that_cannot_be_scored_is_an_error_and_the_scorer_goes_on(
    run: Run, environment: AppWorldEnvironment, tasks: list[TaskInfo]
) -> None:
    with pytest.raises(ScoringError, match="no-such-task"):
        run(environment.scorer.score("no-such-task_1", "never-ran"))
    gone = run(environment.scorer.score(tasks[0].task_id, "never-ran"))
    assert gone.tampered and gone.reward == 0 and gone.failures == ("tampered: its outputs are gone",)
    assert run(play(environment, tasks[0], "after", False)).reward < 1


def test_runs_of_one_name_on_one_root_do_not_see_each_other(
    run: Run, environment: AppWorldEnvironment, tasks: list[TaskInfo], appworld_root: Path, appworld_python: Path
) -> None:
    """Two at once, as of two clones of one run; and the task twice in one of them."""
    solution = solution_code(appworld_root, tasks[0].task_id)

    async def together() -> list[Score]:
        async with AppWorldEnvironment(appworld_root, appworld_python, num_workers=2) as other:
            codes = {environment: ((), (solution,), ()), other: ((solution,), (), (solution,))}
            return await asyncio.gather(
                *(play(e, tasks[0], "same", keep, *c) for e in codes for c in codes[e] for keep in (False, True))
            )

    scores = run(together())
    assert [score.success for score in scores] == [False] * 2 + [True] * 2 + [False] * 2 + [True] * 2 + [False] * 2 + [
        True
    ] * 2
    assert not any(score.tampered for score in scores)
    kept = outputs(environment, "same") / "tasks" / tasks[0].task_id
    assert (kept / "dbs").is_dir() and not list(kept.parents[2].glob("same.*"))


def test_what_a_killed_process_left_is_deleted_by_the_next(
    run: Run, environment: AppWorldEnvironment, appworld_root: Path, appworld_python: Path
) -> None:
    left, in_use = (outputs(environment, f"x.{own}-0") for own in ("gone", environment._own))
    for folder in (left, in_use):
        folder.mkdir()
    (left.parents[1] / "in-use" / "gone").touch()  # nobody holds it

    async def start() -> None:
        async with AppWorldEnvironment(appworld_root, appworld_python, num_workers=1):
            pass

    run(start())
    assert not left.exists() and in_use.exists()
    in_use.rmdir()


def test_names_that_cannot_be_paths_are_refused(
    run: Run, environment: AppWorldEnvironment, tasks: list[TaskInfo]
) -> None:
    for name in ("../up", "in-memory", ""):
        with pytest.raises(ValueError, match="bad experiment name"):
            run(play(environment, tasks[0], name, False))


def test_goal_completion_by_hand() -> None:
    successes = {"a_1": True, "a_2": True, "a_3": True, "b_1": True, "b_2": False, "b_3": True}
    result = goal_completion(successes, {task_id: 1 if task_id < "b" else 3 for task_id in successes})
    assert list(result) == ["all", "1", "3"]
    assert (result["all"].task.percent, result["all"].scenario.percent) == (83.3, 50.0)
    assert (result["1"].task.percent, result["1"].scenario.percent) == (100.0, 100.0)
    assert (result["3"].task.percent, result["3"].scenario.percent) == (66.7, 0.0)
    assert (result["all"].task.num, result["all"].scenario.num) == (6, 2)
    with pytest.raises(ValueError, match="no tasks"):
        task_goal_completion({})


def test_intervals_count_what_is_independent() -> None:
    alike = {f"s{k}_{n}": k < 5 for k in range(10) for n in range(3)}  # scenarios succeed or fail as a whole
    tgc, sgc = task_goal_completion(alike), scenario_goal_completion(alike)
    assert (tgc.low, tgc.high) == pytest.approx((sgc.low, sgc.high))  # 30 tasks say no more than 10 scenarios
    assert (sgc.low, sgc.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # Wilson's interval for 5 of 10
    spread = {f"s{k}_{n}": (k + n) % 2 == 0 for k in range(10) for n in range(3)}
    assert task_goal_completion(spread).high - task_goal_completion(spread).low < tgc.high - tgc.low
    none = task_goal_completion(dict.fromkeys(alike, False))
    assert none.low == 0.0 and 0.2 < none.high < 0.3  # 0 of 10, not the empty interval
