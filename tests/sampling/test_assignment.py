"""The rules of asynchrony, against many random courses of a run."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from loop_rl.sampling.assignment import Outstanding, choose, max_outstanding, too_old


def course(
    size: int, staleness: int, iterations: int, wait: bool, seed: int
) -> tuple[list[list[int]], list[int], dict]:
    """A run in which things happen in random order: a group begins whenever it may, any group may be the next to finish, a
    version is published at any time after its iteration was assigned, a fifth of the groups take very long.

    Returns the groups of each iteration, those that were dropped, and the first version of each."""
    rng = random.Random(seed)
    slow = {g for g in range(10_000) if rng.random() < 0.2}
    outstanding: dict[int, Outstanding] = {}
    first_version: dict[int, int] = {}
    version, trained, dropped = 0, [], []
    while len(trained) < iterations:
        for number in too_old(outstanding.values(), len(trained), staleness):
            dropped.append(number)
            del outstanding[number]
        while len(outstanding) < max_outstanding(version, len(trained), size, staleness, iterations):
            number = len(first_version)
            first_version[number] = version
            outstanding[number] = Outstanding(number, version, False)
        if version == len(trained) and (chosen := choose(outstanding.values(), version, size, staleness, wait)):
            trained.append(chosen)
            for number in chosen:
                del outstanding[number]
            continue
        under_way = [group for group in outstanding.values() if not group.finished]
        quick = [group for group in under_way if group.group_id not in slow]
        may_publish = version < len(trained)
        if may_publish and (not under_way or rng.random() < 0.1):
            version += 1
            continue
        assert under_way, "nothing is left to wait for"
        if quick or not may_publish or rng.random() < 0.02:
            group = rng.choice(quick or under_way)
            outstanding[group.group_id] = replace(group, finished=True)
        else:
            version += 1
    return trained, dropped, first_version


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("staleness", [0, 1, 2, 3, 5])
def test_no_group_is_trained_on_twice_or_too_late_and_no_run_gets_stuck(staleness, wait):
    for seed in range(20):
        size = 1 + seed % 4
        trained, dropped, first_version = course(size, staleness, 12, wait, seed)
        numbers = [number for groups in trained for number in groups]
        assert [len(groups) for groups in trained] == [size] * 12 and len(set(numbers)) == 12 * size
        assert not set(numbers) & set(dropped) and not (wait and dropped)
        assert all(0 <= i - first_version[g] <= staleness for i, groups in enumerate(trained) for g in groups)


def test_one_version_behind_is_in_order_but_for_the_first_two_iterations_and_more_need_not_be():
    in_order = [[2 * i, 2 * i + 1] for i in range(12)]
    for seed in range(5):
        assert course(2, 0, 12, True, seed)[0] == in_order
        # The first two share what begins under version 0.
        assert course(2, 1, 12, True, seed)[0][2:] == in_order[2:]
    assert any(course(2, 3, 12, True, seed)[0] != in_order for seed in range(5))
    assert any(course(2, 1, 12, False, seed)[1] for seed in range(5))


def test_a_group_in_its_last_iteration_is_waited_for_unless_it_may_be_dropped():
    late = Outstanding(0, first_version=1, finished=False)
    others = [Outstanding(g, first_version=3, finished=True) for g in (1, 2, 3)]
    assert choose([late, *others], 2, 2, 2, wait=True) == [1, 2]
    assert choose([late, *others], 3, 2, 2, wait=True) is None
    assert choose([late, *others], 3, 2, 2, wait=False) == [1, 2]
    assert (too_old([late, *others], 3, 2), too_old([late, *others], 4, 2)) == ([], [0])


def test_room_is_kept_for_groups_that_have_to_come_soon():
    # Two groups of version 0 must be trained on by iteration 2, one an iteration: neither can wait any longer.
    outstanding = [Outstanding(g, 0, finished=False) for g in (0, 1)] + [Outstanding(3, 1, finished=True)]
    assert choose(outstanding, 1, 1, 2, wait=True) is None
    outstanding[1] = Outstanding(1, 0, finished=True)
    assert choose(outstanding, 1, 1, 2, wait=True) == [1]


def test_sampling_ends_with_the_last_iteration():
    assert (
        max_outstanding(newest_version=7, num_assigned=8, groups_per_iteration=5, max_staleness=3, num_iterations=9)
        == 5
    )
    assert (
        max_outstanding(newest_version=8, num_assigned=9, groups_per_iteration=5, max_staleness=3, num_iterations=9)
        == 0
    )
