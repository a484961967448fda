"""Whole models as policy versions: what a real vLLM server computes after it has changed its weights."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from served import SECRET, make_whole_models, served_config
from transformers import AutoModelForCausalLM

from loop_rl.agents.policy import Generation, PolicyError
from loop_rl.serving.client import PolicyClient
from loop_rl.serving.server import VllmServer

pytestmark = pytest.mark.slow(100)

STOP_ID = 2  # <|im_end|>
PROMPT = list(range(40, 140))  # three whole blocks of the prefix cache


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: make_whole_models(tmp_path_factory.mktemp(name), tie_word_embeddings=name == "tied")
        for name in ("tied", "untied")
    }


@pytest.fixture(scope="module")
def servers(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, VllmServer]]:
    logs = tmp_path_factory.mktemp("logs")
    servers = {
        name: VllmServer(served_config(folder, model={"lora": None}), 0, logs / f"{name}.log", secret=SECRET)
        for name, folder in models.items()
    }
    try:
        for server in servers.values():
            server.start()
        for server in servers.values():
            server.wait_until_ready()
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def client(*urls: str, patience_s: float = 60.0) -> PolicyClient:
    return PolicyClient(urls, STOP_ID, "runs/x/logs", SECRET, full_weights=True, patience_s=patience_s)


def largest_difference(samples: list[Generation], folder: Path) -> float:
    """Of the samples' log-probabilities from those that transformers computes with the weights in `folder`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    # Padding behind a causal model's tokens changes none of them.
    rows = [torch.tensor(PROMPT + sample.token_ids) for sample in samples]
    with torch.no_grad():
        logits_BTV = model(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)).logits
    largest = 0.0
    for sample, logits_TV in zip(samples, logits_BTV, strict=True):
        logprobs_TV = torch.log_softmax(logits_TV[len(PROMPT) - 1 :][: len(sample.token_ids)], dim=-1)
        expected_T = logprobs_TV.gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]
        largest = max(largest, (torch.tensor(sample.logprobs) - expected_T).abs().max().item())
    return largest


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_every_sample_is_of_the_version_that_it_names_also_when_weights_change_under_load(servers, models, name):
    folder = models[name]

    async def sample_while_versions_change() -> list[Generation]:
        samples: list[Generation] = []

        async def keep_sampling(seed: int) -> None:
            while True:
                samples.append(await policy.sample(PROMPT, 40, 1.0, seed))
                seed += 1000

        async with client(servers[name].url) as policy:
            await policy.load_version(0, None)
            samples += [await policy.sample(PROMPT, 20, 1.0, seed) for seed in range(2)]  # warms the prefix cache
            load = [asyncio.create_task(keep_sampling(seed)) for seed in range(8)]
            for version in (1, 2):
                await asyncio.sleep(0.3)
                await policy.load_version(version, folder / f"v{version}")
                assert policy.latest_version == version
            await asyncio.sleep(0.3)
            for task in load:
                task.cancel()
            await asyncio.gather(*load, return_exceptions=True)
            samples.append(await policy.sample(PROMPT, 20, 1.0, 7, version=2))
            await policy.load_version(0, None)
            samples += [await policy.sample(PROMPT, 20, 1.0, seed) for seed in range(2)]
        return samples

    samples = asyncio.run(sample_while_versions_change())
    versions = [sample.policy_version for sample in samples]
    assert sorted(set(versions)) == [0, 1, 2]
    assert [s.token_ids for s in samples[:2]] == [s.token_ids for s in samples[-2:]]  # back to the base, same seeds
    for version, weights in ((0, "base"), (1, "v1"), (2, "v2")):
        of_version = [sample for sample in samples if sample.policy_version == version]
        assert largest_difference(of_version, folder / weights) < 1e-3
        assert largest_difference(of_version, folder / ("v1" if version != 1 else "v2")) > 0.1


def test_a_version_that_cannot_be_loaded_is_refused_and_another_can_be_loaded_after_it(servers, models, tmp_path):
    async def load() -> None:
        async with client(servers["untied"].url) as policy:
            with pytest.raises(PolicyError, match=rf"answers /policy with status 422: .*{tmp_path}"):
                await policy.load_version(3, tmp_path)
        async with client(servers["untied"].url) as policy:
            await policy.load_version(1, models["untied"] / "v1")
            assert (await policy.sample(PROMPT, 4, 1.0, 0)).policy_version == 1
        async with client(servers["untied"].url) as restarted:  # takes the server as it is
            assert (await restarted.sample(PROMPT, 4, 1.0, 0)).policy_version == 1

    asyncio.run(load())


def test_a_restarted_server_gets_its_version_back_before_it_answers(servers, models):
    server = servers["tied"]

    async def sample_around_a_restart() -> Generation:
        async with client(server.url) as policy:
            await policy.load_version(1, models["tied"] / "v1")
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.kill_session()
            server.start()
            # Nothing was asked meanwhile, so the client has not noticed: only the server knows that it holds the base.
            await asyncio.to_thread(server.wait_until_ready)
            return await policy.sample(PROMPT, 20, 1.0, seed=3)

    # Well before a request's own limit of ten minutes: the client did not wait for an answer that never comes.
    sample = asyncio.run(asyncio.wait_for(sample_around_a_restart(), 400))
    assert sample.policy_version == 1
    assert largest_difference([sample], models["tied"] / "v1") < 1e-3
    assert largest_difference([sample], models["tied"] / "base") > 0.1
