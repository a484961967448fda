"""One vLLM server as a client of it sees it: which policy versions it holds, and one generation by one of them.

`ServedAdapters` holds many versions, each a LoRA adapter with a name of its own, beside the base model, version 0.
`ServedModel` holds one at a time, its weights (`loop_rl.serving.inside_vllm.PolicyVersion`).
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from loop_rl.data.rollout import version_name
from loop_rl.serving.http_client import RequestFailed, fetch
from loop_rl.serving.inside_vllm import CONFLICT, VERSION_HEADER
from loop_rl.serving.server import BASE_MODEL

_GENERATE_TIMEOUT_S = 600.0
_LOAD_ADAPTER_TIMEOUT_S = 120.0
# Generations under way end first, and some ten gigabytes are read.
_LOAD_MODEL_TIMEOUT_S = _GENERATE_TIMEOUT_S + 600.0
_LOOK_TIMEOUT_S = 30.0
_NO_SUCH_MODEL = 404


class OtherVersion(RequestFailed):
    """The server does not hold the version that it was asked for, as after a restart."""


class Served:
    """What both kinds share. Methods that talk to the server raise RequestFailed."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url
        self.held: set[int] = set()
        """Versions that it had when it was last asked or told."""
        self.in_service = False
        self.was_taken_out = False
        """It has been in service, and failed."""
        self.num_in_flight = 0
        self.problem = "it has not been asked yet"
        """Why it is out of service."""
        self.changing = asyncio.Lock()
        """Held by whoever makes it hold another version."""

    async def look(self) -> None:
        """Find out what it holds."""
        raise NotImplementedError

    async def load(self, version: int, folder: Path | None) -> None:
        """Make it hold a version; None is the base model's folder."""
        raise NotImplementedError

    async def unload(self, version: int) -> None:
        """Drop a version that nobody uses any more."""
        raise NotImplementedError

    def _naming(self, version: int) -> tuple[str, dict[str, str]]:
        """The model name and the headers by which a request names the version."""
        raise NotImplementedError

    async def generate(self, version: int, request: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """The answer of version `version`, and of no other, to a request without `model`. Raises also OtherVersion."""
        model, headers = self._naming(version)
        body = request | {"model": model}
        try:
            return json.loads(await self._post("/v1/completions", body, timeout_s or _GENERATE_TIMEOUT_S, headers))
        except RequestFailed as failed:
            if failed.status in (_NO_SUCH_MODEL, CONFLICT):
                raise OtherVersion(str(failed), failed.status) from None
            raise

    async def try_out(self) -> None:
        """Have it generate a token: a server whose engine is dead says that it is well until it is asked for one."""
        request = {"prompt": [0], "max_tokens": 1}
        await self.generate(max(self.held), request, _LOOK_TIMEOUT_S)

    async def _post(
        self, path: str, body: dict[str, Any], timeout_s: float, headers: dict[str, str] | None = None
    ) -> str:
        return await fetch(self._session, "POST", self.url, path, timeout_s, body, headers=headers, num_attempts=1)

    async def _get(self, path: str) -> dict[str, Any]:
        return json.loads(await fetch(self._session, "GET", self.url, path, _LOOK_TIMEOUT_S, num_attempts=1))


class ServedAdapters(Served):
    """Started with LoRA."""

    async def look(self) -> None:
        names = {model["id"] for model in (await self._get("/v1/models"))["data"]}
        self.held = {0} | {int(name.removeprefix("v")) for name in names - {BASE_MODEL}}

    async def load(self, version: int, folder: Path | None) -> None:
        request = {"lora_name": version_name(version), "lora_path": str(folder.resolve())}
        await self._post("/v1/load_lora_adapter", request, _LOAD_ADAPTER_TIMEOUT_S)
        self.held.add(version)

    async def unload(self, version: int) -> None:
        self.held.discard(version)
        await self._post("/v1/unload_lora_adapter", {"lora_name": version_name(version)}, _LOAD_ADAPTER_TIMEOUT_S)

    def _naming(self, version: int) -> tuple[str, dict[str, str]]:
        return (version_name(version) if version else BASE_MODEL), {}


class ServedModel(Served):
    """Started with full weights."""

    async def look(self) -> None:
        version = (await self._get("/policy"))["version"]
        self.held = set() if version is None else {version}

    async def load(self, version: int, folder: Path | None) -> None:
        self.held = set()
        request = {"version": version, "path": str(folder.resolve()) if folder else None}
        await self._post("/policy", request, _LOAD_MODEL_TIMEOUT_S)
        self.held = {version}

    async def unload(self, version: int) -> None:
        """The next version takes its place."""

    def _naming(self, version: int) -> tuple[str, dict[str, str]]:
        return BASE_MODEL, {VERSION_HEADER: str(version)}
