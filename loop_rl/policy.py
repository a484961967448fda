"""Token-in, token-out client of the vLLM servers, and the policy versions they hold.

A policy version is a LoRA adapter with a name of its own (`v000012`), so every request says which version answers it
and no server is ever paused; version 0 is the base model itself. An episode may change versions between two turns,
never inside one.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

from loop_rl.http_client import RequestFailed, fetch
from loop_rl.run_dir import RunDir
from loop_rl.server import BASE_MODEL

_GENERATE_TIMEOUT_S = 600.0
_LOAD_TIMEOUT_S = 120.0
_NUM_VERSIONS_KEPT = 2


class PolicyError(RuntimeError):
    """No server answers, or one answers with nonsense. Ends the run: no episode may be scored for it."""


@dataclass(frozen=True)
class Sample:
    """What the policy wrote in one turn."""

    token_ids: list[int]
    """The end-of-turn token included when it was sampled."""
    logprobs: list[float]
    """Log-probability of each token under the distribution that it was sampled from."""
    policy_version: int


class _Server:
    def __init__(self, url: str) -> None:
        self.url = url
        self.num_in_flight = 0


class PolicyClient:
    """The policy, behind one or more servers that all hold the same versions. An async context manager.

    urls: of the servers; each request goes to the one with the fewest in flight.
    stop_token_id: the end-of-turn token.
    logs: where the servers' logs are, for error messages.
    """

    def __init__(self, urls: Sequence[str], stop_token_id: int, logs: Path | str) -> None:
        self._servers = [_Server(url) for url in urls]
        self._stop_token_id = stop_token_id
        self._logs = logs
        self._num_in_flight: Counter[int] = Counter()
        self._loaded: set[int] = {0}
        self.latest_version = 0
        """Newest version that every server holds."""
        self.num_generated_tokens = 0

    async def __aenter__(self) -> Self:
        # Bounded by the number of rollouts in flight, not by the client's default of 100 connections.
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def sample(
        self, prompt_ids: list[int], max_tokens: int, temperature: float, seed: int, version: int | None = None
    ) -> Sample:
        """Continue a prompt by at most `max_tokens` tokens, up to and including the end-of-turn token.

        version: None is the newest.

        Raises:
            PolicyError: a server failed, retries included.
        """
        version = self.latest_version if version is None else version
        assert version in self._loaded, f"policy version {version} is not loaded"
        server = min(self._servers, key=lambda server: server.num_in_flight)
        request = {
            "model": _model_name(version),
            "prompt": prompt_ids,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "stop_token_ids": [self._stop_token_id],
            "logprobs": 0,
            "return_token_ids": True,
            # A chosen token's log-probability is found by its place; its text is never looked at.
            "skip_special_tokens": False,
        }
        server.num_in_flight += 1
        self._num_in_flight[version] += 1
        try:
            reply = json.loads(await self._post(server, "/v1/completions", request, _GENERATE_TIMEOUT_S))
        finally:
            server.num_in_flight -= 1
            self._num_in_flight[version] -= 1
        choice = reply["choices"][0]
        token_ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        if not token_ids or len(token_ids) != len(logprobs) or not all(logprob <= 1e-3 for logprob in logprobs):
            raise PolicyError(
                f"vLLM server {server.url} returned {len(token_ids)} tokens with log-probabilities {logprobs[:5]}..."
            )
        self.num_generated_tokens += len(token_ids)
        return Sample(token_ids, logprobs, version)

    async def load_version(self, version: int, path: Path) -> None:
        """Make every server hold an adapter, then answer with it; older versions that nobody uses are dropped.

        Raises:
            PolicyError: a server failed, or refuses the adapter.
        """
        if version not in self._loaded:
            request = {"lora_name": _model_name(version), "lora_path": str(path.resolve())}
            await asyncio.gather(*(self._load(server, request) for server in self._servers))
            self._loaded.add(version)
        self.latest_version = max(self.latest_version, version)
        await self._unload_old_versions()

    async def _load(self, server: _Server, request: dict[str, str]) -> None:
        held = json.loads(await self._get(server, "/v1/models"))
        if any(model["id"] == request["lora_name"] for model in held["data"]):
            return  # a sampler that was restarted finds its versions still there
        await self._post(server, "/v1/load_lora_adapter", request, _LOAD_TIMEOUT_S)

    async def _unload_old_versions(self) -> None:
        newest = sorted(self._loaded)[-_NUM_VERSIONS_KEPT:]
        for version in sorted(self._loaded - {0, *newest}):
            if self._num_in_flight[version] == 0:
                self._loaded.remove(version)
                request = {"lora_name": _model_name(version)}
                for server in self._servers:
                    await self._post(server, "/v1/unload_lora_adapter", request, _LOAD_TIMEOUT_S)

    async def _post(self, server: _Server, path: str, request: dict[str, Any], timeout_s: float) -> str:
        return await self._request("POST", server, path, timeout_s, request)

    async def _get(self, server: _Server, path: str) -> str:
        return await self._request("GET", server, path, _LOAD_TIMEOUT_S, None)

    async def _request(
        self, method: str, server: _Server, path: str, timeout_s: float, body: dict[str, Any] | None
    ) -> str:
        try:
            return await fetch(self._session, method, server.url, path, timeout_s, body)
        except RequestFailed as failed:
            raise PolicyError(f"vLLM server {server.url} {failed}; see {self._logs}/vllm-*.log") from None


class PolicyDirectory:
    """Keeps a client at the newest version that the trainer has published.

    poll_s: seconds between two looks at the directory, which may lie on another node's disk.
    """

    def __init__(self, run: RunDir, client: PolicyClient, poll_s: float = 0.2) -> None:
        self._run = run
        self._client = client
        self._poll_s = poll_s
        self._loaded = asyncio.Condition()

    async def follow(self) -> None:
        """Load versions as they are published, until cancelled. Raises PolicyError."""
        while True:
            version = self._run.latest_version()
            if version > self._client.latest_version:
                await self._client.load_version(version, self._run.adapter(version))
                async with self._loaded:
                    self._loaded.notify_all()
            await asyncio.sleep(self._poll_s)

    async def wait_for(self, version: int) -> None:
        """Return when `version` or a newer one answers."""
        async with self._loaded:
            await self._loaded.wait_for(lambda: self._client.latest_version >= version)


def _model_name(version: int) -> str:
    return f"v{version:06d}" if version else BASE_MODEL
