"""Which groups an iteration trains on, and how many may be sampled ahead: the rules of asynchrony, as pure functions.

Iteration i starts from policy version i. A group of which the first rollout starts under version v holds tokens of v and
of newer versions, so trained on in iteration i it is at most i - v versions old. With `max_staleness` s it can be
trained on up to iteration v + s, its *last iteration*.

Two rules together keep every token within the bound without throwing any away:

1. `max_outstanding`: with the newest version v and a iterations assigned, at most (v + s + 1 - a) G groups are
   outstanding (begun, not assigned). All of them then find a place in the iterations a ... v + s, of G groups each.
2. `choose` takes finished groups, those with the earliest last iteration first, and waits if taking them would leave more
   groups of some last iteration than there is room for until then. This is scheduling by earliest deadline.
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


@dataclass(frozen=True)
class Choice:
    """What an iteration trains on."""

    groups: list[int]
    """In the order of their numbers."""
    dropped: list[int]
    """Too old by now for this or any later iteration; only where dropping is allowed."""


def max_outstanding(
    newest_version: int, num_assigned: int, groups_per_iteration: int, max_staleness: int, num_iterations: int
) -> int:
    """Groups that may be outstanding at a time; no new one begins while there are as many."""
    return (min(newest_version + max_staleness + 1, num_iterations) - num_assigned) * groups_per_iteration


def choose(
    outstanding: Collection[Outstanding], iteration: int, groups_per_iteration: int, max_staleness: int, drop: bool
) -> Choice | None:
    """The groups of an iteration; None while more of them have to finish.

    Args:
        drop: leave out what has become too old, and wait for no group in particular. Otherwise wait for those that a later
            iteration would find too old.
    """

    def last_iteration(group: Outstanding) -> int:
        return group.first_version + max_staleness

    too_old = [group for group in outstanding if last_iteration(group) < iteration]
    assert drop or not too_old, f"groups {too_old} are too old for iteration {iteration}"
    waiting = sorted(
        (group for group in outstanding if last_iteration(group) >= iteration),
        key=lambda g: (last_iteration(g), g.group_id),
    )
    taken = [group for group in waiting if group.finished][:groups_per_iteration]
    if len(taken) < groups_per_iteration:
        return None
    if not drop:
        for last in {last_iteration(group) for group in waiting}:
            left = sum(last_iteration(g) <= last for g in waiting) - sum(last_iteration(g) <= last for g in taken)
            if left > (last - iteration) * groups_per_iteration:
                return None
    return Choice(sorted(group.group_id for group in taken), sorted(group.group_id for group in too_old))
