"""Figures of a run: one line of metrics.jsonl an iteration, the same to TensorBoard and other trackers."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from statistics import fmean

from loop_rl.config import TrackingConfig
from loop_rl.rollout import EndReason, Group, Rollout
from loop_rl.run_dir import RunDir, write_atomically


def describe_groups(groups: list[Group], iteration: int, num_kept: int, max_staleness: int) -> dict[str, float]:
    """What the sampler delivered for one iteration.

    Shares and returns are fractions in [0, 1], staleness is in policy versions, times in seconds.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    staleness = [iteration - turn.policy_version for r in rollouts for turn in r.turns for _ in turn.action_ids]
    num_action_tokens = sum(r.num_action_tokens for r in rollouts)
    span_s = max(r.started_at + r.duration_s for r in rollouts) - min(r.started_at for r in rollouts)
    ends = Counter(r.end_reason for r in rollouts)
    ages = Counter(staleness)
    return {
        "rollout/return": fmean(r.reward for r in rollouts),
        "rollout/success": fmean(r.success for r in rollouts),
        "rollout/num_rollouts": len(rollouts),
        "rollout/turns": fmean(len(r.turns) for r in rollouts),
        "rollout/action_tokens": num_action_tokens / len(rollouts),
        "rollout/share_filtered": 1 - num_kept / len(rollouts),
        "rollout/staleness_mean": fmean(staleness) if staleness else 0.0,
        "rollout/staleness_max": max(staleness, default=0),
        "sampler/tokens_per_s": num_action_tokens / max(span_s, 1e-9),
        "sampler/rollouts_per_s": len(rollouts) / max(span_s, 1e-9),
        "time/sample_s": span_s,
        "time/generation_s_per_rollout": fmean(r.generation_s for r in rollouts),
        "time/environment_s_per_rollout": fmean(r.environment_s for r in rollouts),
        **{f"staleness/{age}": ages[age] / max(1, len(staleness)) for age in range(max_staleness + 1)},
        **{f"end/{reason.value}": ends[reason.value] / len(rollouts) for reason in EndReason},
    }


def describe_left_out(groups: list[Group], dropped: list[Rollout]) -> dict[str, float]:
    """How what is not trained on differs from what is: of rollouts that were cut off, and of those of dropped groups.

    Empty where nothing was left out. Lengths are in tokens that the policy wrote, returns in [0, 1].
    """
    kept = [rollout for group in groups for rollout in group.rollouts]
    figures = {}
    for name, left_out in (("cut", [r for group in groups for r in group.cut]), ("dropped", dropped)):
        if left_out:
            figures |= {
                f"{name}/num_rollouts": len(left_out),
                f"{name}/action_tokens": fmean(r.num_action_tokens for r in left_out),
                f"{name}/action_tokens_kept": fmean(r.num_action_tokens for r in kept),
                f"{name}/return": fmean(r.reward for r in left_out),
                f"{name}/return_kept": fmean(r.reward for r in kept),
            }
    return figures


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


class MetricsReader:
    """Reads metrics.jsonl as it grows."""

    def __init__(self, run: RunDir) -> None:
        self._path = run.metrics_file
        self._inode = 0
        self._position = 0
        self._last_iteration = -1

    def new_lines(self) -> list[dict[str, float]]:
        """Complete lines of iterations not returned yet; a last one may be half-written by a process that was killed."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            if (inode := os.fstat(file.fileno()).st_ino) != self._inode:  # a resumed trainer has replaced the file
                self._inode, self._position = inode, 0
            file.seek(self._position)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._position += len(whole + newline)
        lines = [line for line in map(json.loads, whole.splitlines()) if line["iteration"] > self._last_iteration]
        if lines:
            self._last_iteration = lines[-1]["iteration"]
        return lines


def read_metrics(run: RunDir) -> list[dict[str, float]]:
    """All complete lines of metrics.jsonl."""
    return MetricsReader(run).new_lines()
