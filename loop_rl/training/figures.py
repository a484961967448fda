"""What the sampler delivered for an iteration, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from statistics import fmean

from loop_rl.data.rollout import EndReason, Group, Rollout


def describe_groups(
    groups: list[Group], iteration: int, num_kept: int, max_staleness: int, end_reasons: Iterable[str]
) -> dict[str, float]:
    """What the sampler delivered for one iteration. end_reasons: the environment's own.

    Shares and returns are fractions in [0, 1], staleness is in policy versions, times in seconds.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    # What no policy version has written (-1) is of no age.
    staleness = [
        iteration - turn.policy_version
        for r in rollouts
        for turn in r.turns
        for _ in turn.action_ids
        if turn.policy_version >= 0
    ]
    num_action_tokens = sum(r.num_action_tokens for r in rollouts)
    span_s = max(r.started_at + r.duration_s for r in rollouts) - min(r.started_at for r in rollouts)
    ends = Counter(r.end_reason for r in rollouts)
    ages = Counter(staleness)
    # Of pieces of episodes, those that are the last.
    ended = [r for r in rollouts if r.has_ended] or rollouts
    return {
        "rollout/return": fmean(r.episode_return for r in ended),
        "rollout/success": fmean(r.success for r in ended),
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
        **{f"end/{reason}": ends[reason] / len(rollouts) for reason in (*end_reasons, *map(str, EndReason))},
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
