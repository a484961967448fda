"""Which GPUs infer and which train: every split of the nodes, whether it fits, and how long an iteration takes on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from loop_rl.config.load import parse_config
from loop_rl.config.settings import Config
from loop_rl.planning.gpus import GIB, Gpu
from loop_rl.planning.memory import gpu_memory_utilization, kv_bytes_per_token, server_memory, training_memory
from loop_rl.planning.shapes import ModelShape
from loop_rl.planning.simulation import Curve, System
from loop_rl.planning.timing import Assumptions, environment_curve, generation_curve, publishing_time, training_time
from loop_rl.planning.workload import Workload

_TIME_SLICING = 2.0
"""Two processes that compute on one GPU take turns: an assumption."""


class DoesNotFit(ValueError):
    """What is asked for does not fit; the message is one line and names the setting to change."""


@dataclass(frozen=True)
class Layout:
    """A split of the GPUs."""

    name: str
    num_replicas: int
    num_ranks: int
    inference_nodes: int
    training_nodes: int
    shared: bool = False
    """The server and the trainer are on the same, only GPU."""


def layouts(config: Config, nodes: int, gpus_per_node: int) -> list[Layout]:
    """Every split. Of several nodes each either infers, with `server.replicas`, or trains, with `num_processes` ranks;
    one node is split by GPUs, the config's own split first; one GPU is shared.

    Raises:
        DoesNotFit: the config asks for more GPUs than there are.
    """
    servers, ranks = config.server.replicas, config.trainer.num_processes
    tp = config.server.tensor_parallel_size
    for key, gpus in (("server.replicas * tensor_parallel_size", servers * tp), ("trainer.num_processes", ranks)):
        if gpus > gpus_per_node:
            raise DoesNotFit(f"{key} is {gpus}, a node has {gpus_per_node} GPUs; lower it to {gpus_per_node}")
    if nodes > 1:
        return [
            Layout(f"{i} : {nodes - i} nodes", i * servers, (nodes - i) * ranks, i, nodes - i) for i in range(1, nodes)
        ]
    if gpus_per_node == 1:
        return [Layout("one GPU for both", 1, 1, 1, 1, shared=True)]
    if servers * tp + ranks > gpus_per_node:
        raise DoesNotFit(
            f"server.replicas * tensor_parallel_size ({servers * tp}) + trainer.num_processes ({ranks}) is more than the "
            f"node's {gpus_per_node} GPUs; lower trainer.num_processes to {max(1, gpus_per_node - servers * tp)} or take "
            "NODES=2"
        )
    own = (servers, ranks)
    splits = [own] + [(i, gpus_per_node - i * tp) for i in range(1, gpus_per_node // tp + 1) if gpus_per_node > i * tp]
    unique = dict.fromkeys(split for split in splits if split[1] % config.trainer.sequence_parallel_size == 0)
    return [Layout(f"{i * tp} : {ranks} GPUs", i, ranks, 1, 1) for i, ranks in unique]


@dataclass(frozen=True)
class Need:
    """Bytes on one inference GPU and one training GPU, by term."""

    server: dict[str, float]
    training: dict[str, float]
    kv_tokens: int
    """Tokens that the KV cache of one replica holds."""


def check(shape: ModelShape, config: Config, layout: Layout, gpu: Gpu) -> Need:
    """What the layout needs of each GPU.

    Raises:
        DoesNotFit: it is more than there is; names the change of a setting that would make it fit, where one does.
    """
    if shape.num_heads % config.server.tensor_parallel_size:
        raise DoesNotFit(
            f"server.tensor_parallel_size ({config.server.tensor_parallel_size}) does not divide the model's "
            f"{shape.num_heads} attention heads"
        )
    need = _need(shape, config, layout, gpu)
    if need.kv_tokens < config.agent.max_context_tokens:
        held = max(0, need.kv_tokens)
        raise DoesNotFit(
            f"inference: the KV cache would hold {held:,} tokens, one episode has up to {config.agent.max_context_tokens:,} "
            f"(agent.max_context_tokens); {_remedy(shape, config, layout, gpu, inference=True)}"
        )
    if (total := sum(need.training.values())) > (room := _training_room(config, layout, gpu)):
        raise DoesNotFit(
            f"training: {total / GIB:.1f} GiB are needed on each GPU and {room / GIB:.1f} GiB are there; "
            f"{_remedy(shape, config, layout, gpu, inference=False)}"
        )
    return need


def _need(shape: ModelShape, config: Config, layout: Layout, gpu: Gpu) -> Need:
    server = server_memory(shape, config, gpu.memory)
    return Need(
        server,
        training_memory(shape, config, layout.num_ranks),
        int(server["KV cache"] // kv_bytes_per_token(shape, config)),
    )


def _training_room(config: Config, layout: Layout, gpu: Gpu) -> float:
    return gpu.memory * (1 - gpu_memory_utilization(config)) if layout.shared else gpu.memory


def _remedy(shape: ModelShape, config: Config, layout: Layout, gpu: Gpu, inference: bool) -> str:
    """The first single change that makes that side fit."""
    for change in _inference_changes(config) if inference else _training_changes(config):
        tree = config.model_dump()
        for key, value in change.items():
            section, name = key.split(".")
            tree[section][name] = value
        try:
            changed = parse_config(tree, "plan")
        except ValueError:
            continue
        need = _need(shape, changed, layout, gpu)
        if inference:
            fits = need.kv_tokens >= changed.agent.max_context_tokens
        else:
            fits = sum(need.training.values()) <= _training_room(changed, layout, gpu)
        if fits:
            return "set " + " and ".join(f"{key}={value}" for key, value in change.items())
    if layout.shared:
        return "change --gpu-memory-utilization in server.args, or give the trainer a GPU of its own"
    if inference:
        return "take GPUs with more memory"
    adapter = "train an adapter (model.lora), or " if config.model.lora is None else ""
    return f"{adapter}give more GPUs to training (NODES, trainer.num_processes)"


def _inference_changes(config: Config) -> Iterator[dict[str, object]]:
    server = config.server
    for tp in (2, 4, 8):
        if tp > server.tensor_parallel_size:
            replicas = max(1, server.replicas * server.tensor_parallel_size // tp)
            yield {"server.tensor_parallel_size": tp, "server.replicas": replicas}


def _training_changes(config: Config) -> Iterator[dict[str, object]]:
    trainer, longest = config.trainer, config.agent.max_context_tokens
    if not trainer.activation_checkpointing:
        yield {"trainer.activation_checkpointing": "true"}
    if trainer.max_tokens_per_microbatch > longest:
        yield {"trainer.max_tokens_per_microbatch": longest}
    if trainer.zero_stage < 3:
        yield {"trainer.zero_stage": 3}
        yield {"trainer.zero_stage": 3, "trainer.activation_checkpointing": "true"}
    if config.model.lora is None and not trainer.offload_optimizer:
        yield {"trainer.offload_optimizer": "true"}
        yield {"trainer.zero_stage": 3, "trainer.offload_optimizer": "true"}
    for size in (2, 4, 8):
        if size > trainer.sequence_parallel_size:
            yield {"trainer.sequence_parallel_size": size}
    for size in (2, 4, 8):
        yield {"trainer.zero_stage": 3, "trainer.sequence_parallel_size": size}


def system(
    shape: ModelShape,
    config: Config,
    layout: Layout,
    need: Need,
    gpu: Gpu,
    guess: Assumptions,
    workload: Workload,
    environment: Curve | None = None,
) -> System:
    """The layout as the simulation sees it; `environment` is AppWorld's measured speed, by default the assumed one."""
    slower = _TIME_SLICING if layout.shared else 1.0
    generation = generation_curve(shape, config, gpu, guess, workload)
    return System(
        num_workers=config.tasks.num_workers,
        generation=replace(generation, beside_training=slower),
        environment=environment or environment_curve(guess, layout.inference_nodes),
        training_s=training_time(shape, config, gpu, guess, layout.num_ranks, layout.training_nodes),
        publish_s=publishing_time(shape, config, guess),
        num_replicas=layout.num_replicas,
        max_requests=max(1, need.kv_tokens // workload.held_tokens),
        training_beside_sampling=slower,
    )
