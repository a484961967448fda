"""What the policy reads before each action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from loop_rl.agents.chat import Chat
from loop_rl.data.messages import Message


class Context(Protocol):
    """The memory of one episode."""

    def prompt(self) -> tuple[list[int], bool]:
        """The tokens to read next, and whether they extend all that was read and written so far; otherwise they are a whole
        prompt that starts anew."""

    def add(self, action_ids: list[int], executed: str, observation: str, reminder: str) -> str:
        """What was written and what was done, what came of it and what is said behind that; returns the last two as the policy
        will read them, the observation cut where it is long."""


class WholeHistory:
    """Everything since the episode began, in the order in which it came: prompts only grow."""

    def __init__(self, chat: Chat, messages: Sequence[Message]) -> None:
        self._chat = chat
        self._next_ids = chat.first_turn(messages)

    def prompt(self) -> tuple[list[int], bool]:
        return self._next_ids, True

    def add(self, action_ids: list[int], executed: str, observation: str, reminder: str) -> str:
        shown = self._chat.observation(observation, reminder)
        self._next_ids = self._chat.next_turn(shown, action_ids[-1])
        return shown.text


@dataclass(frozen=True)
class _Past:
    """An action and what came of it."""

    action_ids: list[int]
    executed: str
    observation: str


class Window:
    """The newest observation and the `size` before it, with the actions between: every prompt is a whole one, laid out as if the
    episode had begun with the oldest of them. Verlog; BALROG.

    An action is remembered token by token as it was written, but for those further back than `thoughts` turns, of which only what
    was carried out is left.
    """

    def __init__(
        self,
        chat: Chat,
        first_observation: str,
        prompt_from: Callable[[str], Sequence[Message]],
        size: int,
        thoughts: int,
    ) -> None:
        self._chat, self._first_observation, self._prompt_from = chat, first_observation, prompt_from
        self._size, self._thoughts = size, thoughts
        self._past: list[_Past] = []
        """Of the last `size` turns, and the one before them, whose observation the window begins with."""

    def prompt(self) -> tuple[list[int], bool]:
        oldest, kept = self._first_observation, self._past
        if len(self._past) > self._size:
            oldest, kept = self._past[0].observation, self._past[1:]
        ids = self._chat.first_turn(self._prompt_from(oldest))
        for age, past in zip(range(len(kept), 0, -1), kept, strict=True):
            action_ids = past.action_ids
            if age > self._thoughts:
                action_ids = [*self._chat.encode(past.executed), self._chat.end_of_turn_id]
            shown = self._chat.observation(past.observation)
            ids = ids + action_ids + self._chat.next_turn(shown, action_ids[-1])
        return ids, False

    def add(self, action_ids: list[int], executed: str, observation: str, reminder: str) -> str:
        shown = self._chat.observation(observation, reminder)
        self._past = [*self._past, _Past(action_ids, executed, shown.text)][-self._size - 1 :]
        return shown.text
