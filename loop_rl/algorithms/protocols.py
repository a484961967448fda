"""What a way of learning is made of: an advantage, a filter, an objective, penalties. The config's `algorithm` section names them.

Ours lie in a file each under advantages/, filters/, objectives/ and penalties/, as a class `Advantage`, `Filter`, `Objective` or
`Penalty`; one from outside is named `module:Class`. A part is made from the `algorithm` section, which holds the fields of its `Settings`, too.

Shapes: K rollouts of a group, N action tokens of a micro-batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from loop_rl.config.base import Section
from loop_rl.data.rollout import Rollout
from loop_rl.data.samples import Column

if TYPE_CHECKING:
    from torch import Tensor

Columns = Mapping[str, Column]
"""What is known of a rollout's action tokens, by name."""


class Batch(Protocol):
    """What an objective sees of a micro-batch."""

    columns_N: Mapping[str, Tensor]
    """float32, by name; those that the objective `reads`."""
    entropies_N: Tensor
    """Of the policy being trained, nats; with gradient where the objective `needs_entropies`."""

    def sum_by(self, values_N: Tensor, level: str) -> Tensor:
        """[N], for each token the sum over its "turn", "trajectory" or "pair", with gradient."""


@dataclass(frozen=True)
class Terms:
    """What an objective makes of a micro-batch; every tensor is [N]."""

    objective_N: Tensor
    """What is maximised; carries the gradient. The loss is minus its sum, weighted as `algorithm.average` says."""
    means: Mapping[str, Tensor] = field(default_factory=dict)
    """Figures by their names in metrics.jsonl, to be averaged over tokens."""
    maxima: Mapping[str, Tensor] = field(default_factory=dict)
    """Figures of which the largest counts."""
    shown: Mapping[str, Tensor] = field(default_factory=dict)
    """For whoever reads a rollout token by token (`loop_rl debug-loss`)."""


COMPUTED = frozenset({"recomputed", "reference"})
"""Columns that the trainer computes: log-probabilities under the policy that the iteration starts from, and under the untouched
model, that is without the adapter."""


class Part:
    """settings: the `algorithm` section."""

    Settings: ClassVar[type[Section]] = Section
    """The settings that it adds to that section."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings


class AdvantageEstimator(Part, ABC):
    """Gives every rollout of a group its advantage."""

    gives: frozenset[str] = frozenset({"advantage"})
    """Names of the columns."""
    reads: frozenset[str] = frozenset()
    """Columns that it needs: "value", of a critic, which is then made; "failed", 1 where the token's turn ended in an error, else 0;
    "next_value", one number, of a critic, too: of what would have been read next, 0 where nothing would; "charge", what penalties take
    off the reward at each token, which is otherwise taken off the rollout's score."""

    @abstractmethod
    def __call__(self, rollouts_K: Sequence[Rollout]) -> list[dict[str, Column]]:
        """The columns of each rollout: a float where one number holds for all its action tokens, or a number for each.

        One that `reads` columns gets them as a second argument, of each rollout a list by name.
        """

    def over_iteration(self, columns: dict[str, dict[str, Column]]) -> dict[str, dict[str, Column]]:
        """What becomes of the columns of all rollouts of an iteration, by their ids; here nothing."""
        return columns


class RolloutFilter(Part, ABC):
    """Decides which rollouts are trained on."""

    @abstractmethod
    def __call__(self, rollout: Rollout, columns: Columns) -> bool:
        """Whether this one is. columns: its advantage."""


class Objective(Part, ABC):
    """Turns log-probabilities into what is maximised."""

    compares_pairs: bool = False
    """Whether the rollouts that are kept of a group are two that it compares, so that they stay in one micro-batch."""

    @property
    def reads(self) -> frozenset[str]:
        """Columns that it needs: "behaviour", the log-probability that a token was sampled with; those that the trainer computes
        where it is asked for, see COMPUTED; and the estimator's."""
        return frozenset({"advantage"})

    @property
    def needs_entropies(self) -> bool:
        """Whether a gradient goes through the entropies."""
        return False

    @property
    def needs_whole_sequences(self) -> bool:
        """Whether tokens of a rollout have to do with each other, so that no sequence may be cut up between ranks."""
        return False

    @abstractmethod
    def __call__(self, logprobs_N: Tensor, batch: Batch) -> Terms:
        """logprobs_N: log-probabilities of the action tokens under the policy being trained, float32, with gradient."""

    def describe(self, columns_M: Mapping[str, Tensor]) -> dict[str, float]:
        """Figures of an iteration's M action tokens that are known before its first step."""
        return {}


class Penalty(Part, ABC):
    """Is taken off every token's objective; or off the rollout's reward, before there are advantages."""

    needs_entropies: ClassVar[bool] = False

    @property
    def reads(self) -> frozenset[str]:
        """Columns that it needs in the objective, as for `Objective.reads`."""
        return frozenset()

    @property
    def charges(self) -> frozenset[str]:
        """Columns of COMPUTED that `charge` needs; empty where nothing is taken off the reward."""
        return frozenset()

    @abstractmethod
    def __call__(self, logprobs_N: Tensor, batch: Batch) -> Terms:
        """What is taken off, as `objective_N`, with its figures; arguments as for `Objective`."""

    def charge(self, columns_N: Mapping[str, Tensor]) -> Tensor:
        """[N], what the reward is lowered by at each action token. columns_N: what it `charges`."""
        raise NotImplementedError
