"""What an iteration's micro-batches add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from loop_rl.algorithms.figures import TokenSums
from loop_rl.algorithms.protocols import Terms
from loop_rl.data.samples import Sample
from loop_rl.data.updates import TokenValues
from loop_rl.training.batching import MicroBatch


@dataclass(frozen=True)
class Update:
    """What became of one iteration."""

    figures: dict[str, float]
    tokens: dict[str, TokenValues]
    """Of the rollouts that were trained on, by their ids."""

    @classmethod
    def skipped(cls) -> Update:
        """Of an iteration without any rollout to train on."""
        return cls({"num_steps": 0}, {})


@dataclass
class Totals:
    """Sums over the micro-batches of an iteration."""

    loss: float = 0.0
    """Sum over rollouts."""
    value_loss: float = 0.0
    """Likewise, of a critic."""
    tokens: TokenSums = field(default_factory=TokenSums)
    mismatch_sum: float = 0.0
    mismatch_max: float = 0.0
    mismatch_tokens: int = 0
    last_epoch: dict[int, TokenValues] = field(default_factory=dict)
    """By index of the sample; one rank has each, or those that share its sequence have a piece each."""
    peak_memory: int = 0
    """In bytes, of one rank."""

    def add(self, loss: float, terms: Terms, entropies_N: Tensor) -> None:
        """A micro-batch. loss: its part of the sum over rollouts."""
        self.loss += loss
        self.tokens += TokenSums.of({**terms.means, "entropy": entropies_N}, terms.maxima)

    def add_mismatch(self, log_ratio_M: Tensor) -> None:
        """log_ratio_M: trainer minus sampler log-probability of the M tokens sampled from the very same policy."""
        if log_ratio_M.numel():
            self.mismatch_sum += log_ratio_M.abs().sum().item()
            self.mismatch_max = max(self.mismatch_max, log_ratio_M.abs().max().item())
            self.mismatch_tokens += log_ratio_M.numel()

    def figures(self) -> dict[str, float]:
        """Means over tokens, and what was largest."""
        figures = self.tokens.figures()
        figures |= {"num_action_tokens": self.tokens.num_tokens, "peak_memory_gib": self.peak_memory / 2**30}
        if self.mismatch_tokens:
            figures |= {
                "logprob_diff_mean": self.mismatch_sum / self.mismatch_tokens,
                "logprob_diff_max": self.mismatch_max,
                "logprob_diff_tokens": self.mismatch_tokens,
            }
        return figures

    def by_rollout(self, samples: Sequence[Sample]) -> dict[str, TokenValues]:
        """What the last epoch computed, by rollout; `samples` are those that `last_epoch` counts. Where it was ended early, those
        that it has not come to are missing."""
        values: dict[str, TokenValues] = {}
        for index, sample in enumerate(samples):
            if index not in self.last_epoch:
                continue
            ours, before = self.last_epoch[index], values.get(sample.rollout_id)
            values[sample.rollout_id] = before + ours if before else ours
        return values

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.loss + other.loss,
            self.value_loss + other.value_loss,
            self.tokens + other.tokens,
            self.mismatch_sum + other.mismatch_sum,
            max(self.mismatch_max, other.mismatch_max),
            self.mismatch_tokens + other.mismatch_tokens,
            _joined(self.last_epoch, other.last_epoch),
            max(self.peak_memory, other.peak_memory),
        )


def by_sample(indices: list[int], batch: MicroBatch, logprobs_N: Tensor, entropies_N: Tensor) -> dict[int, TokenValues]:
    """The values of a micro-batch's tokens, by index of the sample."""
    parts = zip(indices, logprobs_N.split(batch.lengths), entropies_N.split(batch.lengths), strict=True)
    return {index: TokenValues(logprobs_n.tolist(), entropies_n.tolist()) for index, logprobs_n, entropies_n in parts}


def _joined(first: dict[int, TokenValues], second: dict[int, TokenValues]) -> dict[int, TokenValues]:
    """Of two ranks; a sample that both have a piece of has its first piece in `first`."""
    return first | {index: first[index] + values if index in first else values for index, values in second.items()}
