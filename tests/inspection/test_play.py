"""A person as the agent: a real process with a scripted standard input, on the real AppWorld."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from solutions import solution_code

from appworld_tasks.splits import load_split
from loop_rl.agents.chat import Chat
from loop_rl.config.load import dump_config, load_config
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.environments.appworld.actions import extract_code
from loop_rl.inspection.play import Person

pytestmark = pytest.mark.slow(80)

REPO = Path(__file__).resolve().parents[2]
LOOK = """\
print('\\x1b]0;owned\\x07')
.
"""
TOO_LONG = f"x = {list(range(400))}\n.\n"


@pytest.fixture(scope="module")
def config_file(appworld_root, tmp_path_factory):
    path = tmp_path_factory.mktemp("play") / "config.yaml"
    overrides = [f"tasks.root={appworld_root}", "agent.max_new_tokens=700"]  # room for a whole solution in one turn
    path.write_text(dump_config(load_config(REPO / "configs" / "tiny.yaml", overrides)))
    return path


def start(*arguments: str | Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "loop_rl", "play", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=REPO, text=True, **pipes)


def test_a_real_solution_scores_one(config_file, appworld_root):
    task = load_split(appworld_root, "dev")[0]
    solution = solution_code(appworld_root, task.task_id)  # the end of the input ends the turn, as Ctrl-D does
    with start("--config", config_file, "--task", task.task_id) as process:
        output, errors = process.communicate(TOO_LONG + LOOK + solution, timeout=120)
    assert process.returncode == 0, errors
    assert output.count(task.instruction) == 1  # each turn shows what is new, and no more
    assert output.count("<|im_start|>assistant") == 2
    assert "the agent has 700 in this turn; write it again" in output
    assert "\\x1b]0;owned\\x07" in output and "\x1b" not in output
    assert "score 1.000, ended by completed, 2 turns" in output
    assert "│ yes " in output and "│ no  " not in output


@pytest.mark.parametrize(
    ("typed", "action", "code"),
    [
        ("print(1)\n\nprint(2)\n.\nlater\n", "```python\nprint(1)\n\nprint(2)\n```", "print(1)\n\nprint(2)"),
        ("I look.\n```python\nx\n```\n.\n", "I look.\n```python\nx\n```", "x"),
        ("unfinished", "```python\nunfinished\n```", "unfinished"),
        ("", "```python\n\n```", ""),  # Ctrl-D at once: a turn without code, which ends the episode
        (".\n", "```python\n\n```", ""),
    ],
)
def test_what_is_typed_becomes_an_action_as_the_policy_writes_it(monkeypatch, tmp_path, typed, action, code):
    config = load_config(REPO / "configs" / "tiny.yaml")
    chat = Chat.from_pretrained(str(REPO / "models" / "tiny"), config.agent)
    environment = make_part(ENVIRONMENT, config)
    (tmp_path / "typed").write_text(typed)
    with open(tmp_path / "typed") as file:
        monkeypatch.setattr("sys.stdin", file)
        sample = asyncio.run(Person(chat, environment).sample(chat.encode("hello"), 128, 1.0, seed=0, version=None))
    assert sample.token_ids == [*chat.encode(action), chat.end_of_turn_id]
    assert sample.logprobs == [0.0] * len(sample.token_ids)
    assert extract_code(chat.action_text(sample.token_ids)) == code


def test_ctrl_c_leaves_at_once_and_closes_the_world(config_file, appworld_root):
    with start("--config", config_file, "--task", load_split(appworld_root, "dev")[0].task_id) as process:
        while "<|im_start|>assistant" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.3)  # it reads standard input now, which stays open
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130  # nothing is typed: it does not wait for a line
        assert process.stderr.read() == "left; the world is closed\n"
    outputs = Path(f"{appworld_root}-worker") / "experiments" / "outputs"
    assert not list(outputs.glob(f"play-{process.pid}"))


def test_without_a_task_some_are_listed_and_an_unknown_one_is_refused(config_file, appworld_root):
    task = load_split(appworld_root, "dev")[0]
    with start("--config", config_file) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "dev (6 tasks)" in output
    assert f"  {task.task_id}  {task.instruction[:20]}" in output
    with start("--config", config_file, "--task", task.scenario_id) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and errors.count("\n") == 1
    assert f"no task '{task.scenario_id}' in any split; the nearest are {task.scenario_id}_" in errors
