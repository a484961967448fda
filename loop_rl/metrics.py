"""Figures of a run: one line of metrics.jsonl an iteration, the same to TensorBoard."""

from __future__ import annotations

import json
import time
from collections import Counter
from statistics import fmean

from loop_rl.rollout import EndReason, Group
from loop_rl.run_dir import RunDir, write_atomically


def describe_groups(groups: list[Group], iteration: int, num_kept: int) -> dict[str, float]:
    """What the sampler delivered for one iteration.

    Shares and returns are fractions in [0, 1], staleness is in policy versions, times in seconds.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    staleness = [iteration - turn.policy_version for r in rollouts for turn in r.turns for _ in turn.action_ids]
    num_action_tokens = sum(r.num_action_tokens for r in rollouts)
    span_s = max(r.started_at + r.duration_s for r in rollouts) - min(r.started_at for r in rollouts)
    ends = Counter(r.end_reason for r in rollouts)
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
    } | {f"end/{reason.value}": ends[reason.value] / len(rollouts) for reason in EndReason}


class MetricsWriter:
    """Appends to metrics.jsonl and TensorBoard; a resumed run takes back lines of iterations it will do again."""

    def __init__(self, run: RunDir, first_iteration: int) -> None:
        # Imported here because it takes seconds and only the main rank writes.
        from torch.utils.tensorboard import SummaryWriter

        self._file = run.metrics_file
        kept = [line for line in read_metrics(run) if line["iteration"] < first_iteration]
        write_atomically(self._file, "".join(json.dumps(line) + "\n" for line in kept))
        self._tensorboard = SummaryWriter(str(run.path / "tensorboard"), purge_step=first_iteration)

    def write(self, iteration: int, figures: dict[str, float]) -> None:
        line = {"iteration": iteration, "written_at": time.time()} | figures
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in figures.items():
            self._tensorboard.add_scalar(name, value, iteration)
        self._tensorboard.flush()

    def close(self) -> None:
        self._tensorboard.close()


def read_metrics(run: RunDir) -> list[dict[str, float]]:
    """All complete lines of metrics.jsonl; the last one may be half-written by a process that was killed."""
    if not run.metrics_file.exists():
        return []
    lines = run.metrics_file.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]
