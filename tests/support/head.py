"""The supervisor of a run on several hosts (hosts.py), as tests start, watch and harm it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import Network
from test_end_to_end import PATIENCE_S, REPO, processes_of

from loop_rl.store.run_dir import RunDir


class Head:
    """`make train NODES=n HOSTFILE=... ARGS="..."` on the first host of a network."""

    def __init__(self, net: Network, folder: Path, root: Path, settings: list[str]) -> None:
        self.run = RunDir(folder / "runs" / "several")
        self.output_file = folder / "output"
        settings = [
            f"runs_dir={folder / 'runs'}", "name=several", f"tasks.root={root}", "evaluation.split=dev", *settings,
        ]  # fmt: skip
        launch = [sys.executable, "-m", "loop_rl.launch", "--config", "configs/tiny.yaml"]
        launch += ["--nodes", str(len(net.names))]
        launch += ["--hostfile", str(net.hostfile), "--restarts", "9", *settings]
        self.command = [*net.enter(net.names[0]), *launch]
        self.environment = os.environ | {"REMOTE_SHELL": str(net.remote_shell)}

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, cwd=REPO, env=self.environment, stdout=self.output_file.open("ab"), stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    @property
    def num_restarts(self) -> int:
        return len(re.findall(r"\(restart \d+ of", self.output))

    def wait_until(self, condition: Callable[[], object], limit_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, f"nothing happened in {limit_s} s\n{self.output}"
            time.sleep(0.1)

    def wait_for_training(self, version: int) -> None:
        """Until this version is published and the trainer is at work on the next."""
        asked = time.time()

        def at_work() -> bool:
            status = self.run.read_status("trainer")  # may be that of a trainer which is gone
            return status.get("phase") == "training" and status["updated_at"] > asked

        self.wait_until(lambda: self.run.latest_version() >= version)
        self.wait_until(at_work)

    def pids(self, *words: str, without: str = "commands.launch") -> list[int]:
        return [
            pid
            for pid, command in processes_of(self.run).items()
            if all(word in command for word in words) and without not in command
        ]

    def kill(self, *words: str, without: str = "commands.launch") -> None:
        for pid in (pids := self.pids(*words, without=without))[-1:]:
            os.kill(pid, signal.SIGKILL)
        assert pids, f"no process {words}"


def gone_within(limit_s: float, run: RunDir) -> bool:
    deadline = time.monotonic() + limit_s
    while left := processes_of(run):
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {left}")
        time.sleep(0.2)
    return True
