"""Evaluating a model behind an OpenAI-compatible endpoint: messages in, text out, no token ever seen.

    async with Endpoint("http://127.0.0.1:8000/v1", "Qwen/Qwen2.5-7B-Instruct") as policy:
        agent = Agent.evaluation(policy, MessageChat(config.agent), ...)

To the agent a conversation is a list that only grows, of which its chat knows the number of tokens. Here its items are
messages instead of token ids, and the number is the endpoint's own, so that the agent's limits hold. Token ids and
log-probabilities are not known, and the endpoint's tokenizer need not be either: `stored` therefore keeps the text of
such a rollout, leaves its token lists empty, and returns the endpoint's counts beside it.

The key, if one is needed, is taken from the environment variable OPENAI_API_KEY and never stored.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import aiohttp

from loop_rl.agents.chat import Shown
from loop_rl.agents.policy import ContextFull, Generation, PolicyError
from loop_rl.config.settings import AgentConfig
from loop_rl.data.messages import Message
from loop_rl.data.rollout import Rollout, Usage
from loop_rl.serving.http_client import RequestFailed, fetch

API_KEY = "OPENAI_API_KEY"
_TIMEOUT_S = 600.0
_CHARS_PER_TOKEN = 3
"""Of code and JSON, a little below the usual; only until the endpoint has counted."""
# vLLM, OpenAI and llama.cpp word it differently, all name the context.
_TOO_LONG = re.compile(r"context.{0,20}(length|size|window)", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """What the model answered in one turn."""

    text: str
    action_tokens: int
    tokens: int
    """Of the conversation so far, this reply included."""


Item = Message | Reply
"""Of a conversation."""


class Endpoint:
    """An endpoint that answers chat completions, in place of `loop_rl.serving.client.PolicyClient`. An async context manager.

    url: up to and with `/v1`; model: the name that the endpoint knows; num_attempts: of a request that fails, the default
    waits about a minute for a busy or rate-limited service; sampling: more of its sampling parameters, such as top_p.
    """

    def __init__(
        self, url: str, model: str, num_attempts: int = 8, sampling: Mapping[str, float] | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self._model = model
        self._num_attempts = num_attempts
        self._sampling = dict(sampling or {})

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {os.environ[API_KEY]}"} if os.environ.get(API_KEY) else {}
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def sample(
        self, prompt_ids: list[Item], max_tokens: int, temperature: float, seed: int, version: int | None = None
    ) -> Generation:
        """The next turn of a conversation, at most `max_tokens` tokens.

        Raises:
            ContextFull: the conversation is too long for it.
            PolicyError: the endpoint does not answer, refuses, or answers with nonsense.
        """
        body = {
            "model": self._model,
            "messages": [_message(item) for item in prompt_ids],
            "max_tokens": max_tokens,
            "temperature": temperature,
            **self._sampling,
            "seed": seed,
        }
        try:
            answer = await fetch(
                self._session, "POST", self._url, "/chat/completions", _TIMEOUT_S, body, num_attempts=self._num_attempts
            )
        except RequestFailed as failed:
            if failed.status == 400 and _TOO_LONG.search(failed.body):
                raise ContextFull(f"endpoint {self._url} refuses the conversation as too long") from None
            raise PolicyError(f"endpoint {self._url} {failed}{_hint(failed.status, self._url)}") from None
        return Generation([self._read(answer)], [], 0)

    def _read(self, answer: str) -> Reply:
        try:
            values = json.loads(answer)
            text, usage = values["choices"][0]["message"]["content"], values["usage"]
            return Reply(text or "", usage["completion_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])
        except (ValueError, LookupError, TypeError):
            raise PolicyError(
                f"endpoint {self._url} answers without a message or without usage: {answer.strip()[:300]}"
            ) from None


class MessageChat:
    """In place of `loop_rl.agents.chat.Chat` where a conversation is messages."""

    def __init__(self, agent: AgentConfig) -> None:
        self._max_observation_chars = agent.max_observation_tokens * _CHARS_PER_TOKEN
        self._cuts_tail = agent.observation_cut == "tail"

    def first_turn(self, messages: Sequence[Message]) -> list[Item]:
        """The prompt."""
        return list(messages)

    def observation(self, output: str, reminder: str = "") -> Shown:
        """An observation as the agent sees it, of a longer one what `agent.observation_cut` keeps; then the reminder."""
        half = self._max_observation_chars // 2
        if len(output) > 2 * half and self._cuts_tail:
            lines, newline, _ = output[: 2 * half].rpartition("\n")
            output = lines if newline else output[: 2 * half]
        elif len(output) > 2 * half:
            output = f"{output[:half]}\n[... {len(output) - 2 * half} characters cut ...]\n{output[-half:]}"
        return Shown([], output + reminder)

    def next_turn(self, observation: Shown, last_action_id: Item) -> list[Item]:
        """What comes after an action."""
        return [{"role": "user", "content": observation.text}]

    def num_tokens(self, items: Sequence[Item]) -> int:
        """Length of a conversation: as the endpoint counted it at its last reply, and an estimate of what came after.

        Nothing is known before the first reply: whether the prompt fits, the endpoint says.
        """
        num_tokens = 0
        for item in items:
            if isinstance(item, Reply):
                num_tokens = item.tokens
            elif num_tokens:
                num_tokens += len(item["content"]) // _CHARS_PER_TOKEN
        return num_tokens

    def action_text(self, action_ids: list[Item]) -> str:
        """Text of an action."""
        return action_ids[0].text


def stored(rollout: Rollout) -> tuple[Rollout, Usage]:
    """A rollout that an endpoint answered, as it is kept: text only. And its tokens, as the endpoint counts them."""
    replies = [turn.action_ids[0] for turn in rollout.turns]
    turns = [replace(turn, context_ids=[], action_ids=[]) for turn in rollout.turns]
    usage = Usage(sum(reply.action_tokens for reply in replies), replies[-1].tokens if replies else 0)
    return replace(rollout, turns=turns), usage


async def check_endpoint(url: str, model: str) -> None:
    """Ask for one token. Raises PolicyError when the endpoint does not answer, or does not know key or model."""
    async with Endpoint(url, model, num_attempts=2) as endpoint:
        await endpoint.sample([{"role": "user", "content": "Hello"}], 1, 1.0, 0)


def _hint(status: int | None, url: str) -> str:
    if status in (401, 403):
        return f"; set {API_KEY} to its key"
    return "; such URLs mostly end with /v1" if status == 404 and not url.endswith("/v1") else ""


def _message(item: Message | Reply) -> Message:
    return {"role": "assistant", "content": item.text} if isinstance(item, Reply) else item
