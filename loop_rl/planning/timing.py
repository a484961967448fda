"""How long generating, executing and training take on GPUs, by the roofline: work over peak times an assumed share of it.

Nothing here was measured on a GPU. `Assumptions` holds every guess; `loop_rl.plan` prints them.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loop_rl.algorithms.learning import make_objective
from loop_rl.algorithms.protocols import COMPUTED
from loop_rl.config.parts import PENALTIES, make_parts
from loop_rl.config.settings import Config
from loop_rl.planning.gpus import Gpu
from loop_rl.planning.memory import DTYPE_BYTES, kv_bytes_per_token
from loop_rl.planning.shapes import ModelShape
from loop_rl.planning.simulation import Curve
from loop_rl.planning.workload import Workload


@dataclass(frozen=True)
class Assumptions:
    """The shares of peak figures that are reached, and what no data sheet says."""

    mfu: float = 0.35
    """Share of peak FLOP/s in training."""
    decode_bandwidth: float = 0.6
    """Share of memory bandwidth in generating."""
    prefill_mfu: float = 0.4
    """Share of peak FLOP/s when vLLM reads context."""
    step_s: float = 0.005
    """Seconds of one decoding step of vLLM beside the GPU's work: scheduling, launching, sampling."""
    network: float = 50e9
    """Bytes per second from a GPU to other nodes (400 Gb/s a GPU)."""
    environment_s: float = 1.0
    """Seconds in which AppWorld executes the code of a turn, scoring included."""
    environment_core_s: float = 0.17
    """Seconds of one CPU core in that; measured with the built-in tasks."""
    cores: int = 96
    """CPU cores of a node, all nodes of inference running AppWorld."""
    publish_s: float = 5.0
    """Seconds to write a checkpoint and an adapter, and to load it into every server."""
    disk: float = 2e9
    """Bytes per second to and from the disk that all nodes share; only where all weights are trained."""


def generation_curve(shape: ModelShape, config: Config, gpu: Gpu, guess: Assumptions, workload: Workload) -> Curve:
    """Seconds per token of one replica with n requests.

    One step makes one token for each request. It reads the weights once, and of each request the keys and values of its
    context; it computes 2 operations a parameter and request. The context that turns append is read too, at its own
    share: (context tokens / action tokens) of it for every token made. Prefixes are found in the cache, but of windows: each
    counts as if it were read whole.
    """
    tp, s = config.server.tensor_parallel_size, DTYPE_BYTES[config.model.dtype]
    bandwidth, flops = gpu.bandwidth * guess.decode_bandwidth, tp * gpu.flops * guess.prefill_mfu
    operations = 2 * shape.num_matmul_parameters
    appended = (workload.tokens - workload.action_tokens) / workload.action_tokens
    return Curve(
        base_s=guess.step_s + (shape.num_matmul_parameters * s / tp) / bandwidth,
        per_request_s=workload.held_tokens * kv_bytes_per_token(shape, config) / bandwidth
        + operations * (1 + appended) / flops,
    )


def environment_curve(guess: Assumptions, num_nodes: int) -> Curve:
    """Seconds of a turn's code with n episodes at it: the cores are shared."""
    return Curve(guess.environment_s, guess.environment_core_s / (guess.cores * num_nodes))


def rollout_flops(shape: ModelShape, config: Config, tokens: int) -> float:
    """Operations to train once on a rollout.

    Of the linear layers, forward 2 a parameter and token, backward 2 for the gradients of activations and, where the
    weights are trained, 2 for theirs, and 2 for the forward done again under activation checkpointing. Causal attention takes 2 T^2 Q a
    layer forward, twice that backward, since neither of its factors is frozen.
    """
    again = 1 if config.trainer.activation_checkpointing else 0
    trained = 0 if config.model.lora else 1
    linear = (2 + trained + again) * 2 * shape.num_matmul_parameters * tokens
    attention = (3 + again) * 2 * tokens**2 * shape.query * shape.num_layers
    return linear + attention


def forward_flops(shape: ModelShape, tokens: int) -> float:
    """Operations of one pass over a rollout, see `rollout_flops`."""
    return 2 * shape.num_matmul_parameters * tokens + 2 * tokens**2 * shape.query * shape.num_layers


def num_first_passes(config: Config) -> int:
    """Forward passes over an iteration's rollouts before its first step: of a critic, of the policy that the iteration starts from, of
    the untouched model."""
    columns = make_objective(config).reads.union(*(penalty.charges for penalty in make_parts(PENALTIES, config)))
    return len(COMPUTED & columns) + hasattr(config.algorithm, "critic")


def publishing_time(shape: ModelShape, config: Config, guess: Assumptions) -> float:
    """Seconds from the last optimiser step until the servers answer with the new version.

    A whole model is written once and read once (what several servers read comes out of the system's cache); a
    checkpoint has 12 bytes a parameter beside it, divided by `checkpoint_every`.
    """
    if config.model.lora:
        return guess.publish_s
    s = DTYPE_BYTES[config.model.dtype]
    checkpoint = (s + 12) / config.trainer.checkpoint_every
    return guess.publish_s + shape.num_parameters * (2 * s + checkpoint) / guess.disk


def training_time(
    shape: ModelShape, config: Config, gpu: Gpu, guess: Assumptions, num_ranks: int, num_nodes: int
) -> Callable[[Sequence[Sequence[int]]], float]:
    """Seconds of one iteration's update as a function of the lengths of each rollout's samples.

    A step takes as long as its busiest rank: rollouts are shared out longest first, as loop_rl.training.batching does, so more
    ranks than rollouts in a minibatch are of no use. A critic that is an adapter doubles it. Under ZeRO-3 each micro-batch gathers the weights twice, and where
    all are trained each reduces as many gradients, beside the computation; the slower of both counts.
    """
    trainer = config.trainer
    data_ranks = num_ranks // trainer.sequence_parallel_size
    per_second = gpu.flops * guess.mfu * trainer.sequence_parallel_size
    link = guess.network if num_nodes > 1 else gpu.link
    weights = shape.num_parameters * DTYPE_BYTES[config.model.dtype] * (1 - 1 / num_ranks)
    moved = (2 if trainer.zero_stage == 3 else 0) + (0 if config.model.lora else 1)
    gather_s = moved * weights / link
    passes = 2 if getattr(config.algorithm, "critic", None) == "adapter" else 1
    first_passes = num_first_passes(config)

    def seconds(rollouts: Sequence[Sequence[int]]) -> float:
        rng, total = random.Random(0), 0.0
        if first_passes:
            total += first_passes * step_seconds(rollouts, lambda length: forward_flops(shape, length))
        for _ in range(config.algorithm.epochs):
            order = rng.sample(list(rollouts), len(rollouts))
            size = trainer.minibatch_rollouts or len(order)
            for start in range(0, len(order), size):
                total += passes * step_seconds(
                    order[start : start + size], lambda length: rollout_flops(shape, config, length)
                )
        return total

    def step_seconds(rollouts: Sequence[Sequence[int]], flops_of: Callable[[int], float]) -> float:
        ranks = [(0.0, rank, 0) for rank in range(data_ranks)]
        for length in sorted((length for samples in rollouts for length in samples), reverse=True):
            flops, rank, tokens = ranks[0]
            heapq.heapreplace(ranks, (flops + flops_of(length), rank, tokens + length))
        micro_batches = max(math.ceil(tokens / trainer.max_tokens_per_microbatch) for _, _, tokens in ranks)
        return max(max(flops for flops, _, _ in ranks) / per_second, micro_batches * gather_s)

    return seconds
