"""The rules of asynchrony, against many random courses of a run."""

from __future__ import annotations

import random

import pytest

from loop_rl.assignment import Choice, Outstanding, choose, max_outstanding


def course(size: int, staleness: int, iterations: int, drop: bool, seed: int) -> tuple[list[Choice], dict[int, int]]:
    """A run in which things happen in random order: a group begins whenever it may, any group may be the next to finish, a
    version is published at any time after its iteration was assigned. Returns the choices and the first version of each group."""
    rng = random.Random(seed)
    slow = {g for g in range(10_000) if rng.random() < 0.2}
    outstanding: dict[int, Outstanding] = {}
    first_version: dict[int, int] = {}
    version, choices = 0, []
    while len(choices) < iterations:
        while len(outstanding) < max_outstanding(version, len(choices), size, staleness, iterations):
            number = len(first_version)
            first_version[number] = version
            outstanding[number] = Outstanding(number, version, False)
        under_way = [g for g in outstanding.values() if not g.finished]
        quick = [g for g in under_way if g.group_id not in slow]
        may_publish = version < len(choices)
        if may_publish and (not under_way or rng.random() < 0.1):
            version += 1
        elif quick or (under_way and (not may_publish or rng.random() < 0.02)):
            group = rng.choice(quick or under_way)
            outstanding[group.group_id] = Outstanding(group.group_id, group.first_version, True)
        elif may_publish:
            version += 1
        if version == len(choices):
            choice = choose(outstanding.values(), version, size, staleness, drop)
            if choice:
                choices.append(choice)
                for number in (*choice.groups, *choice.dropped):
                    del outstanding[number]
            elif sum(g.finished and g.first_version + staleness >= version for g in outstanding.values()) >= size:
                assert not drop  # otherwise some group in its last iteration is waited for
            else:
                assert any(not g.finished for g in outstanding.values()) or len(outstanding) < max_outstanding(
                    version, len(choices), size, staleness, iterations
                ), "nothing is left to wait for"
    return choices, first_version


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("staleness", [0, 1, 2, 3, 5])
def test_no_group_is_trained_on_twice_or_too_late_and_no_run_gets_stuck(staleness, drop):
    for seed in range(20):
        size = 1 + seed % 4
        choices, first_version = course(size, staleness, 12, drop, seed)
        trained = [number for choice in choices for number in choice.groups]
        dropped = [number for choice in choices for number in choice.dropped]
        assert len(trained) == 12 * size == len(set(trained)) and not set(trained) & set(dropped)
        assert all(0 <= i - first_version[g] <= staleness for i, choice in enumerate(choices) for g in choice.groups)
        assert all(i - first_version[g] > staleness for i, choice in enumerate(choices) for g in choice.dropped)
        assert drop or not dropped


def test_one_version_behind_without_dropping_is_in_order_and_more_need_not_be():
    in_order = [[2 * i, 2 * i + 1] for i in range(12)]
    for staleness in (0, 1):
        assert [choice.groups for choice in course(2, staleness, 12, False, seed=3)[0]] == in_order
    assert any([c.groups for c in course(2, 3, 12, False, seed)[0]] != in_order for seed in range(5))


def test_a_group_in_its_last_iteration_is_waited_for_unless_it_may_be_dropped():
    late = Outstanding(0, first_version=1, finished=False)
    others = [Outstanding(g, first_version=3, finished=True) for g in (1, 2, 3)]
    assert choose([late, *others], 2, 2, 2, drop=False) == Choice([1, 2], [])
    assert choose([late, *others], 3, 2, 2, drop=False) is None
    assert choose([late, *others], 3, 2, 2, drop=True) == Choice([1, 2], [])
    assert choose([late, *others], 4, 2, 2, drop=True) == Choice([1, 2], [0])


def test_room_is_kept_for_groups_that_have_to_come_soon():
    # Three groups of version 0 must be trained on by iteration 2, one an iteration: none can wait any longer.
    outstanding = [Outstanding(g, 0, finished=False) for g in (0, 1)] + [Outstanding(3, 1, finished=True)]
    assert choose(outstanding, 1, 1, 2, drop=False) is None
    outstanding[1] = Outstanding(1, 0, finished=True)
    assert choose(outstanding, 1, 1, 2, drop=False) == Choice([1], [])


def test_sampling_ends_with_the_last_iteration():
    assert (
        max_outstanding(newest_version=7, num_assigned=8, groups_per_iteration=5, max_staleness=3, num_iterations=9)
        == 5
    )
    assert (
        max_outstanding(newest_version=8, num_assigned=9, groups_per_iteration=5, max_staleness=3, num_iterations=9)
        == 0
    )
