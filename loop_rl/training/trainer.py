"""The update on any number of ranks: Accelerate, DeepSpeed ZeRO, LoRA or all weights, one copy of the LLM. Knows samples
and an objective, and no algorithm.

Shapes: B samples of a micro-batch, T tokens, N action tokens, H hidden size.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from loop_rl.algorithms.aggregation import Size, policy_loss
from loop_rl.algorithms.protocols import COMPUTED, Objective
from loop_rl.config.parts import ADVANTAGE, make_part
from loop_rl.config.settings import Config
from loop_rl.data.samples import Sample
from loop_rl.training.batching import (
    MicroBatch,
    average_of,
    by_rollout,
    collate,
    plan_microbatches,
    shuffled_minibatches,
    size_of,
)
from loop_rl.training.critic import READS, Critic, explained_variance, make_critic
from loop_rl.training.engine import limit_collectives, make_accelerator, peak_memory
from loop_rl.training.model import PolicyModel, load_llm, trainable
from loop_rl.training.schedule import learning_rate
from loop_rl.training.sequence_parallel import require_divisible_heads, shard
from loop_rl.training.totals import Totals, Update, by_sample

_COUNTERS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")  # the engine's


class Trainer:
    """Holds the LLM, its adapter if it has one, and the optimiser; every rank makes one and calls the same methods in the same order.

    Policy version v is the policy after v iterations: iteration i starts from version i and makes version i + 1.
    Version 0 is the untouched base model; a fresh adapter adds zero.

    Raises:
        ConfigError: the model's attention heads cannot be shared out over `trainer.sequence_parallel_size` ranks.
        OSError: config.model.path holds no model.
        RuntimeError: not started by a launcher of distributed processes.
    """

    def __init__(self, config: Config):
        self.config = config
        if config.trainer.sequence_parallel_size > 1:
            require_divisible_heads(config)
        self.accelerator = make_accelerator(config)
        model = _load_model(config, self.accelerator.device)
        policy = PolicyModel(model, config.agent.temperature, config.trainer.logprob_chunk_tokens)
        policy.train()  # activation checkpointing is skipped in eval mode; dropout is off, see load_llm
        optimizer = torch.optim.AdamW(
            [parameter for parameter in policy.parameters() if parameter.requires_grad],
            lr=config.trainer.learning_rate,
            weight_decay=config.trainer.weight_decay,
        )
        self.engine, _ = self.accelerator.prepare(policy, optimizer)
        limit_collectives(timedelta(seconds=config.trainer.collective_timeout_s))
        self.critic: Critic | None = None
        """Where `algorithm.advantage` reads its values."""
        if "value" in make_part(ADVANTAGE, config).reads:
            self.critic = make_critic(config, policy)

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def num_ranks(self) -> int:
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and talks to the user."""
        return self.accelerator.is_main_process

    @property
    def llm(self) -> PreTrainedModel | PeftModel:
        return self.engine.module.llm

    def fit(
        self,
        samples: Sequence[Sample],
        objective: Objective,
        iteration: int,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Update:
        """Update the policy: `algorithm.epochs` passes over shuffled minibatches of rollouts, one optimiser step each.

        Args:
            samples: what is trained on, the same on every rank.
            iteration: counts from 0; seeds the shuffle and is the policy version the iteration starts from.
            on_step: called after each optimiser step with the steps done and the steps of the iteration.

        Returns:
            `Update`, the same on every rank. Its figures are
            those of the objective, and entropy (nats): over all epochs.
            loss: mean over the minibatches' rollouts.
            learning_rate: of the iteration.
            grad_norm, grad_norm_max: mean and largest global gradient norm of the steps, before clipping.
            num_steps, num_rollouts, num_tokens, num_action_tokens: of the iteration, each epoch counted.
            value_loss, value_grad_norm, explained_variance: of a critic: its weighted squared error, the mean norm of its own gradient
                before clipping, and what the values at the iteration's start explain.
            stopped_by_kl: 1 when `algorithm.max_iteration_kl` ended it, else 0; absent where that is 0.
            tokens_per_s: num_tokens per second over all ranks.
            peak_memory_gib: most memory that any one rank has used so far: of its GPU, without one resident in RAM.
            logprob_diff_mean, logprob_diff_max, logprob_diff_tokens: |trainer - sampler| log-probability over the
                tokens of the first minibatch that the iteration's own policy version sampled, before the first update;
                zero but for arithmetic when both run the same model. Absent when there is no such token.

        Raises:
            ValueError: there are no samples.
            RuntimeError: a gradient is not finite.
        """
        if not samples:
            raise ValueError(f"iteration {iteration}: no rollout to train on; skip the iteration")
        started = time.monotonic()
        for group in self.engine.optimizer.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.trainer, iteration)
        for name in sorted(COMPUTED & objective.reads):
            self.add_column(samples, name)
        described = objective.describe(
            {name: torch.tensor([x for sample in samples for x in sample.columns[name]]) for name in objective.reads}
        )
        if self.critic:
            values, returns = ([x for sample in samples for x in sample.columns[name]] for name in ("value", "return"))
            described["explained_variance"] = explained_variance(torch.tensor(values), torch.tensor(returns))
        minibatches = self._minibatches(samples, iteration, objective.compares_pairs)
        critic_alone = self.critic is not None and self.critic.learns_alone(iteration)
        totals, grad_norms, value_grad_norms = Totals(), [], []
        for step, minibatch in enumerate(minibatches):
            # The first step compares the trainer with the sampler, before anything has changed.
            compare_version = iteration if step == 0 else None
            in_last_epoch = step >= len(minibatches) - len(minibatches) // self.config.algorithm.epochs
            grad_norm = self._step(samples, minibatch, objective, totals, compare_version, in_last_epoch, critic_alone)
            if self.critic:
                value_grad_norms.append(self.critic.step())
            if grad_norm is None:
                described["stopped_by_kl"] = 1.0
                minibatches = minibatches[: step + 1]
                break
            grad_norms.append(grad_norm)
            if not math.isfinite(grad_norms[-1]):
                raise RuntimeError(
                    f"iteration {iteration}, step {step}: gradient norm is {grad_norms[-1]}; nothing was saved"
                )
            if on_step:
                on_step(step + 1, len(minibatches))
        totals = self._over_ranks(totals)
        seconds = time.monotonic() - started
        num_rollouts = sum(size_of(samples, minibatch).num_rollouts for minibatch in minibatches)
        num_tokens = sum(samples[index].num_tokens for minibatch in minibatches for index in minibatch)
        if self.config.algorithm.max_iteration_kl:
            described.setdefault("stopped_by_kl", 0.0)
        figures = totals.figures() | described
        if self.critic:
            figures["value_loss"] = totals.value_loss / num_rollouts
            figures["value_grad_norm"] = sum(value_grad_norms) / max(len(value_grad_norms), 1)
        figures |= {
            "loss": totals.loss / num_rollouts,
            "grad_norm": sum(grad_norms) / max(len(grad_norms), 1),
            "grad_norm_max": max(grad_norms, default=0.0),
            "learning_rate": learning_rate(self.config.trainer, iteration),
            "num_steps": len(grad_norms),
            "num_rollouts": num_rollouts,
            "num_tokens": num_tokens,
            "tokens_per_s": num_tokens / seconds,
        }
        return Update(figures, totals.by_rollout(samples))

    def reads(self, objective: Objective) -> frozenset[str]:
        """Columns that samples must have."""
        return objective.reads | (READS if self.critic else frozenset())

    def add_column(self, samples: Sequence[Sample], name: str) -> None:
        """Give each sample that lacks it a column of `COMPUTED`, under the policy as it is now. Every rank must call it."""
        without = [sample for sample in samples if name not in sample.columns]
        if without:
            for sample, logprobs in zip(without, self.logprobs(without, of_base=name == "reference"), strict=True):
                sample.columns[name] = logprobs

    def logprobs(
        self, samples: Sequence[Sample], own_forward: bool = False, of_base: bool = False
    ) -> list[list[float]]:
        """Log-probabilities of the samples' action tokens under the policy as it is now, the same on every rank.

        own_forward: see `PolicyModel.forward`.
        of_base: under the untouched model, the adapter switched off.
        """

        def logprobs_N(batch: MicroBatch) -> Tensor:
            with self.llm.disable_adapter() if of_base else contextlib.nullcontext():
                return self._forward(batch, own_forward)[0]

        return self._of_tokens(samples, logprobs_N)

    def values(self, samples: Sequence[Sample]) -> list[list[float]]:
        """What the critic expects at the samples' action tokens, the same on every rank."""
        return self._of_tokens(samples, self.critic.values)

    @torch.no_grad()
    def _of_tokens(self, samples: Sequence[Sample], compute: Callable[[MicroBatch], Tensor]) -> list[list[float]]:
        """A number for each action token of each sample, of all ranks together; compute: [N] of a micro-batch."""
        totals = Totals()
        everything = list(range(len(samples)))
        for indices in self._plan(samples, everything):
            batch = self._microbatch(samples, indices, (), size_of(samples, everything))
            numbers_N = compute(batch)
            if indices:
                totals.last_epoch |= by_sample(indices, batch, numbers_N, numbers_N)
        found = self._over_ranks(totals).last_epoch
        return [found[index].logprobs for index in everything]

    def rehearse(self, samples: Sequence[Sample], objective: Objective) -> int:
        """Do one optimiser step on these samples on every rank that leaves no trace in weights, optimiser state, figures
        or random generators; only on a trainer that has not trained or loaded anything.

        Returns:
            Peak memory in bytes, of the rank that needed most.
        """
        optimizer = self.engine.optimizer.optimizer  # torch's, below DeepSpeed's
        assert not optimizer.state
        counters = {name: getattr(self.engine, name) for name in _COUNTERS}
        # Of a group two, in case they are a pair.
        of_all_ranks = [
            replace(sample, group_id=number // 2) for number, sample in enumerate(list(samples) * self._num_data_ranks)
        ]
        totals = Totals()
        with self._learning_rate(0.0):
            self._step(of_all_ranks, list(range(len(of_all_ranks))), objective, totals)
        if self.critic:
            self.critic.step()
            self.critic.forget()
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()
        vars(self.engine).update(counters)
        return self._over_ranks(totals).peak_memory

    def _minibatches(self, samples: Sequence[Sample], iteration: int, pairs: bool) -> list[list[int]]:
        """Of all epochs, as indices of samples; all samples of a rollout, or of a pair, are in the same one."""
        together = by_rollout(samples, pairs)
        config, size = self.config, self.config.trainer.minibatch_rollouts
        if pairs and size:
            size = max(1, size // 2)
        return [
            [index for unit in minibatch for index in together[unit]]
            for epoch in range(config.algorithm.epochs)
            for minibatch in shuffled_minibatches(len(together), size, config.seed, iteration, epoch)
        ]

    def _step(
        self,
        samples: Sequence[Sample],
        minibatch: list[int],
        objective: Objective,
        totals: Totals,
        compare_version: int | None = None,
        in_last_epoch: bool = False,
        critic_alone: bool = False,
    ) -> float | None:
        """One optimiser step on the mean over a minibatch, given as indices of samples; returns the global gradient
        norm before clipping, or None when `algorithm.max_iteration_kl` forbade the step. A critic is left with its gradients.

        compare_version: add up how trainer and sampler differ on the tokens that this version sampled.
        critic_alone: the policy stays as it is.
        """
        size = size_of(samples, minibatch)
        plan = self._plan(samples, minibatch, objective.compares_pairs)
        start = "recomputed" if "recomputed" in objective.reads else "behaviour"
        columns = self.reads(objective) | {"behaviour"}
        log_ratio_sum, values = 0.0, {}
        for i, indices in enumerate(plan):
            batch = self._microbatch(samples, indices, columns, size)
            self.engine.set_gradient_accumulation_boundary(i == len(plan) - 1)
            with torch.set_grad_enabled(not critic_alone):
                logprobs_N, entropies_N = self._forward(batch, entropy_gradient=objective.needs_entropies)
                terms = objective(logprobs_N, replace(batch, entropies_N=entropies_N))
                loss = policy_loss(terms.objective_N, batch.weights_N)
            entropies_N = entropies_N.detach()
            if not critic_alone:
                self.engine.backward(loss * self._num_averaged)
            if self.critic:
                totals.value_loss += self.critic.learn(batch) * size.num_rollouts
            if indices:  # a dummy counts nowhere
                totals.add(loss.item() * size.num_rollouts, terms, entropies_N)
                log_ratio_sum += (logprobs_N.detach() - batch.columns_N[start]).double().sum().item()
                if in_last_epoch or self.config.algorithm.max_iteration_kl:
                    values |= by_sample(indices, batch, logprobs_N, entropies_N)
                if compare_version is not None:
                    log_ratio_N = logprobs_N.detach() - batch.columns_N["behaviour"]
                    totals.add_mismatch(log_ratio_N[batch.versions_N == compare_version])
        if self._is_too_far(log_ratio_sum / size.num_rollouts):
            self._discard_gradients()
            return None
        for index in minibatch:  # another rank may have it this time
            totals.last_epoch.pop(index, None)
        totals.last_epoch |= values
        totals.peak_memory = max(totals.peak_memory, peak_memory())
        if critic_alone:
            return 0.0
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def _is_too_far(self, log_ratio_mean: float) -> bool:
        """Whether `algorithm.max_iteration_kl` ends the iteration here. log_ratio_mean: this rank's part of it."""
        limit = self.config.algorithm.max_iteration_kl
        if not limit:
            return False
        total = torch.tensor(log_ratio_mean, dtype=torch.float64, device=self.accelerator.device)
        dist.all_reduce(total)
        return abs(total.item()) / self.config.trainer.sequence_parallel_size > limit

    def _discard_gradients(self) -> None:
        """Forget what the last backward passes have left, by a step without effect: under ZeRO they lie where only a step
        clears them."""
        optimizer = self.engine.optimizer.optimizer  # torch's, below DeepSpeed's
        before = {
            parameter: {name: value.clone() for name, value in state.items()}
            for parameter, state in optimizer.state.items()
        }
        with self._learning_rate(0.0):
            self.engine.step()
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                value.copy_(before[parameter][name]) if parameter in before else value.zero_()

    @contextlib.contextmanager
    def _learning_rate(self, value: float) -> Iterator[None]:
        """Steps in the body are done with this learning rate."""
        groups = self.engine.optimizer.optimizer.param_groups
        before = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = value
        yield
        for group, rate in zip(groups, before, strict=True):
            group["lr"] = rate

    @property
    def _num_averaged(self) -> int:
        """DeepSpeed sums gradients over micro-batches and averages them over ranks. The weights of a loss already divide
        by the minibatch's rollouts over all ranks, so this factor turns the average back into a sum. Ranks that share a
        sequence count as one there, but not in ZeRO 3."""
        return self.num_ranks if self.config.trainer.zero_stage == 3 else self._num_data_ranks

    @property
    def _num_data_ranks(self) -> int:
        """Ranks, those that share sequences counted as one."""
        return self.num_ranks // self.config.trainer.sequence_parallel_size

    def _plan(self, samples: Sequence[Sample], minibatch: list[int], pairs: bool = False) -> list[list[int]]:
        """This rank's micro-batches, as indices of samples; ranks that share sequences have the same.

        pairs: the samples of a group stay together.
        """
        trainer = self.config.trainer
        size = trainer.sequence_parallel_size
        units = (
            by_rollout([samples[index] for index in minibatch], pairs)
            if pairs
            else [[i] for i in range(len(minibatch))]
        )
        plan = plan_microbatches(
            [[samples[minibatch[i]].num_tokens for i in unit] for unit in units],
            self._num_data_ranks,
            trainer.max_tokens_per_microbatch if size == 1 else 1,  # Ulysses takes one row
        )
        return [[minibatch[i] for unit in microbatch for i in units[unit]] for microbatch in plan[self.rank // size]]

    def _microbatch(
        self, samples: Sequence[Sample], indices: list[int], columns: Collection[str], minibatch: Size
    ) -> MicroBatch:
        batch = collate([samples[index] for index in indices], columns, average_of(self.config), minibatch)
        if (size := self.config.trainer.sequence_parallel_size) > 1:
            batch = shard(batch, self.rank % size, size)
        return batch.to(self.accelerator.device)

    def _forward(
        self, batch: MicroBatch, own_forward: bool = False, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        return self.engine(
            batch.input_ids_BT,
            batch.rows_N,
            batch.positions_N,
            batch.targets_N,
            batch.first_position,
            own_forward,
            entropy_gradient,
        )

    def _over_ranks(self, totals: Totals) -> Totals:
        """Totals of all ranks together, the same on each."""
        gathered: list[Totals] = [totals] * self.num_ranks
        dist.all_gather_object(gathered, totals)
        return sum(gathered[1:], gathered[0])

    def close(self) -> None:
        """Leave the process group, once every rank is done; the trainer is of no use afterwards."""
        dist.barrier()
        dist.destroy_process_group()


def _load_model(config: Config, device: torch.device) -> PreTrainedModel | PeftModel:
    """What is trained, as it is before the first iteration; alike on every rank."""
    # Under ZeRO-3 the Accelerator made above has told transformers to load each weight in pieces, straight to where
    # it belongs; otherwise every rank loads the whole model to its own device.
    base = load_llm(config, None, None if config.trainer.zero_stage == 3 else device)
    model = trainable(base, config)
    if config.trainer.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model
