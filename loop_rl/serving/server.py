"""One stock vLLM server as a child process: started, awaited, ended without leftovers.

GPU and CPU differ only in what is noted below. Nothing of vLLM is patched. Each policy version is a LoRA adapter that
`loop_rl.serving.client` loads by name while the server runs, or, where all weights are trained, new weights for the whole model.
"""

from __future__ import annotations

import http.client
import socket
import sys
import time
from pathlib import Path

from loop_rl.config.settings import Config
from loop_rl.machine.devices import is_cpu_build, visible_gpus
from loop_rl.machine.processes import ManagedProcess, stop_all
from loop_rl.serving.inside_vllm import HANG_TIMEOUT

BASE_MODEL = "base"
"""Name under which a server answers with the untouched base model, policy version 0."""
_EXTENSION = "loop_rl.serving.inside_vllm"
_POLL_S = 0.1
MAX_LORAS = 2
"""Adapters that a server holds for requests at the same time: an episode may cross from one version to the next."""
STOP_TIMEOUT_S = 4.0
_CPU_BATCHED_TOKENS = 2048
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's


class ServerFailed(RuntimeError):
    """A vLLM server ended before it answered, or never answered; the message holds the last lines of its log."""


class VllmServer:
    """Replica `index` of this node's vLLM servers. Output goes to `log`.

    host: the only address it listens on.
    secret: it answers only those who send this.
    """

    process: ManagedProcess
    """Set by `start`."""

    def __init__(self, config: Config, index: int, log: Path, host: str = "127.0.0.1", *, secret: str) -> None:
        self._config = config
        self._index = index
        self._log = log
        self._host = host
        self._secret = secret
        self.port = config.server.port + index if config.server.port else _free_port(host)

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    def start(self) -> None:
        """Start the process, again if it has ended; it answers only later, see `wait_until_ready`."""
        self.process = ManagedProcess(f"vllm-{self._index}", self.command(), self._log, self.environment())

    def wait_until_ready(self) -> None:
        """Return when the server answers.

        Raises:
            ServerFailed: it ended, or did not answer within `server.start_timeout_s` seconds.
        """
        deadline = time.monotonic() + self._config.server.start_timeout_s
        while self.problem() is not None:
            if (status := self.process.poll()) is not None:
                raise ServerFailed(
                    f"vLLM ended with exit status {status}; last lines of {self._log}:\n{self.process.log_tail()}"
                )
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"vLLM did not answer within {self._config.server.start_timeout_s:.0f} s "
                    f"(server.start_timeout_s); last lines of {self._log}:\n{self.process.log_tail()}"
                )
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End the server and all its children; harmless when it has not been started or has ended."""
        if hasattr(self, "process"):
            stop_all([self.process], STOP_TIMEOUT_S)

    def command(self) -> list[str]:
        config = self._config
        arguments = {
            "--model": config.model.path,
            "--served-model-name": BASE_MODEL,
            "--host": self._host,
            "--port": self.port,
            "--dtype": config.model.dtype,
            "--seed": config.seed,
            "--tensor-parallel-size": config.server.tensor_parallel_size,
            "--max-model-len": config.agent.max_context_tokens,
            # The log-probabilities asked for are those of the distribution that was sampled from.
            "--logprobs-mode": "processed_logprobs",
            # Sampling is what the request says, not what the model's generation_config.json adds to it.
            "--generation-config": "vllm",
        }
        flags = ["--disable-uvicorn-access-log"]
        if config.model.lora:
            flags.append("--enable-lora")
            # An upper bound, and only these are taken.
            arguments["--max-lora-rank"] = min(rank for rank in _LORA_RANKS if rank >= config.model.lora.rank)
            # Requests in flight are answered by the newest version and, around a change, by the one before.
            arguments["--max-loras"] = MAX_LORAS
        else:
            arguments["--worker-extension-cls"] = f"{_EXTENSION}.LoadPolicy"
            flags += ["--middleware", f"{_EXTENSION}.PolicyVersion"]
        flags += [
            "--middleware",
            f"{_EXTENSION}.Health",
            "--middleware",
            f"{_EXTENSION}.Guard",
        ]  # the last is the outermost
        if is_cpu_build():
            # A seeded request whose prompt is processed in pieces kills the engine ("CPU Generator does not use
            # offset"), so prompts are processed whole.
            flags.append("--no-enable-chunked-prefill")
            arguments["--max-num-batched-tokens"] = max(config.agent.max_context_tokens, _CPU_BATCHED_TOKENS)
            # Only whole blocks of a prefix are found again. The CPU's default of 128 tokens is longer than most turns.
            arguments["--block-size"] = 32
        # Not the `vllm` command: the CPU build's distribution has another name, and the command fails to find it.
        module = [sys.executable, "-m", "loop_rl.serving.start_vllm"]
        options = [str(part) for pair in arguments.items() for part in pair]
        return [*module, *options, *flags, *config.server.args]

    def environment(self) -> dict[str, str]:
        """Variables on top of this process's own."""
        variables = {
            # Not on the command line, which every user of the machine can read.
            "VLLM_API_KEY": self._secret,
            "VLLM_NO_USAGE_STATS": "1",
            HANG_TIMEOUT: str(self._config.server.hang_timeout_s),
        }
        if self._config.model.lora:
            variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
        if Path(self._config.model.path).exists():
            variables["HF_HUB_OFFLINE"] = "1"
        if is_cpu_build():
            # More threads are slower at the sizes that a CPU serves, and pinned ones fight with the trainer's.
            variables |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
            # The engine runs the model itself, not in one more process: starts 10 s sooner, saves a hop a step. vLLM
            # needs that process only to pin threads.
            variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        else:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(server_gpus(self._config, self._index, visible_gpus()))
        return variables

    def problem(self) -> str | None:
        """None when it says that it is well, what it says is wrong, or "" when it does not answer; known within 2 s."""
        connection = http.client.HTTPConnection(self._host, self.port, timeout=2)
        try:
            connection.request("GET", "/health", headers={"Authorization": f"Bearer {self._secret}"})
            reply = connection.getresponse()
            return (
                None if reply.status == 200 else reply.read(300).decode("utf-8", "replace") or f"status {reply.status}"
            )
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def num_server_gpus(config: Config) -> int:
    """GPUs of the vLLM servers of one node."""
    return config.server.replicas * config.server.tensor_parallel_size


def server_gpus(config: Config, index: int, visible: list[str]) -> list[str]:
    """Devices of vLLM replica `index` of a node."""
    size = config.server.tensor_parallel_size
    return visible[index * size : (index + 1) * size]
