"""The cut of a micro-batch into pieces, and models that cannot be cut; training on pieces is in test_trainer.py."""

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from loop_rl.algorithms.aggregation import Average, Size
from loop_rl.config.base import ConfigError
from loop_rl.data.samples import Sample
from loop_rl.training.batching import collate
from loop_rl.training.sequence_parallel import require_divisible_heads, shard

masks = st.lists(st.booleans(), min_size=1, max_size=30).map(lambda mask: [False, *mask]).filter(any)


def sample(mask):
    """Each token's id is its place + 1, its log-probability minus its place."""
    actions = [place for place, is_action in enumerate(mask) if is_action]
    columns = {"behaviour": [-float(place) for place in actions]}
    return Sample(
        "r", len(actions), 1, [place + 1 for place in range(len(mask))], mask, [0] * len(actions), actions, columns
    )


def whole_batch(samples):
    return collate(samples, ["behaviour"], Average(), Size(5, 100))


@given(st.lists(masks, min_size=1, max_size=3), st.sampled_from([1, 2, 3, 4, 8]))
def test_pieces_have_every_action_token_once_at_the_column_that_predicts_it(row_masks, size):
    whole = whole_batch([sample(mask) for mask in row_masks])
    pieces = [shard(whole, index, size) for index in range(size)]
    assert len({piece.input_ids_BT.shape for piece in pieces}) == 1
    columns = torch.cat([piece.input_ids_BT for piece in pieces], dim=1)
    assert torch.equal(columns[:, : whole.input_ids_BT.shape[1]], whole.input_ids_BT)
    found = []
    for piece in pieces:
        assert sum(piece.lengths) == len(piece.targets_N) and len(piece.lengths) == len(row_masks)
        for n, target in enumerate(piece.targets_N.tolist()):
            row, column = piece.rows_N[n].item(), piece.positions_N[n].item()
            assert piece.input_ids_BT[row, column].item() == target - 1  # the token before the target
            assert piece.first_position + column == target - 2
            assert piece.columns_N["behaviour"][n].item() == 1 - target
            assert piece.versions_N[n].item() == target - 1
            found.append((row, target, piece.weights_N[n].item()))
    expected = zip(whole.rows_N.tolist(), whole.targets_N.tolist(), whole.weights_N.tolist(), strict=True)
    assert sorted(found) == sorted(expected)


def test_a_piece_of_a_dummy_is_a_dummy():
    pieces = [shard(whole_batch([]), index, 4) for index in range(4)]
    assert all(torch.count_nonzero(piece.weights_N) == 0 and piece.lengths == [] for piece in pieces)
    assert {piece.input_ids_BT.shape for piece in pieces} == {(1, 1)}


def test_heads_that_cannot_be_shared_out_are_refused_with_the_sizes_that_can(tmp_path):
    tiny.save_model(tmp_path / "model")  # 2 attention heads, 1 key-value head
    require_divisible_heads(tiny.make_config(tmp_path / "model", num_processes=4, sequence_parallel_size=2))
    config = tiny.make_config(tmp_path / "model", num_processes=4, sequence_parallel_size=4)
    with pytest.raises(ConfigError) as error:
        require_divisible_heads(config)
    assert str(error.value) == (
        f"trainer.sequence_parallel_size=4: {tmp_path / 'model'} has 2 attention heads and 1 key-value heads, which "
        "cannot be shared out over 4 ranks; choose one of [1, 2]"
    )
