"""An OpenAI-compatible endpoint as the policy, against vLLM's own."""

import asyncio
from dataclasses import replace

import pytest
from served import SECRET

from loop_rl.agents.policy import ContextFull, Generation, PolicyError
from loop_rl.config.settings import AgentConfig
from loop_rl.data.rollout import EndReason, Rollout, Turn, Usage
from loop_rl.serving.endpoint import Endpoint, MessageChat, Reply, check_endpoint, stored

pytestmark = pytest.mark.slow(20)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


HELLO = {"role": "user", "content": "How many songs?"}


def sample(url: str, conversation: list, max_tokens: int = 8, model: str = "base") -> Generation:
    async def ask() -> Generation:
        async with Endpoint(f"{url}/v1", model, num_attempts=1) as endpoint:
            return await endpoint.sample(conversation, max_tokens, 1.0, seed=3)

    return asyncio.run(ask())


def test_a_conversation_is_as_long_as_the_endpoint_counts(vllm_url):
    chat = MessageChat(AgentConfig())
    conversation, num_tokens = [HELLO], 0
    for _ in range(3):
        answer = sample(vllm_url, conversation)
        (reply,) = answer.token_ids
        assert reply.text and 1 <= reply.action_tokens <= 8 and answer.logprobs == []
        conversation.append(reply)
        assert num_tokens < chat.num_tokens(conversation) == reply.tokens
        conversation.append(HELLO)
        num_tokens = chat.num_tokens(conversation)
        assert num_tokens == reply.tokens + len(HELLO["content"]) // 3


def test_a_conversation_that_does_not_fit_is_no_error_of_the_policy(vllm_url):
    with pytest.raises(ContextFull, match="refuses the conversation as too long"):
        sample(vllm_url, [{"role": "user", "content": "x " * 3000}])


def test_what_a_user_gets_wrong_is_said(vllm_url):
    with pytest.raises(PolicyError, match=r"status 404.*`gpt-x` does not exist"):
        asyncio.run(check_endpoint(f"{vllm_url}/v1", "gpt-x"))
    with pytest.raises(PolicyError, match="status 404.*mostly end with /v1"):
        asyncio.run(check_endpoint(vllm_url, "base"))
    with pytest.raises(PolicyError, match="endpoint http://127.0.0.1:9/v1 does not answer"):
        asyncio.run(check_endpoint("http://127.0.0.1:9/v1", "base"))
    asyncio.run(check_endpoint(f"{vllm_url}/v1/", "base"))


def test_long_output_loses_its_middle():
    chat = MessageChat(AgentConfig(max_observation_tokens=16))
    text = chat.observation("a" * 100 + "b" * 100).text
    assert text == "a" * 24 + "\n[... 152 characters cut ...]\n" + "b" * 24
    assert chat.next_turn(chat.observation("1234567"), None) == [{"role": "user", "content": "1234567"}]


def rollout(*replies: Reply, end_reason: str = "no_code") -> Rollout:
    turns = [Turn([HELLO], [reply], [], 0, reply.text, "", "") for reply in replies]
    fields = {"rollout_id": "r", "group_id": 0, "iteration": -1, "task_id": "t_1", "family": "t", "labels": {}}
    outcome = {
        "end_reason": end_reason,
        "ending": "terminated",
        "score": 0.0,
        "success": False,
        "passes": [],
        "failures": [],
    }
    times = {"started_at": 0.0, "duration_s": 0.0, "generation_s": 0.0, "environment_s": 0.0}
    return Rollout(**fields, instruction="", **outcome, turns=turns, **times)


def test_stored_is_text_and_the_endpoints_counts():
    first, second = Reply("a", 3, 10), Reply("b", 4, 25)
    kept, usage = stored(rollout(first, second))
    assert usage == Usage(action_tokens=7, tokens=25)
    assert [(turn.context_ids, turn.action_ids, turn.action_text) for turn in kept.turns] == [
        ([], [], "a"),
        ([], [], "b"),
    ]
    assert kept.end_reason == "no_code"
    assert stored(replace(rollout(), end_reason=EndReason.WORKER_LOST))[1] == Usage(0, 0)
