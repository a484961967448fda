"""Scoring by replay: honest episodes score as AppWorld scores them, and nothing but API calls gains a reward."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from solutions import solution_code

from appworld_tasks.environment import AppWorldEnvironment
from appworld_tasks.scoring import Score, Scorer
from appworld_tasks.splits import TaskInfo, load_split

pytestmark = pytest.mark.slow(110)

Run = Callable[[Awaitable], object]
DONE = "apis.supervisor.complete_task()"


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def environment(run: Run, appworld_root: Path, appworld_python: Path) -> Iterator[AppWorldEnvironment]:
    environment = AppWorldEnvironment(appworld_root, appworld_python, num_workers=2)
    run(environment.__aenter__())
    yield environment
    run(environment.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def diff_scorer(run: Run, appworld_root: Path, appworld_python: Path) -> Iterator[Scorer]:
    scorer = Scorer(appworld_root, appworld_python, scoring="diff")
    run(scorer.__aenter__())
    yield scorer
    run(scorer.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def tasks(appworld_root: Path) -> list[TaskInfo]:
    return [task for split in ("train", "dev", "test_normal") for task in load_split(appworld_root, split)]


async def play(
    environment: AppWorldEnvironment, task: TaskInfo, name: str, *codes: str, diff: Scorer | None = None
) -> tuple[Score, Score | None, list[str]]:
    """(score by replay, score by diff, what the codes printed)"""
    async with environment.episode(task, name, keep_outputs=False) as episode:
        printed = [(await episode.execute(code)).output for code in codes]
        score = await episode.score()
        by_diff = await diff.score(task.task_id, episode.experiment_name) if diff else None
    return score, by_diff, printed


def test_of_a_tampered_episode_an_untouched_world_is_kept(
    run: Run, environment: AppWorldEnvironment, diff_scorer: Scorer, tasks: list[TaskInfo], appworld_root: Path
) -> None:
    async def cheat() -> None:
        async with environment.episode(tasks[0], "kept", keep_outputs=True) as episode:
            await episode.execute(ANSWER_BY_ORM.format(answer="5"))
            assert (await episode.score()).tampered

    run(cheat())
    kept = run(diff_scorer.score(tasks[0].task_id, "kept"))
    assert "the task was marked complete with status success" in kept.failures


def test_honest_episodes_score_the_same_either_way(
    run: Run, environment: AppWorldEnvironment, diff_scorer: Scorer, tasks: list[TaskInfo], appworld_root: Path
) -> None:
    rewards = []
    for number, task in enumerate(tasks):
        solved = solution_code(appworld_root, task.task_id)
        half_done = solved.replace("apis.supervisor.complete_task", "str")
        wrong = "try:\n    apis.spotify.login(username='nobody', password='x')\nexcept Exception:\n    pass\n" + DONE
        kinds = {"solved": [solved], "half": [half_done], "wrong": [wrong], "idle": []}
        for kind, codes in list(kinds.items())[: None if number % 3 == 0 else 1]:  # the siblings differ in names only
            by_replay, by_diff, _ = run(play(environment, task, f"{kind}-{number}", *codes, diff=diff_scorer))
            assert by_replay == by_diff, (task.task_id, kind)
            rewards.append(by_replay.reward)
    assert rewards.count(1.0) == len(tasks) and min(rewards) < 0.6


ANSWER_BY_ORM = """
gc = (__builtins__ if isinstance(__builtins__, dict) else vars(__builtins__))["__import__"]("gc")
worlds = (thing for thing in gc.get_objects() if type(thing).__name__ == "AppWorld")
world = next(world for world in worlds if getattr(world, "requester", None) is requester)
task = world.models.supervisor.Task.first()
task.set_db_home_path()
task.status, task.answer = "success", {answer!r}
task.save()
"""


def test_a_change_behind_the_apis_gains_nothing(
    run: Run, environment: AppWorldEnvironment, diff_scorer: Scorer, tasks: list[TaskInfo], appworld_root: Path
) -> None:
    answer = (appworld_root / "data/tasks" / tasks[0].task_id / "ground_truth/answer.json").read_text()
    cheat = ANSWER_BY_ORM.format(answer=answer)
    by_replay, by_diff, printed = run(play(environment, tasks[0], "orm", cheat, diff=diff_scorer))
    assert by_diff.success, printed  # the hole is real
    assert by_replay.tampered and by_replay.reward == 0
    assert by_replay.failures == ("tampered: the state of supervisor is not what the API calls give",)


def test_admin_calls_are_not_replayed(run: Run, environment: AppWorldEnvironment, tasks: list[TaskInfo]) -> None:
    cheat = """
from appworld.apps.admin.models import MainUser
from appworld.apps.venmo.models import PaymentCard
card = PaymentCard.all()[0]
print(apis.admin.credit_to_card(card_number=card.card_number, amount=1000))
"""
    score, _, printed = run(play(environment, tasks[0], "admin", cheat, DONE))
    changed = "Execution failed" not in printed[0]
    assert score.reward < 1 and (score.tampered or not changed)


@pytest.mark.parametrize(
    ("name", "cheat"),
    [
        (
            "added-call",
            "requester.request_tracker.requests.append({'method': 'post', 'url': '/todoist/signup', 'data': {}})",
        ),
        ("forged", "requester.request_tracker.requests.append({'method': 'delete', 'url': 7, 'data': []})"),
        ("emptied", "requester.request_tracker.requests.clear()"),
        ("many", "requester.request_tracker.requests.extend([{'method': 'get', 'url': '/', 'data': {}}] * 30000)"),
        (
            "network",
            "requester.request_tracker.requests.append({'method': 'get', 'url': 'http://127.0.0.1:9/', 'data': {}})",
        ),
    ],
)
def test_a_forged_log_never_gains(
    run: Run, environment: AppWorldEnvironment, tasks: list[TaskInfo], appworld_root: Path, name: str, cheat: str
) -> None:
    honest = solution_code(appworld_root, tasks[0].task_id)
    score, _, _ = run(play(environment, tasks[0], f"forged-{name}", honest, cheat))
    # A call that changes nothing is no crime; all others cost the reward that the honest part had earned.
    assert score.reward == (1.0 if name == "added-call" else 0.0)
    assert score.tampered == (name != "added-call")
    again, _, _ = run(play(environment, tasks[0], f"after-{name}", honest))
    assert again.success


@pytest.mark.parametrize("what", ["symlink", "fifo", "folder", "garbage", "huge", "gone"])
@pytest.mark.parametrize("file", ["logs/api_calls.jsonl", "dbs/supervisor.jsonl"])
def test_damaged_outputs_never_gain_and_never_hang(
    run: Run, environment: AppWorldEnvironment, tasks: list[TaskInfo], appworld_root: Path, file: str, what: str
) -> None:
    async def episode() -> Score:
        name = f"damaged-{what}-{file.partition('/')[0]}"
        async with environment.episode(tasks[0], name, keep_outputs=False) as episode:
            await episode.execute(solution_code(appworld_root, tasks[0].task_id))
            await episode._world.close()  # as agent code could do it after the last save
            path = episode.outputs / file
            path.unlink()
            if what == "symlink":
                path.symlink_to("/etc/hostname")
            elif what == "fifo":
                os.mkfifo(path)
            elif what == "folder":
                path.mkdir()
            elif what == "garbage":
                path.write_bytes(b'{"method": "get"\xff\x00[' * 100)
            elif what == "huge":
                with path.open("wb") as file_:
                    file_.truncate(2**40)
            return await environment.scorer.score(tasks[0].task_id, episode.experiment_name)

    score = run(episode())
    assert score.reward == 0 and score.tampered, score


def test_what_was_done_before_is_not_replayed_and_scores_the_same(
    run: Run, environment: AppWorldEnvironment, tasks: list[TaskInfo], appworld_root: Path, monkeypatch
) -> None:
    codes = [solution_code(appworld_root, tasks[0].task_id).replace("apis.supervisor.complete_task", "str")]
    first, _, _ = run(play(environment, tasks[0], "first-time", *codes))
    assert 0 < first.reward < 1

    def no_process() -> None:
        raise AssertionError("it is replayed")

    with monkeypatch.context() as patch:
        patch.setattr(environment.scorer, "_process", no_process)
        again, _, _ = run(play(environment, tasks[0], "second-time", *codes))
        assert again == first
        for other in (tasks[1], tasks[0]):  # another task; another call
            with pytest.raises(AssertionError, match="it is replayed"):
                run(play(environment, other, "another", "apis.supervisor.show_profile()"))
