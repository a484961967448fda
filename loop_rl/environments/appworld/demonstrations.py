"""Demonstrations of the built-in pack as conversations."""

from __future__ import annotations

from types import SimpleNamespace

from loop_rl.environments.appworld.prompts import build_prompt


def as_conversation(demonstration: dict) -> dict:
    """What `appworld_tasks.builtin demonstrations` writes, as {"messages", "turns": [{"text", "output"}]}."""
    task = SimpleNamespace(**{key: demonstration[key] for key in ("instruction", "supervisor", "datetime")})
    turns = [{"text": _action_text(turn), "output": turn["output"]} for turn in demonstration["turns"]]
    return {"messages": build_prompt("compact", task), "turns": turns}


def _action_text(turn: dict) -> str:
    thought = turn["thought"] and turn["thought"] + "\n"
    return f"{thought}```python\n{turn['code']}\n```"
