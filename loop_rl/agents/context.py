"""What the policy reads before each action."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from loop_rl.agents.chat import Chat
from loop_rl.data.messages import Message


class Context(Protocol):
    """The memory of one episode."""

    def begin(self, messages: Sequence[Message]) -> None:
        """The messages before the first action."""

    def prompt(self) -> tuple[list[int], bool]:
        """The tokens to read next, and whether they extend all that was read and written so far; otherwise they are a whole
        prompt that starts anew."""

    def add(self, action_ids: list[int], observation: str, reminder: str) -> str:
        """What was done, what came of it and what is said behind that; returns the last two as the policy will read them, the
        observation cut where it is long."""


class WholeHistory:
    """Everything since the episode began, in the order in which it came: prompts only grow."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._next_ids: list[int] = []

    def begin(self, messages: Sequence[Message]) -> None:
        self._next_ids = self._chat.first_turn(messages)

    def prompt(self) -> tuple[list[int], bool]:
        return self._next_ids, True

    def add(self, action_ids: list[int], observation: str, reminder: str) -> str:
        shown = self._chat.observation(observation, reminder)
        self._next_ids = self._chat.next_turn(shown, action_ids[-1])
        return shown.text
