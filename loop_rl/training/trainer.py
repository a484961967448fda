"""The update of LOOP's Algorithm 1 on any number of ranks: Accelerate, DeepSpeed ZeRO, LoRA or all weights, one copy of
the LLM.

Shapes: B rollouts of a micro-batch, T tokens, N action tokens, H hidden size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import compress

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from loop_rl.algorithms.aggregation import policy_loss
from loop_rl.algorithms.figures import TokenStats, weight_figures
from loop_rl.algorithms.importance import importance_weights
from loop_rl.algorithms.objectives.clipped import clipped_surrogate
from loop_rl.config.settings import Config
from loop_rl.data.rollout import Rollout
from loop_rl.data.samples import Sample, TokenSequence
from loop_rl.data.updates import TokenValues
from loop_rl.training.batching import MicroBatch, collate, plan_microbatches, shuffled_minibatches
from loop_rl.training.engine import limit_collectives, make_accelerator, peak_memory
from loop_rl.training.model import PolicyModel, load_llm, trainable
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
        policy.train()  # activation checkpointing is skipped in eval mode; there is no dropout to switch on
        optimizer = torch.optim.AdamW(
            [parameter for parameter in policy.parameters() if parameter.requires_grad],
            lr=config.trainer.learning_rate,
            weight_decay=config.trainer.weight_decay,
        )
        self.engine, _ = self.accelerator.prepare(policy, optimizer)
        limit_collectives(timedelta(seconds=config.trainer.collective_timeout_s))

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

    def train_iteration(
        self,
        rollouts: Sequence[Rollout],
        advantages: Sequence[float],
        iteration: int,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Update:
        """Update the policy: `algorithm.epochs` passes over shuffled minibatches, one optimiser step each.

        Args:
            rollouts: the rollouts that survived the filter; the same list on every rank. Those without any action
                token are left out, they have no objective.
            advantages: one for each rollout.
            iteration: counts from 0; seeds the shuffle and is the policy version the iteration starts from.
            on_step: called after each optimiser step with the steps done and the steps of the iteration.

        Returns:
            `Update`, the same on every rank. Its figures are
            loss, ratio_mean, ratio_max, clip_share, approx_kl, entropy (nats): over all epochs.
            importance_weight_mean, importance_weight_max, importance_truncated_share: of the samples' tokens, see
                loss.weight_figures; only where `algorithm.ratio_to` is `recomputed`.
            grad_norm, grad_norm_max: mean and largest global gradient norm of the steps, before clipping.
            num_steps, num_rollouts, num_tokens, num_action_tokens: of the iteration, each epoch counted.
            tokens_per_s: num_tokens per second over all ranks.
            peak_memory_gib: most memory that any one rank has used so far: of its GPU, without one resident in RAM.
            logprob_diff_mean, logprob_diff_max, logprob_diff_tokens: |trainer - sampler| log-probability over the
                tokens of the first minibatch that the iteration's own policy version sampled, before the first update;
                zero but for arithmetic when both run the same model. Absent when there is no such token.

        Raises:
            ValueError: no rollout with an action token.
            RuntimeError: a gradient is not finite.
        """
        assert len(rollouts) == len(advantages)
        trained = [index for index, rollout in enumerate(rollouts) if rollout.num_action_tokens]
        samples = [Sample(rollouts[index].flatten(), advantages[index]) for index in trained]
        if not samples:
            raise ValueError(f"iteration {iteration}: no rollout to train on; skip the iteration")
        started = time.monotonic()
        weight_means = {}
        if self.config.algorithm.ratio_to == "recomputed":
            samples, weight_means = self._with_recomputed_logprobs(samples)
        minibatches = [
            minibatch
            for epoch in range(self.config.algorithm.epochs)
            for minibatch in shuffled_minibatches(
                len(samples), self.config.trainer.minibatch_rollouts, self.config.seed, iteration, epoch
            )
        ]
        totals = Totals()
        grad_norms = []
        for step, minibatch in enumerate(minibatches):
            mismatch_version = iteration if step == 0 else None
            in_last_epoch = step >= len(minibatches) - len(minibatches) // self.config.algorithm.epochs
            grad_norms.append(self._step(samples, minibatch, totals, mismatch_version, in_last_epoch))
            if not math.isfinite(grad_norms[-1]):
                raise RuntimeError(
                    f"iteration {iteration}, step {step}: gradient norm is {grad_norms[-1]}; nothing was saved"
                )
            if on_step:
                on_step(step + 1, len(minibatches))
        totals = self._over_ranks(totals)
        seconds = time.monotonic() - started
        num_tokens = sum(samples[index].num_tokens for minibatch in minibatches for index in minibatch)
        num_rollouts = sum(len(minibatch) for minibatch in minibatches)
        figures = (
            totals.tokens.means()
            | weight_means
            | {
                "loss": totals.loss / num_rollouts,
                "grad_norm": sum(grad_norms) / len(grad_norms),
                "grad_norm_max": max(grad_norms),
                "num_steps": len(minibatches),
                "num_rollouts": num_rollouts,
                "num_tokens": num_tokens,
                "num_action_tokens": totals.tokens.num_tokens,
                "tokens_per_s": num_tokens / seconds,
                "peak_memory_gib": totals.peak_memory / 2**30,
            }
        )
        if totals.mismatch_tokens:
            figures |= {
                "logprob_diff_mean": totals.mismatch_sum / totals.mismatch_tokens,
                "logprob_diff_max": totals.mismatch_max,
                "logprob_diff_tokens": totals.mismatch_tokens,
            }
        return Update(figures, {trained[index]: values for index, values in totals.last_epoch.items()})

    def rehearse(self, sequences: Sequence[TokenSequence]) -> int:
        """Do one optimiser step on these sequences on every rank, of which no weight, optimiser state, figure or random
        generator shows anything afterwards; only on a trainer that has not trained or loaded anything.

        Returns:
            Peak memory in bytes, of the rank that needed most.
        """
        optimizer = self.engine.optimizer.optimizer  # torch's, below DeepSpeed's
        assert not optimizer.state
        counters = {name: getattr(self.engine, name) for name in _COUNTERS}
        samples = [Sample(sequence, 0.0) for sequence in sequences] * self._num_data_ranks
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        totals = Totals()
        self._step(samples, list(range(len(samples))), totals)
        for group in optimizer.param_groups:
            group["lr"] = self.config.trainer.learning_rate
        for state in optimizer.state.values():
            state["step"].zero_()
        vars(self.engine).update(counters)
        return self._over_ranks(totals).peak_memory

    def _step(
        self,
        samples: list[Sample],
        minibatch: list[int],
        totals: Totals,
        mismatch_version: int | None = None,
        in_last_epoch: bool = False,
    ) -> float:
        """One optimiser step on the mean over a minibatch, given as indices of samples; returns the global gradient
        norm before clipping."""
        algorithm = self.config.algorithm
        plan = self._plan(samples, minibatch)
        for i, indices in enumerate(plan):
            batch = self._microbatch(samples, indices, num_rollouts=len(minibatch))
            self.engine.set_gradient_accumulation_boundary(i == len(plan) - 1)
            logprobs_N, entropies_N = self._forward(batch)
            surrogate = clipped_surrogate(
                logprobs_N, batch.proximal_logprobs_N, batch.advantages_N, algorithm.clip_epsilon
            )
            importance_N = importance_weights(
                batch.proximal_logprobs_N, batch.behaviour_logprobs_N, algorithm.max_importance_weight
            )
            loss = policy_loss(importance_N * surrogate.objective_N, batch.weights_N)
            self.engine.backward(loss * self._num_averaged)
            if indices:  # a dummy counts nowhere
                totals.add(loss.item() * len(minibatch), TokenStats.of(surrogate, entropies_N))
                if in_last_epoch:
                    totals.last_epoch |= by_sample(indices, batch, logprobs_N, entropies_N)
                if mismatch_version is not None:
                    log_ratio_N = logprobs_N.detach() - batch.behaviour_logprobs_N
                    totals.add_mismatch(log_ratio_N[batch.versions_N == mismatch_version])
        self.engine.step()
        totals.peak_memory = max(totals.peak_memory, peak_memory())
        return float(self.engine.get_global_grad_norm())

    @torch.no_grad()
    def _with_recomputed_logprobs(self, samples: list[Sample]) -> tuple[list[Sample], dict[str, float]]:
        """The samples with the log-probabilities of the policy as it is now; and the figures of their weights."""
        ours: dict[int, TokenValues] = {}
        for indices in self._plan(samples, list(range(len(samples)))):
            batch = self._microbatch(samples, indices, num_rollouts=len(samples))
            logprobs_N, entropies_N = self._forward(batch)
            if indices:
                ours |= by_sample(indices, batch, logprobs_N, entropies_N)
        values = self._over_ranks(Totals(last_epoch=ours)).last_epoch
        samples = [replace(sample, proximal_logprobs=values[index].logprobs) for index, sample in enumerate(samples)]
        proximal = [logprob for sample in samples for logprob in sample.proximal_logprobs]
        behaviour = [
            logprob for sample in samples for logprob in compress(sample.sequence.logprobs, sample.sequence.action_mask)
        ]
        return samples, weight_figures(
            torch.tensor(proximal), torch.tensor(behaviour), self.config.algorithm.max_importance_weight
        )

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

    def _plan(self, samples: list[Sample], minibatch: list[int]) -> list[list[int]]:
        """This rank's micro-batches, as indices of samples; ranks that share sequences have the same."""
        trainer = self.config.trainer
        size = trainer.sequence_parallel_size
        plan = plan_microbatches(
            [samples[index].num_tokens for index in minibatch],
            self._num_data_ranks,
            trainer.max_tokens_per_microbatch if size == 1 else 1,  # Ulysses takes one row
        )
        return [[minibatch[i] for i in indices] for indices in plan[self.rank // size]]

    def _microbatch(self, samples: list[Sample], indices: list[int], num_rollouts: int) -> MicroBatch:
        batch = collate([samples[index] for index in indices], num_rollouts)
        if (size := self.config.trainer.sequence_parallel_size) > 1:
            batch = shard(batch, self.rank % size, size)
        return batch.to(self.accelerator.device)

    def _forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        return self.engine(
            batch.input_ids_BT, batch.rows_N, batch.positions_N, batch.targets_N, first_position=batch.first_position
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
