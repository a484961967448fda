"""All vLLM servers of this node: started together, started again when one fails, ended together."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from loop_rl.config.settings import Config
from loop_rl.machine.processes import stop_all
from loop_rl.serving.server import STOP_TIMEOUT_S, ServerFailed, VllmServer

_MAX_RESTARTS = 3
_LOOK_EVERY_S = 5.0
_MAX_SILENCE_S = 60.0


@dataclass
class _Replica:
    index: int
    server: VllmServer
    num_restarts: int = 0
    silent_since: float = 0.0
    """When it was last well, or was started again."""
    starting: bool = False
    """It has not been well since it was started again."""


class Replicas:
    """`server.replicas` vLLM servers on ports of `host`; replica i logs to `logs`/vllm-i.log."""

    def __init__(self, config: Config, logs: Path, secret: str, host: str = "127.0.0.1") -> None:
        self._replicas = [
            _Replica(index, VllmServer(config, index, logs / f"vllm-{index}.log", host, secret=secret))
            for index in range(config.server.replicas)
        ]
        self._start_timeout_s = config.server.start_timeout_s
        self._last_look = 0.0

    @property
    def urls(self) -> list[str]:
        return [replica.server.url for replica in self._replicas]

    def start(self) -> None:
        """Start all; see `wait_until_ready`."""
        for replica in self._replicas:
            replica.server.start()

    def wait_until_ready(self) -> None:
        """Return when all answer. Raises ServerFailed: one ended, or did not answer within `server.start_timeout_s`."""
        for replica in self._replicas:
            replica.server.wait_until_ready()
        for replica in self._replicas:
            replica.silent_since = time.monotonic()

    def tend(self) -> None:
        """Start again what has ended, hangs, or has been silent for a minute. To be called often, once all are ready.

        Returns at once, or within 2 s for each that is silent; whether the new one is ready is not awaited.

        Raises:
            ServerFailed: a replica has failed once more than may be.
        """
        for replica in self._replicas:
            if replica.server.process.poll() is not None:
                self._restart(replica, replica.server.process.how_it_ended())
        if time.monotonic() < self._last_look + _LOOK_EVERY_S:
            return
        self._last_look = time.monotonic()
        for replica in self._replicas:
            limit_s = self._start_timeout_s if replica.starting else _MAX_SILENCE_S
            problem = replica.server.problem()
            if problem is None:
                replica.silent_since, replica.starting = time.monotonic(), False
            elif problem:
                self._restart(replica, f"is not well: {problem}")
            elif time.monotonic() > replica.silent_since + limit_s:
                self._restart(replica, f"has not answered for {limit_s:.0f} s")

    def stop(self) -> None:
        """End all and everything below them; harmless when they have not been started or have ended."""
        servers = [replica.server for replica in self._replicas]
        stop_all([server.process for server in servers if hasattr(server, "process")], STOP_TIMEOUT_S)

    def _restart(self, replica: _Replica, problem: str) -> None:
        process = replica.server.process
        if replica.num_restarts == _MAX_RESTARTS:
            raise ServerFailed(
                f"{process.name} at {replica.server.url} {problem}, after {_MAX_RESTARTS} restarts; "
                f"last lines of {process.log}:\n{process.log_tail()}"
            )
        replica.num_restarts += 1
        print(f"{process.name} at {replica.server.url} {problem}; started again", file=sys.stderr, flush=True)
        process.kill_session()
        replica.server.start()
        replica.silent_since, replica.starting = time.monotonic(), True
