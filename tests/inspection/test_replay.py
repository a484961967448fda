"""Replay on the real AppWorld: an honest rollout is the same again, one that was tampered with is not; finding rollouts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from appworld_tasks.splits import load_split
from loop_rl.agents.chat import Chat
from loop_rl.agents.episode import Agent, Job, run_episode
from loop_rl.agents.policy import Generation
from loop_rl.config.base import ConfigError
from loop_rl.config.load import load_config
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.data.rollout import EndReason, Rollout
from loop_rl.environments.appworld.ends import COMPLETED, NO_CODE
from loop_rl.environments.protocol import TaskError
from loop_rl.inspection.find import find_rollout, find_task
from loop_rl.inspection.replay import replay
from loop_rl.store.rollout_files import write_rollouts
from loop_rl.store.run_dir import RunDir

pytestmark = pytest.mark.slow(80)

REPO = Path(__file__).resolve().parents[2]
ACTIONS = (
    "x = [1, 2]\nprint(apis.supervisor.show_profile()['email'])",
    "print('\\x1b]0;owned\\x07' + 'y ' * 400)",
    "apis.supervisor.complete_task(answer='surely wrong')",
)


class Script:
    """A policy that says what it is told to."""

    def __init__(self, chat: Chat, *actions: str) -> None:
        self.chat = chat
        self.actions = iter(actions)

    async def sample(self, prompt_ids, max_tokens, temperature, seed, version) -> Generation:
        ids = [*self.chat.encode(f"```python\n{next(self.actions)}\n```"), self.chat.end_of_turn_id]
        return Generation(ids, [-0.5] * len(ids), policy_version=0)


@pytest.fixture(scope="module")
def config(appworld_root, tmp_path_factory):
    settings = [f"tasks.root={appworld_root}", f"tasks.python={REPO}/.venv-appworld/bin/python", "tasks.num_workers=1"]
    settings += [f"model.path={REPO}/models/tiny", f"runs_dir={tmp_path_factory.mktemp('runs')}"]
    return load_config(REPO / "configs" / "tiny.yaml", [*settings, "tasks.execute_timeout_s=2"])


@pytest.fixture(scope="module")
def world(config):
    """Record an episode of the first training task, and replay one; both on the same environment."""
    chat = Chat.from_pretrained(config.model.path, config.agent)
    environment = make_part(ENVIRONMENT, config)
    task = environment.tasks("train")[0]
    with asyncio.Runner() as runner:

        def record(*actions: str, rollout_id: str = "g000000-k0", **settings) -> Rollout:
            job = Job(task, rollout_id, "record", seed=0, group_id=0, iteration=0)
            agent = Agent.training(Script(chat, *actions), chat, config.agent.model_copy(update=settings))
            return runner.run(run_episode(job, environment, agent))

        def again(rollout: Rollout) -> bool:
            return runner.run(replay(rollout, task, environment, chat))

        runner.run(environment.__aenter__())
        yield record, again
        runner.run(environment.__aexit__(None, None, None))


@pytest.mark.parametrize(
    ("actions", "end_reason"),
    [
        (ACTIONS, COMPLETED),
        (ACTIONS[:2], EndReason.MAX_TURNS),
        (("print(1)", ""), NO_CODE),
        (("print(1)", '__import__("ctypes").string_at(0)'), EndReason.WORKER_LOST),
    ],
)
def test_an_honest_rollout_is_the_same_again_however_it_ended(world, capsys, actions, end_reason):
    record, again = world
    rollout = record(*actions, max_turns=2 if end_reason == EndReason.MAX_TURNS else 5)
    assert rollout.end_reason == end_reason
    assert again(rollout)
    printed = capsys.readouterr().out
    assert printed.count("same") >= 3 and "differs" not in printed


def test_what_differs_is_shown_as_a_diff_that_no_terminal_obeys(world, capsys):
    record, again = world
    honest = record(*ACTIONS)
    first, second, last = honest.turns
    assert "\x1b]0;owned\x07" in second.observation and "characters cut" in second.observation

    assert not again(replace(honest, turns=[first, replace(second, observation="\x1b[2Jnothing\n"), last]))
    printed = capsys.readouterr().out
    assert "turn 1: same" in printed and "turn 2: differs" in printed and "turn 3: same" in printed
    assert "-\\x1b[2Jnothing" in printed and "+\\x1b]0;owned\\x07y y" in printed and "\x1b" not in printed

    assert not again(replace(honest, turns=[replace(first, log=["GET /nowhere {}"]), second, last]))
    assert "-GET /nowhere {}" in capsys.readouterr().out
    assert not again(replace(honest, score=1.0, passes=honest.passes + honest.failures, failures=[]))
    assert "-1.000000" in capsys.readouterr().out
    assert not again(replace(honest, turns=[first, second], end_reason="completed"))
    assert "the episode does not end now" in capsys.readouterr().out
    assert not again(replace(honest, turns=[first, last, second]))
    assert "turns 3 to 3 cannot be replayed" in capsys.readouterr().out


def start(run: RunDir, rollout_id: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "loop_rl", "replay", run.path, "--rollout", rollout_id]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_exit_status_tells_the_same_from_different_from_an_error(world, config):
    record, _ = world
    run = RunDir.create(config.model_copy(update={"name": "status"}))
    honest = record(*ACTIONS)
    write_rollouts(run.group_file(0), [honest, replace(honest, rollout_id="g000000-k1", score=0.1)])
    processes = [start(run, f"g000000-k{k}") for k in (0, 1, 7)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 1, 2], errors
    assert errors[2].count("\n") == 1 and errors[2].startswith("error: ")
    assert "no rollout 'g000000-k7'; the nearest are g000000-k1, g000000-k0" in errors[2]
    outputs = Path(f"{config.tasks.root}-worker") / "experiments" / "outputs"
    assert not list(outputs.glob("replay-*"))


def make_rollout(rollout_id: str) -> Rollout:
    names = dict.fromkeys(("task_id", "family", "instruction", "end_reason", "ending"), "x")
    times = dict.fromkeys(("score", "started_at", "duration_s", "generation_s", "environment_s"), 0.0)
    numbers = {"group_id": 0, "iteration": 0, "labels": {}, "success": False, "passes": [], "failures": []}
    return Rollout(rollout_id=rollout_id, turns=[], **names, **times, **numbers)


def test_a_rollout_is_found_wherever_it_lies(config):
    run = RunDir.create(config.model_copy(update={"name": "places"}))
    with pytest.raises(ConfigError, match="no rollout 'g000000-k0'; it has no rollouts yet"):
        find_rollout(run, "g000000-k0")
    places = {
        run.group_file(0): ["g000000-k0", "g000000-k1"],
        run.unfinished_rollouts / "g000001-k4.parquet": ["g000001-k4"],
        run.eval_rollouts / "v000002-dev.parquet": ["v000002-dev-1_1"],
        run.eval_rollouts / ".v000003-dev" / "dev-1_1.parquet": ["v000003-dev-1_1"],
    }
    for path, ids in places.items():
        write_rollouts(path, [make_rollout(rollout_id) for rollout_id in ids])
    for rollout_id in [rollout_id for ids in places.values() for rollout_id in ids]:
        assert find_rollout(run, rollout_id).rollout_id == rollout_id


def test_a_damaged_file_hides_no_other_rollout_and_is_named_when_nothing_is_found(config):
    run = RunDir.create(config.model_copy(update={"name": "damage"}))
    write_rollouts(run.group_file(1), [make_rollout("g000001-k0")])
    run.group_file(0).write_bytes(run.group_file(1).read_bytes()[:-100])
    assert find_rollout(run, "g000001-k0")
    with pytest.raises(
        ConfigError, match=r"the nearest are g000001-k0; \S+group-000000.parquet cannot be read"
    ) as error:
        find_rollout(run, "g000000-k0")
    assert "\n" not in str(error.value)


def test_a_run_of_an_older_schema_is_refused(config):
    run = RunDir.create(config.model_copy(update={"name": "older"}))
    older = pa.table({"rollout_id": ["g000000-k0"]}).replace_schema_metadata({"loop_rl.schema_version": "1"})
    pq.write_table(older, run.group_file(0))
    with pytest.raises(ValueError, match=r"group-000000.parquet: rollout schema version 1, this code reads version"):
        find_rollout(run, "g000000-k0")


def test_a_task_that_is_gone_is_refused_by_name(config):
    with pytest.raises(TaskError, match="no task 'train-001-nothing_1' in any split; the nearest are train-00"):
        find_task(make_part(ENVIRONMENT, config), "train-001-nothing_1")
    assert find_task(make_part(ENVIRONMENT, config), load_split(config.tasks.root, "test_challenge")[0].task_id)
