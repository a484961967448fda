"""From samples to micro-batches: shuffle rollouts into minibatches, share their samples out over ranks, pad.

Every rank plans for all ranks from the same numbers, so nothing has to be communicated.

Shapes: B samples of a micro-batch, T its longest sample in tokens, N its action tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count

import torch
from torch import Tensor

from loop_rl.algorithms.aggregation import Average, Size, token_weights
from loop_rl.config.settings import Config
from loop_rl.data.samples import Sample


@dataclass
class MicroBatch:
    """What one forward and backward pass needs. All integers are int64, all floats float32."""

    input_ids_BT: Tensor
    """Right-padded. Under causal attention no token sees the padding behind it, so there is no attention mask."""
    first_position: int
    """Place of the first column in its sample: 0, but in a piece of a sequence that several ranks share."""
    rows_N: Tensor
    positions_N: Tensor
    """Row and position of the hidden state that predicts the action token: one before the token itself."""
    targets_N: Tensor
    columns_N: Mapping[str, Tensor]
    """By name, see `Sample.columns`."""
    weights_N: Tensor
    """What a token counts in the mean over the minibatch, see `aggregation.token_weights`."""
    versions_N: Tensor
    """Policy version that sampled the token."""
    turns_N: Tensor
    """Number of the token's turn, those of all samples counted through."""
    pairs_N: Tensor
    """Number of the token's group, those of the micro-batch counted through: two rollouts each where the objective compares pairs."""
    lengths: list[int]
    """Action tokens of each sample, in the order in which they make up N."""
    num_tokens: int
    """Tokens of the samples, padding excluded; 0 marks a dummy."""
    entropies_N: Tensor | None = None
    """Of the policy being trained; once its forward is done."""

    def sum_by(self, values_N: Tensor, level: str) -> Tensor:
        """[N], for each token the sum over its "turn", "trajectory" or "pair", with gradient."""
        groups_N = {"turn": self.turns_N, "trajectory": self.rows_N, "pair": self.pairs_N}[level]
        sums = values_N.new_zeros(int(groups_N.max()) + 1).index_add(0, groups_N, values_N)
        return sums[groups_N]

    def map_tokens(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        """With every tensor of shape [N] changed."""
        changed = {}
        for name, value in ((f.name, getattr(self, f.name)) for f in fields(self)):
            if isinstance(value, Tensor) and name.endswith("_N"):
                changed[name] = change(value)
            elif isinstance(value, dict):
                changed[name] = {column: change(values_N) for column, values_N in value.items()}
        return replace(self, **changed)

    def to(self, device: torch.device) -> MicroBatch:
        moved = self.map_tokens(lambda tensor_N: tensor_N.to(device))
        return replace(moved, input_ids_BT=self.input_ids_BT.to(device))


def by_rollout(samples: Sequence[Sample], pairs: bool = False) -> list[list[int]]:
    """Indices of the samples of each rollout, or of each pair of rollouts of a group, in the order of their first samples."""
    indices: dict[str | int, list[int]] = {}
    for index, sample in enumerate(samples):
        indices.setdefault(sample.group_id if pairs else sample.rollout_id, []).append(index)
    return list(indices.values())


def size_of(samples: Sequence[Sample], minibatch: Sequence[int]) -> Size:
    """Of a minibatch, given as indices of samples."""
    chosen = [samples[index] for index in minibatch]
    return Size(len({sample.rollout_id for sample in chosen}), sum(sample.num_action_tokens for sample in chosen))


def average_of(config: Config) -> Average:
    """What counts alike in a minibatch, as the config says."""
    algorithm = config.algorithm
    full = config.trainer.minibatch_rollouts if algorithm.minibatch_mean == "full" else 0
    return Average(algorithm.average, algorithm.average_tokens or 1, full)


def shuffled_minibatches(num_rollouts: int, size: int | None, seed: int, iteration: int, epoch: int) -> list[list[int]]:
    """Indices 0..num_rollouts-1, ordered by (seed, iteration, epoch) and cut into minibatches; the last may be short.

    size: None leaves them in one.
    """
    order = list(range(num_rollouts))
    random.Random(f"{seed}/{iteration}/{epoch}").shuffle(order)
    size = size or num_rollouts
    return [order[start : start + size] for start in range(0, num_rollouts, size)]


def plan_microbatches(lengths: Sequence[Sequence[int]], num_ranks: int, max_tokens: int) -> list[list[list[int]]]:
    """Share units, each of samples of the given lengths, out: plan[rank][i] is the i-th micro-batch of a rank, a list of
    indices of units. A unit is a sample, or the samples that must be together.

    Ranks get about the same number of tokens: longest sample first, each to the rank with the fewest so far. A
    micro-batch holds samples of similar length, at most max_tokens with padding; a longer single unit goes alone.
    Every rank gets the same number of micro-batches, the missing ones empty, because ZeRO's collectives must match.
    """
    by_length = sorted(range(len(lengths)), key=lambda index: -max(lengths[index]))
    plan: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    load = [0] * num_ranks
    for index in by_length:
        rank = load.index(min(load))
        load[rank] += sum(lengths[index])
        open_microbatch = plan[rank][-1] if plan[rank] else []
        num_samples = sum(len(lengths[unit]) for unit in [*open_microbatch, index])
        # The first unit of a micro-batch has its longest sample, which all others are padded to.
        if open_microbatch and max(lengths[open_microbatch[0]]) * num_samples <= max_tokens:
            open_microbatch.append(index)
        else:
            plan[rank].append([index])
    most = max(len(microbatches) for microbatches in plan)
    return [microbatches + [[] for _ in range(most - len(microbatches))] for microbatches in plan]


def collate(samples: Sequence[Sample], columns: Collection[str], average: Average, minibatch: Size) -> MicroBatch:
    """Pad samples into one micro-batch of a minibatch of this size; no samples give a dummy of weight zero.

    columns: names of those that are needed; KeyError where a sample lacks one.
    """
    if not samples:
        return _dummy(columns)
    input_ids_BT = torch.zeros(len(samples), max(sample.num_tokens for sample in samples), dtype=torch.int64)
    rows, positions, targets, weights, versions, turns, groups, lengths = [], [], [], [], [], [], [], []
    values: dict[str, list[float]] = {name: [] for name in columns}
    for row, sample in enumerate(samples):
        input_ids_BT[row, : sample.num_tokens] = torch.tensor(sample.token_ids)
        actions = [position for position, is_action in enumerate(sample.action_mask) if is_action]
        lengths.append(len(actions))
        rows += [row] * len(actions)
        positions += [position - 1 for position in actions]
        targets += [sample.token_ids[position] for position in actions]
        weights += token_weights(sample, average, minibatch)
        versions += sample.versions
        turns += [(row, turn) for turn in sample.turns]
        groups += [sample.group_id] * len(actions)
        for name in columns:
            values[name] += sample.columns[name]
    return MicroBatch(
        input_ids_BT,
        first_position=0,
        rows_N=torch.tensor(rows),
        positions_N=torch.tensor(positions),
        targets_N=torch.tensor(targets),
        columns_N={name: torch.tensor(column, dtype=torch.float32) for name, column in values.items()},
        weights_N=torch.tensor(weights, dtype=torch.float32),
        versions_N=torch.tensor(versions),
        turns_N=_counted_through(turns),
        pairs_N=_counted_through(groups),
        lengths=lengths,
        num_tokens=sum(sample.num_tokens for sample in samples),
    )


def _counted_through(names: Sequence[Hashable]) -> Tensor:
    """[N], for each name its number, in the order in which they first come."""
    number_of = dict(zip(dict.fromkeys(names), count(), strict=False))
    return torch.tensor([number_of[name] for name in names])


def _dummy(columns: Collection[str]) -> MicroBatch:
    """The cheapest pass that visits every parameter and gives a zero gradient."""
    zero_N, zero_float_N = torch.zeros(1, dtype=torch.int64), torch.zeros(1)
    return MicroBatch(
        torch.zeros(1, 2, dtype=torch.int64),
        first_position=0,
        rows_N=zero_N,
        positions_N=zero_N,
        targets_N=zero_N,
        columns_N=dict.fromkeys(columns, zero_float_N),
        weights_N=zero_float_N,
        versions_N=zero_N,
        turns_N=zero_N,
        pairs_N=zero_N,
        lengths=[],
        num_tokens=0,
    )
