import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loop_rl.data.samples import Sample, TokenSequence
from loop_rl.training.batching import collate, plan_microbatches, shuffled_minibatches


@given(st.lists(st.integers(2, 200), min_size=1, max_size=40), st.integers(1, 8), st.integers(1, 400))
def test_plan_trains_every_sample_once_within_the_budget(lengths, num_ranks, max_tokens):
    plan = plan_microbatches(lengths, num_ranks, max_tokens)
    assert len(plan) == num_ranks
    assert len({len(microbatches) for microbatches in plan}) == 1
    assert sorted(index for rank in plan for microbatch in rank for index in microbatch) == list(range(len(lengths)))
    for microbatch in (microbatch for rank in plan for microbatch in rank if len(microbatch) > 1):
        assert max(lengths[index] for index in microbatch) * len(microbatch) <= max_tokens


@given(st.lists(st.integers(2, 200), min_size=1, max_size=40), st.integers(1, 8))
def test_no_rank_has_more_than_one_sample_too_many(lengths, num_ranks):
    plan = plan_microbatches(lengths, num_ranks, max_tokens=400)
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


def test_collate_by_hand():
    short = Sample(TokenSequence([7, 8], [False, True], [0.0, -0.5], [-1, 3]), advantage=0.25)
    long = Sample(
        TokenSequence([1, 2, 3, 4], [False, True, False, True], [0.0, -1.0, 0.0, -2.0], [-1, 2, -1, 3]), advantage=-1.0
    )
    batch = collate([long, short], num_rollouts=5)
    assert batch.input_ids_BT.tolist() == [[1, 2, 3, 4], [7, 8, 0, 0]]
    assert batch.rows_N.tolist() == [0, 0, 1]
    assert batch.positions_N.tolist() == [0, 2, 0]
    assert batch.targets_N.tolist() == [2, 4, 8]
    assert batch.behaviour_logprobs_N.tolist() == [-1.0, -2.0, -0.5]
    assert batch.proximal_logprobs_N.tolist() == [-1.0, -2.0, -0.5]
    assert batch.advantages_N.tolist() == [-1.0, -1.0, 0.25]
    assert batch.weights_N.tolist() == pytest.approx([0.1, 0.1, 0.2])
    assert batch.versions_N.tolist() == [2, 3, 3]
    assert batch.num_tokens == 6


def test_recomputed_logprobs_take_the_place_of_those_sampled_with_in_the_ratio_only():
    sequence = TokenSequence([1, 2, 3, 4], [False, True, False, True], [0.0, -1.0, 0.0, -2.0], [-1, 2, -1, 3])
    batch = collate([Sample(sequence, 1.0, proximal_logprobs=[-1.5, -2.5])], num_rollouts=1)
    assert batch.behaviour_logprobs_N.tolist() == [-1.0, -2.0]
    assert batch.proximal_logprobs_N.tolist() == [-1.5, -2.5]


def test_dummy_weighs_nothing():
    batch = collate([], num_rollouts=5)
    assert batch.num_tokens == 0
    assert torch.count_nonzero(batch.weights_N) == 0
