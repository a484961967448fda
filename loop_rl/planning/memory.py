"""Memory of one GPU, term by term, in bytes: what training needs and what vLLM needs.

Symbols: P parameters of the model, A those that are trained (the adapter's, or all P where `model.lora` is null), R trainer ranks, T tokens of the largest micro-batch on one rank,
L layers, H hidden size, Q width of the queries, I of the MLP, V vocabulary, s bytes of a number in `model.dtype`.
The activation terms are checked against the peak of a real forward and backward in tests/planning/test_plan_memory.py.
"""

from __future__ import annotations

from loop_rl.config.settings import Config
from loop_rl.planning.gpus import GIB
from loop_rl.planning.shapes import ModelShape
from loop_rl.serving.server import MAX_LORAS
from loop_rl.training.buckets import REDUCE_BUCKET_ELEMENTS

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
# DeepSpeed's stage3_max_live_parameters: ZeRO-3 keeps up to this many gathered parameters before it lets go of some.
_LIVE_PARAMETERS = 1_000_000_000
# DeepSpeed's sub_group_size: ZeRO-3's optimiser step takes so many of a rank's weights at a time.
_SUB_GROUP_ELEMENTS = 1_000_000_000
# Of one chunk, in its backward pass: the logits, their exponentials and their gradients. Measured, alike in both dtypes.
_BYTES_PER_LOGIT = 20
# CUDA context, NCCL's buffers and what PyTorch's allocator loses between blocks: an assumption, for want of a GPU.
TRAINING_RESERVE = 4 * GIB
# vLLM's own activations of a profile run and its CUDA graphs: an assumption, likewise.
SERVER_RESERVE = 4 * GIB
_DEFAULT_UTILIZATION = 0.92  # of vLLM 0.32


def training_memory(shape: ModelShape, config: Config, num_ranks: int) -> dict[str, float]:
    """Bytes on the GPU of one trainer rank at its peak, by term; they add up.

    - weights: P s, under ZeRO-3 P s / R (Rajbhandari et al. 2020, ZeRO, section 5).
    - gathered weights: under ZeRO-3 min(P, 1e9) s, and the output head.
    - adapter: A s; its matrices are below DeepSpeed's threshold for splitting, so ZeRO-3 leaves most whole.
    - gradients: A s as backward makes them; where all weights are trained only the output head's, twice (what its chunks
      have given so far, and what the next one gives), for DeepSpeed takes the others over into its buckets. 4 A / R
      accumulated in float32, in the CPU's memory where the optimiser is. ZeRO-1 in bfloat16: A s + 4 A in any case.
    - optimiser: 12 A / R, float32 master weights and AdamW's two moments; nothing where it is offloaded.
    - critic: whole on every rank, with its gradients, AdamW's moments and where it is an adapter float32 copies of its weights and
      gradients; 0.84 H^2 parameters of a head, A of an adapter. Its activations follow the policy's, and are no more.
    - buckets: DeepSpeed's buffers for reducing gradients and, under ZeRO-3, gathering weights, 50M elements each.
    - activations kept: with checkpointing T L H s, the input of each layer; without, what every layer keeps.
    - working set: the larger of one layer's backward and one chunk of the logits (20 bytes each), which never exist
      together.
    - optimiser step: what its copies, two of AdamW's and under ZeRO-3 the gradients of at most 1e9 weights, need beyond
      what is gone by then: activations, working set, and gathered weights with their bucket, or under ZeRO-1 and 2 the
      gradients' bucket. Left out of adapters, which are small.
    """
    trainer, s = config.trainer, DTYPE_BYTES[config.model.dtype]
    lora = config.model.lora
    trained = shape.num_adapter_parameters(lora.rank) if lora else shape.num_parameters
    zero3 = trainer.zero_stage == 3 and num_ranks > 1
    tokens = longest_microbatch(config) / trainer.sequence_parallel_size
    kept, transient = layer_bytes_per_token(shape, lora.rank if lora else None, s)
    layer_input = shape.hidden * s
    head = trainer.logprob_chunk_tokens * shape.vocab * _BYTES_PER_LOGIT + tokens * head_bytes_per_token(shape, s)
    if trainer.activation_checkpointing:
        activations = tokens * shape.num_layers * layer_input
        working_set = max(tokens * (kept + transient), head)
    else:
        activations = tokens * shape.num_layers * kept
        working_set = max(tokens * transient, head)
    offloaded = 0 if trainer.offload_optimizer else 1
    whole_gradients = trainer.zero_stage == 1 and s == 2  # DeepSpeed takes another optimiser for these
    accumulated = 4 * trained / (1 if whole_gradients else num_ranks)
    head_gradients = 2 * shape.embedding * s
    gathered = (min(shape.num_parameters, _LIVE_PARAMETERS) + shape.embedding) * s if zero3 else 0.0
    reduced, prefetched = REDUCE_BUCKET_ELEMENTS * s, REDUCE_BUCKET_ELEMENTS * s if zero3 else 0.0
    if trainer.zero_stage == 3:
        step, gone = 12 * min(trained / num_ranks, _SUB_GROUP_ELEMENTS), gathered + prefetched
    else:
        step, gone = 8 * trained / num_ranks, reduced
    terms = {
        "weights": shape.num_parameters * s / (num_ranks if zero3 else 1),
        "gathered weights": gathered,
        "adapter": trained * s if lora else 0.0,
        "gradients": (trained * s if lora or whole_gradients else head_gradients) + accumulated * offloaded,
        "optimiser": 12 * trained / num_ranks * offloaded,
        "buckets": reduced + prefetched,
        "activations kept": activations,
        "working set": working_set,
        "optimiser step": max(0.0, step - activations - working_set - gone) * offloaded,
        "reserve": TRAINING_RESERVE,
    }
    if critic := getattr(config.algorithm, "critic", None):
        terms["critic"] = (2 * s + 16) * trained if critic == "adapter" else 16 * 0.84 * shape.hidden**2
    unused = ("optimiser step",) if lora else ("adapter",)
    return {name: size for name, size in terms.items() if name not in unused}


def longest_microbatch(config: Config) -> int:
    """Tokens of the largest micro-batch: a rollout longer than `max_tokens_per_microbatch` goes alone."""
    return max(config.trainer.max_tokens_per_microbatch, config.agent.max_context_tokens)


def layer_bytes_per_token(shape: ModelShape, rank: int | None, s: int) -> tuple[float, float]:
    """(kept, transient) bytes per token of one decoder layer with adapters of this rank; None: its weights are trained.

    Kept until its backward, with sdpa's flash kernels, so that nothing grows with T^2: in dtype the normed inputs of
    q, k, v and of gate, up (the adapters need them), q, k, v, the attention's output, four of the MLP's width (gate,
    silu(gate), up, their product) and what is between the two halves of seven adapters, or what the norms multiply their
    trained weights with; in float32 the inputs of the norms with their scales, and one number a head. Transient: two
    gradients of the MLP's width.
    """
    widths = 2 * shape.hidden + 2 * shape.query + 2 * shape.key_value + 4 * shape.intermediate
    if rank is None:
        widths += 2 * shape.hidden + (shape.query + shape.key_value) * shape.qk_norm
    else:
        widths += 7 * rank
    in_float32 = 2 * (shape.hidden + 1) + shape.num_heads
    if shape.qk_norm:
        in_float32 += shape.query + shape.key_value + shape.num_heads + shape.num_kv_heads
    return s * widths + 4 * in_float32, s * 2 * shape.intermediate


def head_bytes_per_token(shape: ModelShape, s: int) -> float:
    """The last norm's input in float32, its output, the hidden states of the actions (at most all) and their gradients."""
    return 4 * shape.hidden + s * 4 * shape.hidden


def server_memory(shape: ModelShape, config: Config, gpu_memory: float) -> dict[str, float]:
    """Bytes on each GPU of a vLLM replica, by term; they add up to what vLLM takes.

    - weights: P s / TP. - adapters: 2 A s / TP, see `--max-loras`; none where all weights are trained. - KV cache: what is left of
    `--gpu-memory-utilization` times the GPU's memory. It may come out negative: then nothing fits.
    """
    tp, s = config.server.tensor_parallel_size, DTYPE_BYTES[config.model.dtype]
    terms = {"weights": shape.num_parameters * s / tp}
    if config.model.lora:
        terms["adapters"] = MAX_LORAS * shape.num_adapter_parameters(config.model.lora.rank) * s / tp
    terms["reserve"] = SERVER_RESERVE
    return terms | {"KV cache": gpu_memory_utilization(config) * gpu_memory - sum(terms.values())}


def kv_bytes_per_token(shape: ModelShape, config: Config) -> float:
    """Keys and values of one token in all layers, on each GPU of a replica; a head is never split over GPUs."""
    heads_per_gpu = max(1, shape.num_kv_heads / config.server.tensor_parallel_size)
    return 2 * shape.num_layers * heads_per_gpu * shape.head_dim * DTYPE_BYTES[config.model.dtype]


def gpu_memory_utilization(config: Config) -> float:
    """Share of the GPU that vLLM takes: from `server.args`, else vLLM's default.

    Raises:
        ValueError: the argument has no number behind it.
    """
    arguments = [part for argument in config.server.args for part in argument.split("=", 1)]
    if "--gpu-memory-utilization" not in arguments:
        return _DEFAULT_UTILIZATION
    position = arguments.index("--gpu-memory-utilization") + 1
    try:
        return float(arguments[position])
    except (IndexError, ValueError):
        raise ValueError(
            f"server.args: --gpu-memory-utilization needs a number behind it, such as 0.9: {config.server.args}"
        ) from None
