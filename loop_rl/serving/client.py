"""Token-in, token-out client of the vLLM servers, and the policy versions they hold.

With LoRA a policy version is an adapter with a name of its own (`v000012`), so every request says which version answers
it and no server is ever paused; version 0 is the base model itself. Where all weights are trained a server holds one
version at a time: it gets no new requests while it changes, and answers those it has by the old one. Either way an episode
may change versions between two turns, never inside one.

A server that fails is taken out, and what it was asked is asked of another. Every second it is looked at again; once it
generates and holds the versions in use, it is back.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp

from loop_rl.agents.policy import Generation, PolicyError
from loop_rl.config.settings import Config
from loop_rl.serving.http_client import RequestFailed, watchful_connector
from loop_rl.serving.server import MAX_LORAS
from loop_rl.serving.versions import OtherVersion, Served, ServedAdapters, ServedModel
from loop_rl.store.run_dir import RunDir
from loop_rl.store.secret import secret as secret_of

_LOOK_EVERY_S = 1.0
_POLL_S = 0.02
_NUM_SENDS = 5


class PolicyClient:
    """The policy, behind one or more servers. An async context manager.

    urls: of the servers; each request goes to the one with the fewest in flight.
    stop_token_id: the end-of-turn token.
    logs: where the servers' logs are, for error messages.
    secret: what the servers ask for, see `loop_rl.store.secret.secret`.
    full_weights: the servers hold one version each, as with `model.lora: null`.
    patience_s: seconds that a request waits for a server while none is in service.
    sampling: more of vLLM's sampling parameters, for every request, such as top_p.
    """

    def __init__(
        self,
        urls: Sequence[str],
        stop_token_id: int,
        logs: Path | str,
        secret: str,
        *,
        full_weights: bool = False,
        patience_s: float = 900.0,
        sampling: Mapping[str, float] | None = None,
    ) -> None:
        self._urls = urls
        self._stop_token_id = stop_token_id
        self._logs = logs
        self._secret = secret
        self._sampling = dict(sampling or {})
        self._full_weights = full_weights
        self._patience_s = patience_s
        # What a server must hold to be in service. Until a version is loaded, whole models are taken as they are.
        self._wanted: dict[int, Path | None] = {} if full_weights else {0: None}
        self._num_asked: Counter[int | None] = Counter()
        self.latest_version = 0
        """Newest version that was loaded: every server in service holds it, or, with full weights, a newer one."""
        self.num_generated_tokens = 0

    @classmethod
    def of_run(
        cls,
        run: RunDir,
        config: Config,
        urls: Sequence[str],
        stop_token_id: int,
        sampling: Mapping[str, float] | None = None,
    ) -> PolicyClient:
        """The client of a run's servers. sampling: as for the class."""
        return cls(
            urls,
            stop_token_id,
            run.logs,
            secret_of(run),
            full_weights=config.model.lora is None,
            patience_s=config.server.start_timeout_s,
            sampling=sampling,
        )

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._secret}"}
        self._session = aiohttp.ClientSession(connector=watchful_connector(), headers=headers)
        kind = ServedModel if self._full_weights else ServedAdapters
        self._servers = [kind(self._session, url) for url in self._urls]
        self._watchers = [asyncio.create_task(self._watch(server)) for server in self._servers]
        return self

    async def __aexit__(self, *exception: object) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await self._session.close()

    async def sample(
        self, prompt_ids: list[int], max_tokens: int, temperature: float, seed: int, version: int | None = None
    ) -> Generation:
        """Continue a prompt by at most `max_tokens` tokens, up to and including the end-of-turn token.

        version: None is the newest; with full weights, where servers change one after another, whichever the server in
            turn holds, never one older than `latest_version` was when it was asked.

        Raises:
            PolicyError: the request is at fault, or no server answers it, `patience_s` and other attempts included.
        """
        if version is None and not self._full_weights:
            version = self.latest_version
        assert version is None or version in self._wanted, f"policy version {version} is not loaded"
        request = {
            "prompt": prompt_ids,
            "max_tokens": max_tokens,
            "temperature": temperature,
            **self._sampling,
            "seed": seed,
            "stop_token_ids": [self._stop_token_id],
            "logprobs": 0,
            "return_token_ids": True,
            # A chosen token's log-probability is found by its place; its text is never looked at.
            "skip_special_tokens": False,
        }
        self._num_asked[version] += 1
        try:
            return await self._ask(request, version)
        finally:
            self._num_asked[version] -= 1

    async def _ask(self, request: dict[str, Any], version: int | None) -> Generation:
        for attempt in range(1, _NUM_SENDS + 1):
            server = await self._until(lambda: self._least_loaded(version), f"holds policy version {version}")
            answering = max(server.held) if version is None else version
            server.num_in_flight += 1
            try:
                reply = await server.generate(answering, request)
                break
            except RequestFailed as failed:
                if _is_refusal(failed) or attempt == _NUM_SENDS:
                    raise self._error(server, failed) from None
                self._take_out(server, failed)
            finally:
                server.num_in_flight -= 1
        choice = reply["choices"][0]
        token_ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        if not token_ids or len(token_ids) != len(logprobs) or not all(logprob <= 1e-3 for logprob in logprobs):
            raise PolicyError(
                f"vLLM server {server.url} returned {len(token_ids)} tokens with log-probabilities {logprobs[:5]}..."
            )
        self.num_generated_tokens += len(token_ids)
        return Generation(token_ids, logprobs, answering)

    async def load_version(self, version: int, folder: Path | None) -> None:
        """Make every server hold a version, then answer with it; older versions that nobody uses are dropped.

        A server out of service loads it before it returns. With full weights one server after another changes, so
        that the others go on.

        folder: of the adapter or the whole model; None for version 0, the base.

        Raises:
            PolicyError: a server refuses the version, or none comes to hold it within `patience_s`.
        """
        if self._full_weights:
            self._wanted = {version: folder}
            for server in self._servers:
                await self._give(server, version)
        else:
            self._wanted.setdefault(version, folder)
            await asyncio.gather(*(self._give(server, version) for server in self._servers))
        await self._until(lambda: self._least_loaded(version), f"holds policy version {version}")
        self.latest_version = version if self._full_weights else max(self.latest_version, version)
        await self._unload_old_versions()

    async def _give(self, server: Served, version: int) -> None:
        async with server.changing:
            if not server.in_service or version in server.held:
                return
            try:
                server.in_service = not self._full_weights
                await server.load(version, self._wanted[version])
                if self._full_weights:
                    server.in_service = True
            except RequestFailed as failed:
                if _is_refusal(failed):
                    raise self._error(server, failed) from None
                self._take_out(server, failed)

    async def _unload_old_versions(self) -> None:
        kept = {0, *sorted(self._wanted)[-MAX_LORAS:]}
        for version in sorted(self._wanted.keys() - kept):
            if self._num_asked[version] == 0:
                del self._wanted[version]
                for server in self._servers:
                    if server.in_service:
                        try:
                            await server.unload(version)
                        except RequestFailed as failed:
                            self._take_out(server, failed)

    async def _watch(self, server: Served) -> None:
        """Bring a server into service, at first and whenever it is out. Raises PolicyError when it refuses."""
        while True:
            if not server.in_service:
                try:
                    await self._bring_back(server)
                    if server.in_service and server.was_taken_out:
                        print(f"vLLM server {server.url} answers again", file=sys.stderr, flush=True)
                        server.was_taken_out = False
                except RequestFailed as failed:
                    if _is_refusal(failed):
                        raise self._error(server, failed) from None
                    server.problem = str(failed)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _bring_back(self, server: Served) -> None:
        async with server.changing:
            await server.look()
            while missing := sorted(self._wanted.keys() - server.held):
                await server.load(missing[0], self._wanted[missing[0]])
            if not server.held:
                raise RequestFailed("is changing its weights")
            await server.try_out()
            # Unless another version has come meanwhile; then the next look loads it.
            server.in_service = self._wanted.keys() <= server.held

    def _take_out(self, server: Served, failed: RequestFailed) -> None:
        if server.in_service:
            print(f"vLLM server {server.url} {failed}; taken out until it answers again", file=sys.stderr, flush=True)
            server.was_taken_out = True
        server.in_service, server.problem = False, str(failed)

    def _least_loaded(self, version: int | None) -> Served | None:
        able = [s for s in self._servers if s.in_service and (version is None or version in s.held)]
        return min(able, key=lambda server: server.num_in_flight, default=None)

    async def _until(self, find: Callable[[], Served | None], what: str) -> Served:
        """The server that `find` finds, now or later."""
        deadline = asyncio.get_running_loop().time() + self._patience_s
        while True:
            for watcher in self._watchers:
                if watcher.done():
                    watcher.result()  # raises: waiting would not help
            if server := find():
                return server
            if asyncio.get_running_loop().time() > deadline:
                problems = "; ".join(f"vLLM server {server.url} {server.problem}" for server in self._servers)
                raise PolicyError(
                    f"no vLLM server {what} after {self._patience_s:.0f} s: {problems}; see vllm-*.log under {self._logs}"
                )
            await asyncio.sleep(_POLL_S)

    def _error(self, server: Served, failed: RequestFailed) -> PolicyError:
        return PolicyError(f"vLLM server {server.url} {failed}; see vllm-*.log under {self._logs}")


def _is_refusal(failed: RequestFailed) -> bool:
    """Whether the request is at fault, and would be at every server."""
    return failed.status is not None and failed.status < 500 and not isinstance(failed, OtherVersion)
