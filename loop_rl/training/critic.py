"""The paper's critic: a small head on the policy's hidden states. arXiv 2502.01600, appendix C.5.

No gradient enters the policy, so the head needs nothing of the engine: every rank holds it whole, with an optimiser of its own, and
adds its gradients to the others'. The paper's loss coefficient, 0.1 falling to 0.001, is left out: AdamW takes the same steps
whatever it is.

Shapes: N action tokens, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from loop_rl.config.settings import Config

_WIDTHS = (0.6, 0.4)
"""Of the hidden layers, as shares of H; of Qwen2.5-32B, 5120, they are 3072 and 2048."""


class Critic:
    """V of the state before each action token. Every rank makes one and calls the same methods in the same order."""

    def __init__(self, config: Config, hidden_size: int, device: torch.device) -> None:
        self._settings = config.algorithm
        self._max_grad_norm = config.trainer.max_grad_norm
        with torch.random.fork_rng(devices=[]):  # leaves the generators of the policy as they are
            torch.manual_seed(config.seed)
            self.head = make_head(hidden_size).to(device)
        self._optimizer = torch.optim.AdamW(
            self.head.parameters(), lr=self._settings.critic_learning_rate, weight_decay=0.0
        )

    def learns_alone(self, iteration: int) -> bool:
        """Whether the policy stays as it is in this iteration."""
        return iteration < self._settings.critic_warmup_iterations

    @torch.no_grad()
    def values(self, hidden_NH: Tensor) -> Tensor:
        """[N] float32, within the rewards that there can be."""
        return self._head(hidden_NH).clamp(self._settings.min_value, self._settings.max_value)

    def add_loss(self, hidden_NH: Tensor, returns_N: Tensor, weights_N: Tensor) -> Tensor:
        """Add the gradient of (V - return)^2, weighted, to the next step's; returns the loss."""
        loss = (weights_N * (self._head(hidden_NH) - returns_N) ** 2).sum()
        loss.backward()
        return loss.detach()

    def step(self) -> None:
        """One step on the gradients of all ranks together."""
        parameters = list(self.head.parameters())
        for parameter in parameters:
            if parameter.grad is None:  # this rank had nothing in this minibatch
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
        nn.utils.clip_grad_norm_(parameters, self._max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _head(self, hidden_NH: Tensor) -> Tensor:
        return self.head(hidden_NH.detach().float()).squeeze(-1)

    def state_dict(self) -> dict[str, Any]:
        return {"head": self.head.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])


def make_head(hidden_size: int) -> nn.Sequential:
    """H -> 0.6 H -> 0.4 H -> 1, with ReLU between."""
    first, second = (max(1, int(share * hidden_size)) for share in _WIDTHS)
    return nn.Sequential(
        nn.Linear(hidden_size, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 1)
    )


def explained_variance(values_M: Tensor, returns_M: Tensor) -> float:
    """1 - Var(return - V) / Var(return): 1 knows all, 0 is no better than a constant. 0 where all returns are alike."""
    spread = returns_M.double().var(correction=0)
    return float(1 - (returns_M - values_M).double().var(correction=0) / spread) if spread > 0 else 0.0
