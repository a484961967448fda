"""Follows what the trainer publishes."""

from __future__ import annotations

import asyncio

from loop_rl.serving.client import PolicyClient
from loop_rl.store.run_dir import RunDir


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
                await self._client.load_version(version, self._run.policy_folder(version))
                async with self._loaded:
                    self._loaded.notify_all()
            await asyncio.sleep(self._poll_s)

    async def wait_for(self, version: int) -> None:
        """Return when `version` or a newer one answers."""
        async with self._loaded:
            await self._loaded.wait_for(lambda: self._client.latest_version >= version)
