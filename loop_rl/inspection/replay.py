"""Run the code of a rollout again in a fresh world, turn by turn, and show where anything differs.

    loop_rl replay runs/tiny --rollout g000003-k1
    loop_rl replay runs/tiny --rollout v000016-test-normal-001-note-lookup_2

Worlds are deterministic, so an honest rollout gives the same outputs, API calls and score. Code that asks for the real
time or for randomness of its own does not, nor does a task that was generated anew since. What a turn printed is cut as
the agent saw it; the last output of a completed episode was shown to nobody and is not kept.

Exit status: 0 all is the same, 1 something differs, 2 it could not be replayed.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from loop_rl.agents.chat import Chat
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.data.rollout import EndReason, Rollout, Turn
from loop_rl.environments.protocol import (
    Environment,
    EnvironmentFailed,
    Episode,
    EpisodeLost,
    Score,
    ScoringError,
    Task,
)
from loop_rl.inspection.find import find_rollout, find_task
from loop_rl.inspection.inert import inert
from loop_rl.machine.command import run_async, run_command
from loop_rl.store.run_dir import RunDir

DIFFERS, FAILED = 1, 2

console = Console(highlight=False, soft_wrap=True)


async def replay(rollout: Rollout, task: Task, environment: Environment, chat: Chat) -> bool:
    """Replay a rollout of a task, printing as it goes; True when nothing differs. Raises ScoringError."""
    _say(f"{rollout.rollout_id}: task {task.task_id}, {len(rollout.turns)} turns, ended by {rollout.end_reason}")
    differences = _diff("instruction", [rollout.instruction], [task.instruction])
    same = _report("instruction", differences)
    async with environment.episode(task, f"replay-{os.getpid()}", keep_outputs=False) as episode:
        end = ""
        for index, turn in enumerate(rollout.turns):
            is_last = index == len(rollout.turns) - 1
            differences, end = await _replay_turn(episode, turn, chat, rollout.end_reason if is_last else "")
            same &= _report(f"turn {index + 1}", differences)
            if end and not is_last:
                _say(f"turns {index + 2} to {len(rollout.turns)} cannot be replayed: the episode is over", "red")
                break
        score = await episode.score()
    differences = _compare_scores(rollout, score)
    if rollout.end_reason not in set(EndReason):
        differences += _diff("end", [rollout.end_reason], [score.end or end])
    verdict = f"score {score.reward:.3f}, {len(score.passes)} tests passed, {len(score.failures)} failed"
    return _report(verdict, differences) and same


async def _replay_turn(episode: Episode, turn: Turn, chat: Chat, reason: str) -> tuple[list[str], str]:
    """Lines that say what differs, and how the episode has ended now, if it has. `reason`: why the rollout ended, in its last
    turn."""
    was_lost, is_over = reason == EndReason.WORKER_LOST, reason not in ("", *EndReason)
    try:
        step = await episode.step(turn.action_text)
    except EpisodeLost as lost:
        return ([] if was_lost else [f"the world was lost: {lost}"]), EndReason.WORKER_LOST
    differences = _diff("executed", turn.executed.split("\n"), step.executed.split("\n"))
    if was_lost:
        return [*differences, "the world was lost in this turn, and is not now"], step.end
    if bool(step.end) != is_over:
        differences.append(f"the episode ends now: {step.end}" if step.end else "the episode does not end now")
    if not step.end and not is_over:
        # As rollout files keep it: they hold no lone surrogates.
        output = chat.observation(step.observation, step.reminder).text.encode("utf-8", "replace").decode()
        differences += _diff("output", turn.observation.split("\n"), output.split("\n"))
    return differences + _diff("log", turn.log, list(step.log)), step.end


def _compare_scores(rollout: Rollout, score: Score) -> list[str]:
    return (
        _diff("reward", [f"{rollout.reward:.6f}"], [f"{score.reward:.6f}"])
        + _diff("tests passed", sorted(rollout.passes), sorted(score.passes))
        + _diff("tests failed", sorted(rollout.failures), sorted(score.failures))
    )


def _diff(what: str, stored: list[str], replayed: list[str]) -> list[str]:
    return list(difflib.unified_diff(stored, replayed, f"{what}, stored", f"{what}, replayed", lineterm=""))


def _report(what: str, differences: list[str]) -> bool:
    """Print what differs; True when nothing does."""
    _say(f"{what}: {'differs' if differences else 'same'}", "red" if differences else "green")
    for line in differences:
        _say(f"    {line}")
    return not differences


def _say(line: str, style: str = "") -> None:
    console.print(Text(inert(line), style))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--rollout", required=True, metavar="ID", help="rollout id, of training or evaluation")
    args = parser.parse_args()
    outcome: list[bool] = []

    def work() -> None:
        outcome.append(run_async(_replay_from_run(args.run_dir, args.rollout)))

    if status := run_command(work, "stopped", (EnvironmentFailed, ScoringError)):
        return FAILED if status == 1 else status
    return 0 if outcome == [True] else DIFFERS


async def _replay_from_run(run_dir: Path, rollout_id: str) -> bool:
    run = RunDir.open(run_dir)
    config, rollout = run.config, find_rollout(run, rollout_id)
    # One episode is enough.
    environment = make_part(
        ENVIRONMENT, config.model_copy(update={"tasks": config.tasks.model_copy(update={"num_workers": 1})})
    )
    task = find_task(environment, rollout.task_id)
    chat = Chat.from_pretrained(config.model.path, config.agent)
    async with environment:
        return await replay(rollout, task, environment, chat)


if __name__ == "__main__":
    sys.exit(main())
