"""Tokens and log-probabilities of a real vLLM server, and the policy versions that it holds."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest
import torch
from aiohttp import web
from peft import PeftModel
from served import SECRET, served_config
from transformers import AutoModelForCausalLM

from loop_rl.agents.policy import Generation, PolicyError
from loop_rl.serving.client import PolicyClient
from loop_rl.serving.published import PolicyDirectory
from loop_rl.serving.server import ServerFailed, VllmServer
from loop_rl.store.run_dir import RunDir
from loop_rl.store.secret import secret

pytestmark = pytest.mark.slow(60)

STOP_ID = 2  # <|im_end|>
PROMPT = list(range(40, 80))


def client(*urls: str, secret: str = SECRET, patience_s: float = 30.0) -> PolicyClient:
    return PolicyClient(urls, STOP_ID, "runs/x/logs", secret, patience_s=patience_s)


def held_names(url: str) -> set[str]:
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {SECRET}"})
    with urllib.request.urlopen(request) as reply:
        return {model["id"] for model in json.load(reply)["data"]}


def reference_logprobs(model, sample: Generation, temperature: float) -> torch.Tensor:
    """Log-probabilities of the sampled tokens by transformers, in float32."""
    with torch.no_grad():
        logits_TV = model(torch.tensor([PROMPT + sample.token_ids])).logits[0, len(PROMPT) - 1 : -1]
    logprobs_TV = torch.log_softmax(logits_TV / temperature, dim=-1)
    return logprobs_TV.gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_those_of_transformers_for_the_base_and_for_an_adapter(vllm_url, served_model, temperature):
    async def sample() -> list[Generation]:
        async with client(vllm_url) as policy:
            base = [await policy.sample(PROMPT, 60, temperature, seed, version=0) for seed in range(3)]
            await policy.load_version(1, served_model / "v1")
            return base + [await policy.sample(PROMPT, 60, temperature, seed) for seed in range(3)]

    samples = asyncio.run(sample())
    assert [s.policy_version for s in samples] == [0, 0, 0, 1, 1, 1]
    model = AutoModelForCausalLM.from_pretrained(
        served_model / "base", dtype=torch.float32, attn_implementation="eager"
    )
    models = {0: model.eval()}
    expected = [reference_logprobs(models[0], s, temperature) for s in samples[:3]]
    models[1] = PeftModel.from_pretrained(model, served_model / "v1").eval()
    expected += [reference_logprobs(models[1], s, temperature) for s in samples[3:]]
    for s, logprobs in zip(samples, expected, strict=True):
        assert len(s.token_ids) == len(s.logprobs)
        assert (torch.tensor(s.logprobs) - logprobs).abs().max() < 1e-3
    # The adapter matters: under the base the second half would be off by far more.
    with models[1].disable_adapter():
        assert (
            torch.tensor(samples[3].logprobs) - reference_logprobs(models[1], samples[3], temperature)
        ).abs().max() > 0.1


def test_an_action_ends_with_the_end_of_turn_token_or_at_the_limit_and_a_seed_repeats_it(vllm_url):
    async def sample() -> tuple[list[Generation], list[Generation]]:
        async with client(vllm_url) as policy:
            first = await asyncio.gather(*(policy.sample(PROMPT, 200, 1.0, seed) for seed in range(24)))
            again = [await policy.sample(PROMPT, 200, 1.0, seed) for seed in range(3)]
            assert policy.num_generated_tokens == sum(len(s.token_ids) for s in [*first, *again])
            return first, again

    samples, again = asyncio.run(sample())
    assert [s.token_ids for s in again] == [s.token_ids for s in samples[:3]]
    assert len({tuple(s.token_ids) for s in samples}) == 24
    assert any(s.token_ids[-1] == STOP_ID for s in samples)
    for s in samples:
        assert STOP_ID not in s.token_ids[:-1]
        assert s.token_ids[-1] == STOP_ID or len(s.token_ids) == 200


def test_many_long_seeded_prompts_at_once_do_not_kill_the_server(vllm_url):
    async def sample() -> tuple[list[Generation], Generation]:
        async with client(vllm_url) as policy:
            prompts = [[3 + (i * 7 + j) % 290 for j in range(900)] for i in range(12)]
            samples = await asyncio.gather(*(policy.sample(prompt, 8, 1.0, seed=1) for prompt in prompts))
            return samples, await policy.sample(prompts[3], 8, 1.0, seed=1)

    samples, after = asyncio.run(sample())
    assert all(1 <= len(generation.token_ids) <= 8 for generation in samples)
    assert after.token_ids == samples[3].token_ids  # it lives, and the others beside it changed nothing


def test_every_turn_is_answered_by_the_newest_version_and_old_ones_are_dropped_when_unused(vllm_url, served_model):
    async def change_versions() -> None:
        async with client(vllm_url) as policy:
            await policy.load_version(1, served_model / "v1")
            long = asyncio.create_task(policy.sample(PROMPT, 900, 1e-6, seed=0))
            await asyncio.sleep(0.05)
            await policy.load_version(2, served_model / "v2")
            await policy.load_version(3, served_model / "v3")
            if not long.done():
                assert "v000001" in held_names(vllm_url), "dropped while a request used it"
            assert (await policy.sample(PROMPT, 4, 1.0, seed=0)).policy_version == 3
            assert (await long).policy_version == 1
            await policy.load_version(4, served_model / "v1")
            assert held_names(vllm_url) == {"base", "v000003", "v000004"}
        async with client(vllm_url) as restarted:  # finds version 4 on the server
            await restarted.load_version(4, served_model / "v1")
            assert (await restarted.sample(PROMPT, 4, 1.0, seed=0)).policy_version == 4

    asyncio.run(change_versions())


def test_published_versions_are_picked_up(vllm_url, served_model, tmp_path):
    async def follow() -> None:
        run = RunDir(tmp_path)
        async with client(vllm_url) as policy:
            directory = PolicyDirectory(run, policy, poll_s=0.05)
            following = asyncio.create_task(directory.follow())
            await asyncio.wait_for(directory.wait_for(0), 5)
            waiting = asyncio.create_task(directory.wait_for(7))
            await asyncio.sleep(0.2)
            assert not waiting.done() and policy.latest_version == 0
            run.policy.mkdir()
            os.symlink(served_model / "v2", run.policy_folder(7))
            await asyncio.wait_for(waiting, 10)
            assert policy.latest_version == 7
            following.cancel()

    asyncio.run(follow())


class StandIn:
    """A server that speaks as much of vLLM's protocol as the client asks for, and answers as a test wants it to."""

    def __init__(self, answer: Callable[[], Awaitable[web.Response]]) -> None:
        self.num_asked = 0
        self._answer = answer

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "base"}]})

    async def _complete(self, request: web.Request) -> web.Response:
        if (await request.json())["prompt"] != PROMPT:
            return tokens()  # the client tries a server out before it uses it
        self.num_asked += 1
        return await self._answer()


def tokens(token_ids: Sequence[int] = (5,), logprobs: Sequence[float] = (-1.0,)) -> web.Response:
    return web.json_response({"choices": [{"token_ids": token_ids, "logprobs": {"token_logprobs": logprobs}}]})


def test_requests_go_to_the_least_loaded_server():
    async def slowly() -> web.Response:
        await asyncio.sleep(0.3)
        return tokens()

    async def sample() -> list[int]:
        async with StandIn(slowly) as a, StandIn(slowly) as b, client(a.url, b.url) as policy:
            while not all(server.in_service for server in policy._servers):
                await asyncio.sleep(0.01)
            await asyncio.gather(*(policy.sample(PROMPT, 1, 1.0, 0) for _ in range(6)))
            return [a.num_asked, b.num_asked]

    assert asyncio.run(sample()) == [3, 3]


@pytest.mark.parametrize("token_ids, logprobs", [([5, 6], [-1.0]), ([], []), ([5], [float("nan")])])
def test_tokens_without_their_logprobs_are_refused(token_ids, logprobs):
    async def badly() -> web.Response:
        return tokens(token_ids, logprobs)

    async def sample() -> None:
        async with StandIn(badly) as server, client(server.url) as policy:
            await policy.sample(PROMPT, 2, 1.0, 0)

    with pytest.raises(PolicyError, match=r"vLLM server http://127.0.0.1:\d+ returned"):
        asyncio.run(sample())


def test_a_request_that_no_server_survives_is_an_error_in_the_end():
    async def fail() -> web.Response:
        return web.Response(status=500, text="CPU Generator does not use offset")

    async def sample() -> None:
        async with StandIn(fail) as server, client(server.url) as policy:
            await policy.sample(PROMPT, 2, 1.0, 0)

    with pytest.raises(PolicyError, match="answers /v1/completions with status 500: CPU Generator"):
        asyncio.run(sample())


def test_a_dead_server_and_a_bad_request_are_clear_errors(vllm_url, tmp_path):
    async def sample(url: str, prompt: list[int], **options) -> None:
        async with client(url, **options) as policy:
            await policy.sample(prompt, 4, 1.0, 0)

    async def load() -> None:
        async with client(vllm_url) as policy:
            await policy.sample(PROMPT, 1, 1.0, 0)
            await policy.load_version(9, tmp_path)

    dead = r"no vLLM server .* after 1 s: vLLM server http://127.0.0.1:9 does not answer \(.*\); see vllm-\*.log under runs/x/logs"
    with pytest.raises(PolicyError, match=dead):
        asyncio.run(asyncio.wait_for(sample("http://127.0.0.1:9", PROMPT, patience_s=1.0), 120))
    with pytest.raises(PolicyError, match="/v1/completions with status 400"):
        asyncio.run(sample(vllm_url, [10**6]))
    with pytest.raises(PolicyError, match=r"/v1/load_lora_adapter with status 404: .*v000009"):
        asyncio.run(load())
    with pytest.raises(PolicyError, match=r"status 401: .*the run's secret is missing or wrong"):
        asyncio.run(sample(vllm_url, PROMPT, secret="another"))


def test_a_server_that_hangs_is_taken_out_and_another_asked(monkeypatch):
    monkeypatch.setattr("loop_rl.serving.versions._GENERATE_TIMEOUT_S", 0.5)

    async def hang() -> web.Response:
        await asyncio.sleep(60)

    async def well() -> web.Response:
        return tokens()

    async def sample() -> list[int]:
        async with StandIn(hang) as a, StandIn(well) as b, client(a.url, b.url) as policy:
            while not all(server.in_service for server in policy._servers):
                await asyncio.sleep(0.01)
            sample = await policy.sample(PROMPT, 4, 1.0, 0)
            assert sample.token_ids == [5]
            return [a.num_asked, b.num_asked]

    assert asyncio.run(sample()) == [1, 1]


@pytest.mark.parametrize(
    "method, path",
    [
        ("POST", "/v1/completions"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        # What vLLM's own key leaves open.
        ("POST", "/invocations"),
        ("POST", "/adapters"),
        ("POST", "/tokenize"),
        ("GET", "/metrics"),
        ("GET", "/health"),
        ("GET", "/version"),
        ("GET", "/docs"),
    ],
)
def test_no_route_is_open_to_whoever_lacks_the_secret(vllm_url, method, path):
    body = json.dumps({"model": "base", "prompt": "x", "name": "v000008", "src": "/tmp"}).encode()
    for headers in ({}, {"Authorization": "Bearer another"}, {"Authorization": SECRET}):
        headers["Content-Type"] = "application/json"
        data = body if method == "POST" else None
        request = urllib.request.Request(vllm_url + path, data, headers, method=method)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request)


def test_the_secret_is_made_once_and_is_nobody_elses(tmp_path, served_model):
    run = RunDir(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(lambda _: secret(run), range(32)))
    assert made == {(tmp_path / "secret").read_text()} and len(made.pop()) >= 32
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["secret"]
    server = VllmServer(served_config(served_model), 0, tmp_path / "vllm-0.log", secret=secret(run))
    assert secret(run) not in " ".join(server.command())


def test_a_server_that_cannot_start_shows_why(served_model, tmp_path, monkeypatch):
    script = "print('RuntimeError: no memory'); raise SystemExit(3)"
    monkeypatch.setattr(VllmServer, "command", lambda _: [sys.executable, "-c", script])
    server = VllmServer(served_config(served_model), 0, tmp_path / "vllm-0.log", secret=SECRET)
    server.start()
    try:
        with pytest.raises(ServerFailed, match=r"(?s)exit status 3; last lines of .*vllm-0.log:.*no memory"):
            server.wait_until_ready()
    finally:
        server.stop()


def test_a_server_that_takes_too_long_shows_how_far_it_came(served_model, tmp_path, monkeypatch):
    script = "print('loading', flush=True); import time; time.sleep(60)"
    monkeypatch.setattr(VllmServer, "command", lambda _: [sys.executable, "-c", script])
    config = served_config(served_model, server={"start_timeout_s": 1.0})
    server = VllmServer(config, 0, tmp_path / "vllm-0.log", secret=SECRET)
    server.start()
    try:
        with pytest.raises(ServerFailed, match=r"(?s)within 1 s \(server.start_timeout_s\).*loading"):
            server.wait_until_ready()
    finally:
        server.stop()
    assert server.process.poll() is not None


def test_stopping_a_server_that_is_still_starting_leaves_no_process(served_model, tmp_path):
    server = VllmServer(served_config(served_model), 0, tmp_path / "vllm-0.log", secret=SECRET)
    server.stop()  # not started: nothing to do
    server.start()
    time.sleep(1.0)
    server.stop()
    assert server.process.poll() is not None
    assert not _session_members(server.process.pid)


def _session_members(session: int) -> list[str]:
    members = []
    for process in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = process.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            members.append(process.parent.name)
    return members
