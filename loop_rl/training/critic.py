"""The critic: what the policy's state before each action token is worth. No second LLM: it reads the one that is there.

Either a small head on the policy's hidden states, into which no gradient goes (arXiv 2502.01600, appendix C.5); or an adapter of its own
on the same frozen model, with one linear unit behind it. Both lie beside the engine, which knows nothing of them: every rank holds the
critic whole, with an optimiser of its own, and adds its gradients to the others'. So DeepSpeed clips, steps and shards the policy
alone; in an engine that holds both, the critic's gradient norm would drown the policy's, a step for one would move the
other by its momentum, and ZeRO 3 would apply gradients of an earlier step again. The paper's loss coefficient, 0.1 falling to 0.001, is
left out: AdamW takes the same steps whatever it is.

Shapes: N action tokens, H hidden size.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from loop_rl.config.settings import Config
from loop_rl.training.batching import MicroBatch
from loop_rl.training.model import POLICY_ADAPTER, PolicyModel, adapter_weights

CRITIC_ADAPTER = "critic"
"""PEFT's name of the critic's adapter."""
READS = frozenset({"return", "value", "value_weight"})
"""Columns that a critic learns from."""
_WIDTHS = (0.6, 0.4)
"""Of the hidden layers, as shares of H; of Qwen2.5-32B, 5120, they are 3072 and 2048."""


class Critic(ABC):
    """V of the state before each action token. Every rank makes one and calls the same methods in the same order."""

    def __init__(
        self, config: Config, policy: PolicyModel, head: nn.Module, adapter: Mapping[str, nn.Parameter] | None = None
    ) -> None:
        """adapter: weights of the model's dtype that are trained, too, as float32 copies."""
        self._settings = config.algorithm
        self._max_grad_norm = config.trainer.max_grad_norm
        self._policy = policy
        self._head = head.to(policy.device)
        self._adapter = adapter or {}
        copies = {name: weight.detach().float().clone().requires_grad_() for name, weight in self._adapter.items()}
        self._weights = dict(self._head.named_parameters(prefix="head")) | copies
        """float32, what is trained, by name."""
        self._optimizer = self._new_optimizer()

    def _new_optimizer(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self._weights.values(), lr=self._settings.critic_learning_rate, weight_decay=0.0)

    def learns_alone(self, iteration: int) -> bool:
        """Whether the policy stays as it is in this iteration."""
        return iteration < self._settings.critic_warmup_iterations

    @torch.no_grad()
    def values(self, batch: MicroBatch) -> Tensor:
        """[N] float32, within the rewards that there can be."""
        with self._reading():
            hidden_NH = self._policy.hidden(batch)
        return self._values(hidden_NH).clamp(self._settings.min_value, self._settings.max_value)

    def learn(self, batch: MicroBatch) -> float:
        """Add the gradient of a micro-batch's loss to the next step's; returns the loss. Comes after the policy's own backward pass:
        with activation checkpointing it would else be done with the critic's adapter."""
        columns_N = batch.columns_N
        with self._reading():
            values_N = self._values(self._hidden_to_learn_from(batch))
            errors_N = value_errors(values_N, columns_N["return"], columns_N["value"], self._settings.value_clip)
            loss = (batch.weights_N * columns_N["value_weight"] * errors_N).sum()
            loss.backward()
        self._collect_gradients()
        return loss.item()

    def step(self) -> float:
        """One step on the gradients of all ranks together; returns their norm before clipping."""
        weights = list(self._weights.values())
        # In one piece, and with zeros where this rank had nothing in this minibatch.
        gradients = torch.cat([w.new_zeros(w.numel()) if w.grad is None else w.grad.flatten() for w in weights])
        dist.all_reduce(gradients)
        for weight, gradient in zip(weights, gradients.split([w.numel() for w in weights]), strict=True):
            weight.grad = gradient.view_as(weight)
        norm = nn.utils.clip_grad_norm_(weights, self._max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._put_into_use()
        return norm.item()

    def forget(self) -> None:
        """Leave no trace of a step that has changed no weight."""
        self._optimizer = self._new_optimizer()

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._weights, "optimizer": self._optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._put_into_use()

    @property
    def weights(self) -> dict[str, Tensor]:
        """What is trained, by name, float32."""
        return {name: weight.detach() for name, weight in self._weights.items()}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """In the body, the model gives the hidden states that the critic reads."""
        yield

    @abstractmethod
    def _hidden_to_learn_from(self, batch: MicroBatch) -> Tensor:
        """[N, H]"""

    def _values(self, hidden_NH: Tensor) -> Tensor:
        return self._head(hidden_NH.float()).squeeze(-1)

    def _collect_gradients(self) -> None:
        """From the adapter to its copies."""
        for name, weight in self._adapter.items():
            ours = self._weights[name]
            ours.grad = weight.grad.float() if ours.grad is None else ours.grad + weight.grad
            weight.grad = None

    @torch.no_grad()
    def _put_into_use(self) -> None:
        """From the copies to the adapter."""
        for name, weight in self._adapter.items():
            weight.copy_(self._weights[name])


class HeadCritic(Critic):
    """The paper's: on the hidden states that the policy's own forward leaves."""

    def __init__(self, config: Config, policy: PolicyModel) -> None:
        with _seeded(config.seed):
            head = make_head(policy.hidden_size)
        super().__init__(config, policy, head)
        policy.keeps_hidden = True

    def _hidden_to_learn_from(self, batch: MicroBatch) -> Tensor:
        return self._policy.hidden_NH


class AdapterCritic(Critic):
    """A LoRA of the policy's size on the same frozen model, and one linear unit; a forward and backward pass of its own.

    The adapter is in the model only while the critic reads, so that no stage of ZeRO splits it, reduces its gradients or saves it.
    """

    def __init__(self, config: Config, policy: PolicyModel) -> None:
        self._llm = policy.llm
        with _seeded(config.seed):
            self._llm.add_adapter(CRITIC_ADAPTER, self._llm.peft_config[POLICY_ADAPTER], autocast_adapter_dtype=False)
            head = nn.Linear(policy.hidden_size, 1)
        super().__init__(config, policy, head, adapter_weights(self._llm, CRITIC_ADAPTER))
        holders = [m for m in self._llm.modules() if isinstance(m, nn.ModuleDict) and CRITIC_ADAPTER in m]
        self._places = [(holder, holder.pop(CRITIC_ADAPTER)) for holder in holders]
        """Where the adapter's modules belong."""

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        for holder, module in self._places:
            holder[CRITIC_ADAPTER] = module
        self._llm.set_adapter(CRITIC_ADAPTER)  # and no gradient gets into the policy's
        try:
            yield
        finally:
            self._llm.set_adapter(POLICY_ADAPTER)
            for holder, _ in self._places:
                del holder[CRITIC_ADAPTER]

    def _hidden_to_learn_from(self, batch: MicroBatch) -> Tensor:
        return self._policy.hidden(batch)


def make_critic(config: Config, policy: PolicyModel) -> Critic:
    """The one that `algorithm.critic` names, on a policy that the engine has been made for."""
    return {"head": HeadCritic, "adapter": AdapterCritic}[config.algorithm.critic](config, policy)


def make_head(hidden_size: int) -> nn.Sequential:
    """H -> 0.6 H -> 0.4 H -> 1, with ReLU between."""
    first, second = (max(1, int(share * hidden_size)) for share in _WIDTHS)
    return nn.Sequential(
        nn.Linear(hidden_size, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 1)
    )


def value_errors(values_N: Tensor, returns_N: Tensor, old_values_N: Tensor, clip: float | None) -> Tensor:
    """[N], (V - R)^2; with a clip c the larger of that and (V' - R)^2, V' being V kept within c of what it was when the iteration began.

    The latter is the value loss of the PPO that OpenAI released (baselines, 2017); Verlog has it with c = 0.5.
    """
    errors_N = (values_N - returns_N) ** 2
    if clip is None:
        return errors_N
    near_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
    return torch.maximum(errors_N, (near_N - returns_N) ** 2)


def explained_variance(values_M: Tensor, returns_M: Tensor) -> float:
    """1 - Var(return - V) / Var(return): 1 knows all, 0 is no better than a constant. 0 where all returns are alike."""
    spread = returns_M.double().var(correction=0)
    return float(1 - (returns_M - values_M).double().var(correction=0) / spread) if spread > 0 else 0.0


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The body draws from this seed, alike on every rank, and leaves the generators of the policy as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
