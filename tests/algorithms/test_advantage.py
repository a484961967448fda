from dataclasses import replace

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from loop_rl.algorithms.advantages.critic import gae, rewards_of
from loop_rl.algorithms.advantages.dual_gae import Advantage as DualGae
from loop_rl.algorithms.advantages.dual_gae import Settings as DualSettings
from loop_rl.algorithms.advantages.dual_gae import dual_gae
from loop_rl.algorithms.advantages.error_shaped import Advantage as ErrorShaped
from loop_rl.algorithms.advantages.error_shaped import Settings as ErrorSettings
from loop_rl.algorithms.advantages.group_mean import group_mean
from loop_rl.algorithms.advantages.leave_one_out import leave_one_out
from loop_rl.algorithms.advantages.pair import pair, turn_weights
from loop_rl.algorithms.advantages.standard_deviation import divided_by_std
from loop_rl.algorithms.filters.informative import is_informative

rewards = st.lists(st.floats(0, 1), min_size=2, max_size=12)


def test_leave_one_out_by_hand():
    # Of 1, 0, 0.5, 0.5: 1 - (0 + 0.5 + 0.5)/3, 0 - (1 + 0.5 + 0.5)/3, 0.5 - (1 + 0 + 0.5)/3 twice.
    assert leave_one_out([1.0, 0.0, 0.5, 0.5]) == pytest.approx([2 / 3, -2 / 3, 0.0, 0.0])
    assert leave_one_out([1.0, 0.0]) == [1.0, -1.0]


@given(rewards)
def test_advantages_of_a_group_sum_to_zero(rewards_K):
    assert sum(leave_one_out(rewards_K)) == pytest.approx(0, abs=1e-9)


@given(rewards)
def test_equals_scaled_distance_from_the_mean(rewards_K):
    num, mean = len(rewards_K), sum(rewards_K) / len(rewards_K)
    assert leave_one_out(rewards_K) == pytest.approx(
        [num / (num - 1) * (reward - mean) for reward in rewards_K], abs=1e-9
    )


@given(rewards, st.floats(-1, 1))
def test_a_constant_added_to_all_rewards_changes_nothing(rewards_K, constant):
    assert leave_one_out([r + constant for r in rewards_K]) == pytest.approx(leave_one_out(rewards_K), abs=1e-9)


@pytest.mark.parametrize("rewards_K", [[], [0.5]])
def test_a_group_of_one_has_no_baseline(rewards_K):
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(rewards_K)


def test_filter_keeps_the_bound_itself():
    assert [is_informative(a, 0.01) for a in (0.01, -0.01, 0.0099, -0.0099, 0.0, 0.7)] == [
        True,
        True,
        *[False] * 3,
        True,
    ]


def test_filter_keeps_a_rollout_with_one_token_that_teaches():
    assert is_informative([0.0, 0.0, -0.02], 0.01) and not is_informative([0.0, 0.009], 0.01)
    assert not is_informative([], 0.01)


@given(st.floats(0, 1), st.integers(2, 12))
def test_filter_drops_a_group_that_scored_alike(reward, num_rollouts):
    assert not any(is_informative(advantage, 0.01) for advantage in leave_one_out([reward] * num_rollouts))


def test_group_mean_and_standard_deviation_by_hand():
    # Mean 0.5, population variance (0.25 + 0.25 + 0 + 0) / 4 = 0.125.
    rewards_K = [1.0, 0.0, 0.5, 0.5]
    assert group_mean(rewards_K) == pytest.approx([0.5, -0.5, 0, 0])
    assert divided_by_std(group_mean(rewards_K), rewards_K) == pytest.approx([2**0.5, -(2**0.5), 0, 0])


@given(rewards)
def test_group_mean_is_leave_one_out_made_smaller(rewards_K):
    share = (len(rewards_K) - 1) / len(rewards_K)
    assert group_mean(rewards_K) == pytest.approx([share * a for a in leave_one_out(rewards_K)], abs=1e-9)


@given(rewards, st.floats(0.1, 10))
def test_divided_by_the_standard_deviation_the_scale_of_rewards_is_gone(rewards_K, scale):
    if max(rewards_K) - min(rewards_K) > 1e-3:
        scaled = [scale * reward for reward in rewards_K]
        assert divided_by_std(group_mean(scaled), scaled) == pytest.approx(
            divided_by_std(group_mean(rewards_K), rewards_K), rel=1e-6, abs=1e-6
        )


def test_of_a_group_that_scored_alike_nothing_is_divided_by_zero():
    assert divided_by_std(group_mean([0.3] * 4), [0.3] * 4) == pytest.approx([0] * 4)


def test_a_pair_by_hand():
    assert pair([0.2, 0.9, 0.9, 0.1, 0.1], 0.1) == [0, 1, 0, -1, 0]
    assert pair([0.5, 0.6], 0.1) == [0, 0]  # not further apart than that
    assert pair([0.5, 0.5, 0.5], 0.1) == [0, 0, 0]


@given(st.integers(1, 40), st.floats(0.01, 1))
def test_turn_weights_are_the_share_of_all_discounts_that_is_still_to_come(num_turns, discount):
    discounts = [discount**t for t in range(num_turns)]
    weights = turn_weights(num_turns, discount)
    assert weights == pytest.approx([sum(discounts[t:]) / sum(discounts) for t in range(num_turns)], rel=1e-6)
    assert weights[0] == pytest.approx(1)


def test_gae_by_hand():
    rewards, values = [0.0, 0.0, 1.0], [0.5, 0.2, 0.6]
    assert gae(rewards, values, 1.0, 1.0) == pytest.approx([0.5, 0.8, 0.4])  # R - V_t
    assert gae(rewards, values, 1.0, 0.0) == pytest.approx([-0.3, 0.4, 0.4])  # one step
    last, before = 0.4, 0.9 * 0.6 - 0.2
    assert gae(rewards, values, 0.9, 0.8) == pytest.approx(
        [0.9 * 0.2 - 0.5 + 0.72 * (before + 0.72 * last), before + 0.72 * last, last]
    )


steps = st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1)), min_size=1, max_size=30)


@given(steps, st.floats(0.5, 1))
def test_with_lambda_1_an_advantage_is_the_discounted_return_less_the_value(steps, gamma):
    rewards, values = zip(*steps, strict=True)
    for t, advantage in enumerate(gae(rewards, values, gamma, 1.0)):
        discounted = sum(gamma ** (u - t) * rewards[u] for u in range(t, len(rewards)))
        assert advantage == pytest.approx(discounted - values[t], abs=1e-6)


def test_every_reward_of_a_rollout_counts_once():
    (rollout, *_), *_ = (group.rollouts for group in tiny.make_groups(1))
    for number, turn in enumerate(rollout.turns):
        turn.reward = 0.1 * (number + 1)
    assert sum(rewards_of(rollout)) == pytest.approx(rollout.reward)
    rollout.turns[0].action_ids = []
    assert sum(rewards_of(rollout)) == pytest.approx(rollout.reward) or not rollout.num_action_tokens
    assert len(rewards_of(rollout)) == rollout.num_action_tokens


def test_turns_that_failed_are_never_encouraged():
    (first, second, third, *_), *_ = (group.rollouts for group in tiny.make_groups(8) if len(group.rollouts) > 2)
    first.score, second.score, third.score = 1.0, 0.0, 0.5
    estimate = ErrorShaped(ErrorSettings())
    failed = [{"failed": [0.0, 1.0]}] * 3
    best, worst, middle = (columns["advantage"] for columns in estimate([first, second, third], failed))
    assert best == pytest.approx([0.5, 0.0])
    assert worst == pytest.approx([-0.5, -0.6])
    assert middle == pytest.approx([0.0, -0.2])


def slow_dual_gae(rewards, values, gamma_token, lambda_token, gamma_turn, lambda_turn):
    """Token by token, each from the formula alone."""

    def advantage(t: int, j: int) -> float:
        is_last, ends = j == len(values[t]) - 1, t == len(values) - 1
        if not is_last:
            delta = gamma_token * values[t][j + 1] - values[t][j]
            return delta + gamma_token * lambda_token * advantage(t, j + 1)
        if ends:
            return rewards[t] - values[t][j]
        delta = rewards[t] + gamma_turn * values[t + 1][0] - values[t][j]
        return delta + gamma_turn * lambda_turn * advantage(t + 1, 0)

    return [advantage(t, j) for t in range(len(values)) for j in range(len(values[t]))]


turns = st.lists(st.tuples(st.floats(-1, 1), st.lists(st.floats(0, 1), min_size=1, max_size=5)), min_size=1, max_size=6)
shares = st.floats(0.1, 1)


def at_the_end(rewards, values):
    """Rewards of turns, each at its last token."""
    return [[0.0] * (len(of_turn) - 1) + [reward] for reward, of_turn in zip(rewards, values, strict=True)]


@given(turns, st.tuples(shares, shares, shares, shares))
def test_dual_gae_is_its_formula(turns, discounts):
    rewards, values = zip(*turns, strict=True)
    ours = dual_gae(at_the_end(rewards, values), values, *discounts)
    assert ours == pytest.approx(slow_dual_gae(rewards, values, *discounts), abs=1e-9)


@given(turns, shares, shares)
def test_dual_gae_with_equal_pairs_is_gae(turns, gamma, lam):
    rewards, values = zip(*turns, strict=True)
    by_token = at_the_end(rewards, values)
    expected = gae(
        [reward for of_turn in by_token for reward in of_turn],
        [value for of_turn in values for value in of_turn],
        gamma,
        lam,
    )
    assert dual_gae(by_token, values, gamma, lam, gamma, lam) == pytest.approx(expected, abs=1e-9)


@given(turns, shares, shares)
def test_dual_gae_with_a_token_pair_of_1_is_gae_over_turns(turns, gamma, lam):
    rewards, values = zip(*turns, strict=True)
    firsts = [of_turn[0] for of_turn in values]
    of_turns = gae(rewards, firsts, gamma, lam)
    ours = dual_gae(at_the_end(rewards, values), values, 1.0, 1.0, gamma, lam)
    starts = [sum(map(len, values[:t])) for t in range(len(values))]
    assert [ours[start] for start in starts] == pytest.approx(of_turns, abs=1e-9)


def test_what_a_critic_learns_from_by_hand():
    (rollout, *_), *_ = (group.rollouts for group in tiny.make_groups(1))
    first, *others = rollout.turns
    rollout.turns, rollout.score = [first, replace(first, action_ids=[], reward=0.25), *others[:1]], 1.0
    lengths = [len(turn.action_ids) for turn in rollout.turns if turn.action_ids]
    num_tokens = sum(lengths)
    known = {"value": [0.5] * num_tokens, "charge": [0.0] * (num_tokens - 1) + [0.125], "next_value": [0.75]}
    settings = DualSettings(
        gamma_turn=1.0, lambda_turn=1.0, first_token_weight=3.0, whiten=True, bootstrap_limits=False
    )
    estimate = DualGae(settings)
    (columns,) = estimate([rollout], [known])
    # With every discount 1 the return is what is still to come: a turn without tokens earns for the one before.
    after_first = 0.875 if len(lengths) > 1 else None
    assert columns["return"] == pytest.approx(
        [1.125] * lengths[0] + [after_first] * (num_tokens - lengths[0]), abs=1e-9
    )
    assert columns["advantage"] == pytest.approx([r - 0.5 for r in columns["return"]])
    assert columns["value_weight"] == [w for n in lengths for w in [3.0] + [1.0] * (n - 1)]
    white = estimate.over_iteration({"r": columns})["r"]["advantage"]
    assert sum(white) == pytest.approx(0, abs=1e-6)
    assert sum(a * a for a in white) / num_tokens == pytest.approx(1 if len(lengths) > 1 else 0)


@given(turns, st.tuples(shares, shares, shares, shares), st.floats(0, 1), st.integers(1, 5))
def test_an_episode_in_two_pieces_has_the_advantages_of_one_whole_up_to_what_its_rest_was_expected_to_be(
    turns, discounts, next_value, cut
):
    # The piece before the cut, bootstrapped with V of the rest's first state, is the whole with a lambda of 0 at the cut.
    rewards, values = zip(*turns, strict=True)
    cut = min(cut, len(values))
    by_token = at_the_end(rewards, values)
    rest = values[cut][0] if cut < len(values) else next_value
    piece = dual_gae(by_token[:cut], values[:cut], *discounts, rest)
    whole = dual_gae(by_token, values, *discounts, next_value)
    if cut == len(values):
        assert piece == whole
        return
    gamma_token, lambda_token, gamma_turn, lambda_turn = discounts
    start = sum(map(len, values[:cut]))
    # From the last token of the piece on, each is short by the discounted advantage of the rest.
    short, t = gamma_turn * lambda_turn * whole[start], start
    for of_turn in reversed(values[:cut]):
        for j in reversed(range(len(of_turn))):
            t -= 1
            if j < len(of_turn) - 1:
                short *= gamma_token * lambda_token
            assert piece[t] + short == pytest.approx(whole[t], abs=1e-9)
        short *= gamma_turn * lambda_turn


@pytest.mark.parametrize(
    ("end_reason", "bootstrap_limits", "expected"),
    [("goes_on", False, 0.75), ("max_turns", False, 0.0), ("max_turns", True, 0.75), ("interrupted", True, 0.75)],
)
def test_what_stands_for_the_rest_of_an_episode(end_reason, bootstrap_limits, expected):
    (rollout, *_), *_ = (group.rollouts for group in tiny.make_groups(1))
    rollout.turns, rollout.score, rollout.end_reason = rollout.turns[:1], 0.0, end_reason
    num_tokens = rollout.num_action_tokens
    known = {"value": [0.25] * num_tokens, "charge": [0.0] * num_tokens, "next_value": [0.75]}
    estimate = DualGae(DualSettings(gamma_turn=0.5, bootstrap_limits=bootstrap_limits))
    (columns,) = estimate([rollout], [known])
    assert columns["return"] == pytest.approx([0.5 * expected] * num_tokens)
