"""Demonstrations: the built-in pack's as conversations, and reference solutions as what an agent would write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from appworld_tasks.reference import SolutionStep
from loop_rl.environments.appworld.prompts import build_prompt


def as_conversation(demonstration: dict) -> dict:
    """What `appworld_tasks.builtin demonstrations` writes, as {"messages", "turns": [{"text", "output"}]}."""
    task = SimpleNamespace(**{key: demonstration[key] for key in ("instruction", "supervisor", "datetime")})
    turns = [{"text": _action_text(turn), "output": turn["output"]} for turn in demonstration["turns"]]
    return {"messages": build_prompt("compact", task), "turns": turns}


def solution_texts(steps: Sequence[SolutionStep]) -> list[str]:
    """What an agent would write that does a reference solution, a step a turn."""
    return [_action_text({"thought": step.comment, "code": step.code}) for step in steps]


def _action_text(turn: Mapping[str, str]) -> str:
    thought = turn["thought"] and turn["thought"] + "\n"
    return f"{thought}```python\n{turn['code']}\n```"
