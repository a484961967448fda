"""From rollouts to micro-batches: shuffle into minibatches, share out over ranks, pad.

Every rank plans for all ranks from the same numbers, so nothing has to be communicated.

Shapes: B rollouts of a micro-batch, T its longest rollout in tokens, N its action tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from loop_rl.data.samples import Sample


@dataclass
class MicroBatch:
    """What one forward and backward pass needs. All integers are int64, all floats float32."""

    input_ids_BT: Tensor
    """Right-padded. Under causal attention no token sees the padding behind it, so there is no attention mask."""
    first_position: int
    """Place of the first column in its rollout: 0, but in a piece of a sequence that several ranks share."""
    rows_N: Tensor
    positions_N: Tensor
    """Row and position of the hidden state that predicts the action token: one before the token itself."""
    targets_N: Tensor
    behaviour_logprobs_N: Tensor
    proximal_logprobs_N: Tensor
    """What the importance ratio divides by."""
    advantages_N: Tensor
    weights_N: Tensor
    """1 / (rollouts of the minibatch * action tokens of this rollout); see loss.policy_loss."""
    versions_N: Tensor
    """Policy version that sampled the token."""
    lengths: list[int]
    """Action tokens of each rollout, in the order in which they make up N."""
    num_tokens: int
    """Tokens of the rollouts, padding excluded; 0 marks a dummy."""

    def to(self, device: torch.device) -> MicroBatch:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return MicroBatch(**{name: v.to(device) if isinstance(v, Tensor) else v for name, v in moved.items()})


def shuffled_minibatches(num_samples: int, size: int, seed: int, iteration: int, epoch: int) -> list[list[int]]:
    """Indices 0..num_samples-1, ordered by (seed, iteration, epoch) and cut into minibatches; the last may be short."""
    order = list(range(num_samples))
    random.Random(f"{seed}/{iteration}/{epoch}").shuffle(order)
    return [order[start : start + size] for start in range(0, num_samples, size)]


def plan_microbatches(lengths: Sequence[int], num_ranks: int, max_tokens: int) -> list[list[list[int]]]:
    """Share samples of the given lengths out: plan[rank][i] is the i-th micro-batch of a rank, a list of indices.

    Ranks get about the same number of tokens: longest sample first, each to the rank with the fewest so far. A
    micro-batch holds samples of similar length, at most max_tokens with padding; a longer single sample goes alone.
    Every rank gets the same number of micro-batches, the missing ones empty, because ZeRO's collectives must match.
    """
    by_length = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    plan: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    load = [0] * num_ranks
    for index in by_length:
        rank = load.index(min(load))
        load[rank] += lengths[index]
        open_microbatch = plan[rank][-1] if plan[rank] else None
        # The first sample of a micro-batch is its longest, which all others are padded to.
        if open_microbatch and lengths[open_microbatch[0]] * (len(open_microbatch) + 1) <= max_tokens:
            open_microbatch.append(index)
        else:
            plan[rank].append([index])
    most = max(len(microbatches) for microbatches in plan)
    return [microbatches + [[] for _ in range(most - len(microbatches))] for microbatches in plan]


def collate(samples: Sequence[Sample], num_rollouts: int) -> MicroBatch:
    """Pad samples into one micro-batch of a minibatch of num_rollouts; no samples give a dummy of weight zero."""
    if not samples:
        return _dummy()
    input_ids_BT = torch.zeros(len(samples), max(sample.num_tokens for sample in samples), dtype=torch.int64)
    rows, positions, targets, advantages, weights, versions, lengths = [], [], [], [], [], [], []
    behaviour_logprobs, proximal_logprobs = [], []
    for row, sample in enumerate(samples):
        sequence = sample.sequence
        input_ids_BT[row, : sample.num_tokens] = torch.tensor(sequence.token_ids)
        actions = [position for position, is_action in enumerate(sequence.action_mask) if is_action]
        lengths.append(len(actions))
        rows += [row] * len(actions)
        positions += [position - 1 for position in actions]
        targets += [sequence.token_ids[position] for position in actions]
        behaviour = [sequence.logprobs[position] for position in actions]
        behaviour_logprobs += behaviour
        proximal_logprobs += behaviour if sample.proximal_logprobs is None else sample.proximal_logprobs
        advantages += [sample.advantage] * len(actions)
        weights += [1 / (num_rollouts * len(actions))] * len(actions)
        versions += [sequence.versions[position] for position in actions]
    return MicroBatch(
        input_ids_BT,
        first_position=0,
        rows_N=torch.tensor(rows),
        positions_N=torch.tensor(positions),
        targets_N=torch.tensor(targets),
        behaviour_logprobs_N=torch.tensor(behaviour_logprobs, dtype=torch.float32),
        proximal_logprobs_N=torch.tensor(proximal_logprobs, dtype=torch.float32),
        advantages_N=torch.tensor(advantages, dtype=torch.float32),
        weights_N=torch.tensor(weights, dtype=torch.float32),
        versions_N=torch.tensor(versions),
        lengths=lengths,
        num_tokens=sum(sample.num_tokens for sample in samples),
    )


def _dummy() -> MicroBatch:
    """The cheapest pass that visits every parameter and gives a zero gradient."""
    zero_N, zero_float_N = torch.zeros(1, dtype=torch.int64), torch.zeros(1)
    return MicroBatch(
        torch.zeros(1, 2, dtype=torch.int64),
        first_position=0,
        rows_N=zero_N,
        positions_N=zero_N,
        targets_N=zero_N,
        behaviour_logprobs_N=zero_float_N,
        proximal_logprobs_N=zero_float_N,
        advantages_N=zero_float_N,
        weights_N=zero_float_N,
        versions_N=zero_N,
        lengths=[],
        num_tokens=0,
    )
