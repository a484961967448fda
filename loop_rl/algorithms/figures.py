"""Figures of an update: sums over action tokens, so that micro-batches and ranks combine exactly whatever their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class TokenSums:
    """Of figures by their names."""

    num_tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, means: Mapping[str, Tensor], maxima: Mapping[str, Tensor]) -> TokenSums:
        """Of tensors [N], one number a token."""
        (num_tokens,) = {values_N.numel() for values_N in [*means.values(), *maxima.values()]}
        if not num_tokens:
            return cls()
        return cls(
            num_tokens,
            {name: values_N.double().sum().item() for name, values_N in means.items()},
            {name: values_N.max().item() for name, values_N in maxima.items()},
        )

    def __add__(self, other: TokenSums) -> TokenSums:
        names, of_maxima = self.sums | other.sums, self.maxima | other.maxima
        return TokenSums(
            self.num_tokens + other.num_tokens,
            {name: self.sums.get(name, 0.0) + other.sums.get(name, 0.0) for name in names},
            {name: max(totals.maxima[name] for totals in (self, other) if name in totals.maxima) for name in of_maxima},
        )

    def figures(self) -> dict[str, float]:
        """Means, and maxima."""
        return {name: total / self.num_tokens for name, total in self.sums.items()} | self.maxima
