"""Figures of a run: one line of metrics.jsonl an iteration, the same to TensorBoard and other trackers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loop_rl.config.settings import TrackingConfig
from loop_rl.machine.files import parse_lines, warn_of_damage, write_atomically
from loop_rl.store.run_dir import RunDir


class MetricsWriter:
    """Appends to metrics.jsonl and the trackers; a resumed run takes back lines of iterations it will do again.

    A tracker on the network cannot take back what it has: W&B and trackio keep their first figures of such an iteration.
    """

    def __init__(self, run: RunDir, first_iteration: int, tracking: TrackingConfig) -> None:
        # Imported here because it takes seconds and only the main rank writes.
        from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

        self._file = run.metrics_file
        kept = [line for line in read_metrics(run) if line["iteration"] < first_iteration]
        write_atomically(self._file, "".join(json.dumps(line) + "\n" for line in kept))
        name = run.path.name
        make = {
            "wandb": lambda: WandBTracker(tracking.project, name=name, id=name, resume="allow", dir=str(run.path)),
            "trackio": lambda: TrackioTracker(tracking.project, name=name, resume="allow"),
        }
        self._trackers = [TensorBoardTracker("tensorboard", run.path, purge_step=first_iteration)]
        self._trackers += [make[tracker]() for tracker in tracking.trackers]
        for tracker in self._trackers:
            tracker.start()
        for tracker in self._trackers[1:]:  # TensorBoard has config.yaml beside it
            tracker.store_init_configuration(run.config.model_dump())

    def write(self, iteration: int, figures: dict[str, float]) -> None:
        line = {"iteration": iteration, "written_at": time.time()} | figures
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for tracker in self._trackers:
            tracker.log(figures, step=iteration)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.finish()
        if any(tracker.name == "wandb" for tracker in self._trackers):
            import wandb

            wandb.teardown()  # W&B's own process may not have written all yet, and end_process runs no atexit functions


class MetricsReader:
    """Reads metrics.jsonl as it grows."""

    def __init__(self, run: RunDir, on_damage: Callable[[Path, str], None] = warn_of_damage) -> None:
        self._path = run.metrics_file
        self._on_damage = on_damage
        self._inode = 0
        self._position = 0
        self._num_lines = 0
        self._last_iteration = -1

    def new_lines(self) -> list[dict[str, float]]:
        """Complete lines of iterations not returned yet; a last one may be half-written by a process that was killed, see
        also `parse_lines`."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            if (inode := os.fstat(file.fileno()).st_ino) != self._inode:  # a resumed trainer has replaced the file
                self._inode, self._position, self._num_lines = inode, 0, 0
            file.seek(self._position)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._position += len(whole + newline)
        found = parse_lines(whole, _figures, self._path, self._num_lines + 1, self._on_damage)
        self._num_lines += len(whole.splitlines())
        lines = [line for line in found if line["iteration"] > self._last_iteration]
        if lines:
            self._last_iteration = lines[-1]["iteration"]
        return lines


def read_metrics(run: RunDir, on_damage: Callable[[Path, str], None] = warn_of_damage) -> list[dict[str, float]]:
    """All complete lines of metrics.jsonl."""
    return MetricsReader(run, on_damage).new_lines()


def _figures(line: dict[str, Any]) -> dict[str, float]:
    if not all(isinstance(value, (int, float)) for value in line.values()):
        raise ValueError(line)
    return line | {"iteration": int(line["iteration"])}
