from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loop_rl.algorithms.aggregation import Average, Size, token_weights
from loop_rl.data.samples import Sample
from loop_rl.training.batching import by_rollout, collate, plan_microbatches, shuffled_minibatches, size_of

LENGTHS = st.integers(2, 200)


@given(
    st.lists(st.lists(LENGTHS, min_size=1, max_size=4), min_size=1, max_size=40), st.integers(1, 8), st.integers(1, 400)
)
def test_plan_trains_every_unit_once_within_the_budget(lengths, num_ranks, max_tokens):
    plan = plan_microbatches(lengths, num_ranks, max_tokens)
    assert len(plan) == num_ranks
    assert len({len(microbatches) for microbatches in plan}) == 1
    assert sorted(index for rank in plan for microbatch in rank for index in microbatch) == list(range(len(lengths)))
    for microbatch in (microbatch for rank in plan for microbatch in rank if len(microbatch) > 1):
        samples = [length for unit in microbatch for length in lengths[unit]]
        assert max(samples) * len(samples) <= max_tokens


@given(st.lists(LENGTHS, min_size=1, max_size=40), st.integers(1, 8))
def test_no_rank_has_more_than_one_sample_too_many(lengths, num_ranks):
    plan = plan_microbatches([[length] for length in lengths], num_ranks, max_tokens=400)
    loads = [sum(lengths[index] for microbatch in rank for index in microbatch) for rank in plan]
    assert max(loads) - min(loads) <= max(lengths)


@given(st.integers(1, 100), st.integers(1, 40))
def test_minibatches_cover_all_samples_and_only_the_last_is_short(num_samples, size):
    minibatches = shuffled_minibatches(num_samples, size, seed=0, iteration=0, epoch=0)
    assert sorted(index for minibatch in minibatches for index in minibatch) == list(range(num_samples))
    assert all(len(minibatch) == size for minibatch in minibatches[:-1])
    assert 1 <= len(minibatches[-1]) <= size


def test_shuffle_depends_on_seed_iteration_and_epoch_alone():
    orders = [shuffled_minibatches(50, 50, *key)[0] for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert len({tuple(order) for order in orders}) == 4
    assert shuffled_minibatches(50, 50, 0, 0, 0)[0] == orders[0]


def make_sample(rollout_id="r", versions=(2, 3), turns=(0, 1), rollout_tokens=2, rollout_turns=2):
    """Two actions, the second and the fourth of four tokens."""
    columns = {"behaviour": [-1.0, -2.0], "advantage": [-1.0, 0.5]}
    mask = [False, True, False, True]
    return Sample(rollout_id, rollout_tokens, rollout_turns, [1, 2, 3, 4], mask, list(turns), list(versions), columns)


SHORT = Sample("s", 1, 1, [7, 8], [False, True], [0], [3], {"behaviour": [-0.5], "advantage": [0.25]})


def test_collate_by_hand():
    batch = collate([make_sample(), SHORT], ["behaviour", "advantage"], Average(), Size(5, 20))
    assert batch.input_ids_BT.tolist() == [[1, 2, 3, 4], [7, 8, 0, 0]]
    assert batch.rows_N.tolist() == [0, 0, 1]
    assert batch.positions_N.tolist() == [0, 2, 0]
    assert batch.targets_N.tolist() == [2, 4, 8]
    assert batch.columns_N["behaviour"].tolist() == [-1.0, -2.0, -0.5]
    assert batch.columns_N["advantage"].tolist() == [-1.0, 0.5, 0.25]
    assert batch.weights_N.tolist() == pytest.approx([0.1, 0.1, 0.2])
    assert batch.versions_N.tolist() == [2, 3, 3]
    assert batch.turns_N.tolist() == [0, 1, 2]
    assert batch.num_tokens == 6


def test_a_column_that_no_one_gave_is_an_error():
    with pytest.raises(KeyError, match="return"):
        collate([SHORT], ["return"], Average(), Size(1, 1))


def test_sums_by_turn_trajectory_and_pair_by_hand():
    samples = [replace(make_sample(turns=(0, 0)), group_id=7), SHORT, replace(make_sample(), group_id=7)]
    batch = collate(samples, [], Average(), Size(3, 5))
    values_N = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], requires_grad=True)
    assert batch.sum_by(values_N, "turn").tolist() == [3, 3, 4, 8, 16]
    assert batch.sum_by(values_N, "trajectory").tolist() == [3, 3, 4, 24, 24]
    assert batch.sum_by(values_N, "pair").tolist() == [27, 27, 4, 27, 27]
    batch.sum_by(values_N, "trajectory").sum().backward()
    assert values_N.grad.tolist() == [2, 2, 1, 2, 2]


def test_weights_of_every_average_by_hand():
    # A rollout of two samples: two tokens in turns 0 and 1, three in turn 2; and one of a single token.
    first = make_sample("a", rollout_tokens=5, rollout_turns=3)
    second = Sample("a", 5, 3, [9, 1, 2, 3], [False, True, True, True], [2] * 3, [1] * 3)
    samples, size = [first, second, SHORT], size_of([first, second, SHORT], [0, 1, 2])
    assert size == Size(2, 6)
    kinds = {kind: Average(kind) for kind in ("rollout", "turn", "token")}
    kinds |= {"sum": Average("sum", tokens=10), "full": Average("rollout", full_rollouts=8)}
    weights = {name: [token_weights(s, average, size) for s in samples] for name, average in kinds.items()}
    assert weights["rollout"] == [[1 / 10] * 2, [1 / 10] * 3, [1 / 2]]
    assert weights["turn"] == [[1 / 6] * 2, [pytest.approx(1 / 18)] * 3, [1 / 2]]
    assert weights["token"] == [[1 / 6] * 2, [1 / 6] * 3, [1 / 6]]
    assert weights["sum"] == [[1 / 20] * 2, [1 / 20] * 3, [1 / 20]]
    assert weights["full"] == [[1 / 40] * 2, [1 / 40] * 3, [1 / 8]]  # as if six more were there


def test_samples_of_a_rollout_stay_together():
    samples = [make_sample("b"), make_sample("a"), make_sample("b"), make_sample("c")]
    assert by_rollout(samples) == [[0, 2], [1], [3]]
    of_two_groups = [replace(sample, group_id=number // 2) for number, sample in enumerate(samples)]
    assert by_rollout(of_two_groups, pairs=True) == [[0, 1], [2, 3]]


def test_dummy_weighs_nothing():
    batch = collate([], ["behaviour", "return"], Average(), Size(5, 10))
    assert batch.num_tokens == 0
    assert torch.count_nonzero(batch.weights_N) == 0
    assert batch.columns_N.keys() == {"behaviour", "return"}
    assert batch.sum_by(batch.weights_N, "turn").tolist() == [0]
