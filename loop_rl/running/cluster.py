"""The head's view of the other nodes: starts a node process on each, hears from them, ends them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from loop_rl.config.settings import Config
from loop_rl.machine.network import own_address
from loop_rl.machine.processes import ManagedProcess
from loop_rl.running.hosts import Hosts
from loop_rl.running.node import BEAT_S, SILENCE_S
from loop_rl.serving.roles import Role, role_of
from loop_rl.store.run_dir import RunDir

_REPORT_S = 120.0
_STOP_S = 12.0
_POLL_S = 0.3
_LOG_LINES = 40  # a node tells how a process of its own ended, with 15 lines of that one's log
# What a process of ours may need of its environment, and a remote shell does not bring along.
_PASSED_ON = ("HF_", "HUGGING", "TRANSFORMERS_", "VLLM_", "NCCL_", "GLOO_", "TORCH_", "DS_", "WANDB_", "TRACKIO_")


class NodeLost(RuntimeError):
    """A node's process ended or fell silent; names the node, with the last lines of its log."""


class _Node:
    def __init__(self, run: RunDir, config: Config, hosts: Hosts, index: int, token: str, head: str) -> None:
        self.name = f"node {index} ({hosts.names[index]})"
        self.role = role_of(config, index)
        self._run = run
        self._status_name = f"node-{index}"
        self._token = token
        command = hosts.command(index, node_command(run, index, head, token))
        self.process = ManagedProcess(self.name, command, run.logs / f"node-{index}.log", stdin=subprocess.PIPE)
        os.set_blocking(self.process.stdin.fileno(), False)
        self.status: dict[str, Any] = {}
        """What it has published in this start of the run."""
        self.heard = time.monotonic()

    def tell(self, line: str) -> None:
        """Send a line; whether it arrives shows elsewhere."""
        with contextlib.suppress(OSError, ValueError):  # the pipe is full, broken or closed
            os.write(self.process.stdin.fileno(), f"{line}\n".encode())

    def listen(self) -> None:
        """Read its status; it lives when that has changed. Its clock may differ from ours."""
        status = self._run.read_status(self._status_name)
        if status.get("token") == self._token and status != self.status:
            self.status = status
            self.heard = time.monotonic()

    def check(self) -> None:
        """Raises NodeLost."""
        status = self.process.poll()
        if status is not None and not (status == 0 and self.role == Role.TRAINING):
            raise NodeLost(self.process.epitaph(_LOG_LINES))
        limit_s = SILENCE_S if self.status else _REPORT_S
        if status is None and time.monotonic() > self.heard + limit_s:
            raise NodeLost(
                f"{self.name}: no sign of life for {limit_s:.0f} s; last lines of {self.process.log}:\n"
                f"{self.process.log_tail(_LOG_LINES)}"
            )


class Cluster:
    """All nodes but the first; none of them for a run on one node, and then everything here returns at once."""

    def __init__(self, run: RunDir, config: Config, hosts: Hosts | None) -> None:
        self._run = run
        self._config = config
        self._hosts = hosts
        self._nodes: list[_Node] = []
        self._closing = threading.Event()

    def start(self) -> None:
        """Start the node processes. Raises NoAddress: this machine finds no way to another."""
        if self._hosts is None:
            return
        token = secrets.token_hex(8)
        self._run.write_status("head", token=token)
        head = own_address(self._hosts.address(1))
        environment = json.dumps({k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)})
        for index in range(1, len(self._hosts.names)):
            node = _Node(self._run, self._config, self._hosts, index, token, head)
            self._nodes.append(node)
            node.tell(environment)
        threading.Thread(target=self._keep_in_touch, daemon=True).start()

    def wait_until_reported(self) -> None:
        """Return when every node sees the run directory and has what its role needs. Raises NodeLost."""
        self._wait(lambda: all("address" in node.status for node in self._nodes))

    def wait_until_serving(self) -> None:
        """Return when the servers of all inference nodes answer. Raises NodeLost."""
        self._wait(lambda: all(node.status.get("urls") for node in self._nodes if node.role == Role.INFERENCE))

    @property
    def urls(self) -> list[str]:
        """Of the servers on these nodes."""
        return [url for node in self._nodes for url in node.status.get("urls", [])]

    def is_training(self) -> bool:
        """Whether a training node has not ended yet."""
        return any(node.process.poll() is None for node in self._nodes if node.role == Role.TRAINING)

    def train(self) -> None:
        """Let the training nodes begin."""
        for node in self._nodes:
            if node.role == Role.TRAINING:
                node.tell("train")

    def check(self) -> None:
        """Raises NodeLost: a node has failed or fallen silent."""
        for node in self._nodes:
            node.check()

    def dismiss(self) -> None:
        """Tell all to end, without waiting."""
        self._closing.set()
        for node in self._nodes:
            with contextlib.suppress(OSError):
                node.process.stdin.close()

    def stop(self) -> None:
        """Stop every node; safe at any time."""
        self.dismiss()
        deadline = time.monotonic() + _STOP_S
        for node in self._nodes:
            if not node.process.wait(max(0.0, deadline - time.monotonic())):
                node.process.request_stop()  # srun passes it on
                node.process.wait(1.0)
            node.process.kill_session()

    def _wait(self, done: Callable[[], bool]) -> None:
        """Bounded by the nodes' own limits: a node that waits too long ends, and one that hangs falls silent."""
        while not done():
            self.check()
            time.sleep(_POLL_S)

    def _keep_in_touch(self) -> None:
        while not self._closing.wait(BEAT_S):
            for node in self._nodes:
                node.tell("")
                with contextlib.suppress(OSError, ValueError):
                    node.listen()


def node_command(run: RunDir, index: int, head: str, token: str) -> list[str]:
    """The process of node `index`, as it is run there."""
    command = [
        sys.executable,
        "-m",
        "loop_rl.running.node",
        "--run-dir",
        str(run.path.resolve()),
        "--index",
        str(index),
    ]
    return [*command, "--head", head, "--token", token]
