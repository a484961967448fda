"""Which groups an iteration trains on, and how many may be sampled ahead: the rules of asynchrony, as pure functions.

Iteration i starts from policy version i. A group of which the first rollout starts under version v holds tokens of v and
of newer versions, so trained on in iteration i it is at most i - v versions old. With `max_staleness` s it can be
trained on up to iteration v + s, its *last iteration*.

Two rules together (`sampler.over_stale: refuse`) keep every token within the bound without throwing any away:

1. `max_outstanding`: with the newest version v and a iterations assigned, at most (v + s + 1 - a) G groups are
   outstanding (begun, not assigned). All of them then find a place in the iterations a ... v + s, of G groups each.
2. `choose` takes finished groups, those with the earliest last iteration first, and waits if taking them would leave more
   groups of some last iteration than there is room for until then. This is scheduling by earliest deadline.

Without that waiting (`drop`) a group can become `too_old`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Outstanding:
    """A group that has begun and belongs to no iteration yet."""

    group_id: int
    """Groups are numbered in the order in which they began."""
    first_version: int
    """Newest policy version when it began; none of its tokens is older."""
    finished: bool


def max_outstanding(
    newest_version: int, num_assigned: int, groups_per_iteration: int, max_staleness: int, num_iterations: int
) -> int:
    """Groups that may be outstanding at a time; no new one begins while there are as many."""
    return (min(newest_version + max_staleness + 1, num_iterations) - num_assigned) * groups_per_iteration


def too_old(outstanding: Collection[Outstanding], iteration: int, max_staleness: int) -> list[int]:
    """Groups that neither this iteration nor a later one may train on. Leave them out before applying
    either rule; with `wait` there are none."""
    return sorted(group.group_id for group in outstanding if group.first_version + max_staleness < iteration)


def choose(
    outstanding: Collection[Outstanding], iteration: int, groups_per_iteration: int, max_staleness: int, wait: bool
) -> list[int] | None:
    """The groups of an iteration, in the order of their numbers; None while more of them have to finish.

    Args:
        wait: for groups that a later iteration would find too old. Otherwise for none in particular.
    """

    def last_iteration(group: Outstanding) -> int:
        return group.first_version + max_staleness

    by_deadline = sorted(outstanding, key=lambda group: (last_iteration(group), group.group_id))
    taken = [group for group in by_deadline if group.finished][:groups_per_iteration]
    if len(taken) < groups_per_iteration:
        return None
    if wait:
        for last in {last_iteration(group) for group in outstanding}:
            left = sum(last_iteration(g) <= last for g in outstanding) - sum(last_iteration(g) <= last for g in taken)
            if left > (last - iteration) * groups_per_iteration:
                return None
    return sorted(group.group_id for group in taken)
