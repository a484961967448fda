"""Signs in a run's figures that it goes wrong; the names and bounds are explained in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ENTROPY_SHARE = 0.1
RATIO_MAX = 20.0
MISMATCH_NATS = {"float32": 1e-3, "bfloat16": 0.05}
FILTERED_SHARE = 0.9
WORKER_LOST_SHARE = 0.05
WAITING_SHARE = 0.75


def drift_warnings(history: Sequence[Mapping[str, float]], dtype: str) -> list[str]:
    """What is wrong after the last iteration of `history`, lines of metrics.jsonl; one short sentence each.

    dtype: compute type of the model, `model.dtype`; it sets how far sampler and trainer may be apart.
    """
    if not history:
        return []
    now = history[-1]
    warnings = []
    entropies = [line["policy/entropy"] for line in history if "policy/entropy" in line]
    if entropies and entropies[-1] < ENTROPY_SHARE * entropies[0]:
        warnings.append(f"entropy collapse: {entropies[-1]:.2g} nats, {entropies[0]:.2g} in the first iteration")
    if (ratio := now.get("policy/ratio_max", 1.0)) > RATIO_MAX:
        warnings.append(f"ratio explosion: the largest importance ratio is {ratio:.3g}")
    if (mismatch := now.get("policy/logprob_diff_mean", 0.0)) > MISMATCH_NATS[dtype]:
        warnings.append(
            f"sampler/trainer mismatch: log-probabilities differ by {mismatch:.2g} nats a token "
            f"(up to {MISMATCH_NATS[dtype]:g} is usual for {dtype})"
        )
    if (filtered := now["rollout/share_filtered"]) > FILTERED_SHARE:
        warnings.append(
            f"nothing to learn: {filtered:.0%} of the rollouts are filtered out; tasks too easy or too hard"
        )
    if (lost := now["end/worker_lost"]) > WORKER_LOST_SHARE:
        warnings.append(f"AppWorld: {lost:.0%} of the episodes lost their worker; see docs/metrics.md")
    if tampered := now.get("end/tampered", 0.0):
        warnings.append(
            f"tampering: {tampered:.1%} of the episodes changed more than APIs can; read them in the viewer"
        )
    recent = history[1:][-3:]  # before the first iteration nothing has been sampled yet, and everybody waits
    waited, worked = (sum(line[f"time/{name}"] for line in recent) for name in ("wait_s", "train_s"))
    if len(recent) == 3 and waited > WAITING_SHARE * (waited + worked):
        warnings.append(
            f"starving trainer: it waited for rollouts {waited / (waited + worked):.0%} of the last 3 iterations"
        )
    return warnings
