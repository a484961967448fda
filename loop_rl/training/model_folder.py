"""A whole model as a folder that transformers and vLLM load, written without ever being whole in memory.

    config.json, generation_config.json
    model.safetensors, or model-00001-of-00003.safetensors ... and model.safetensors.index.json

The names, and what is in them, are those of transformers' save_pretrained, which wants all weights at once. There is no
tokenizer: training leaves it as it is.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path

from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

SHARD_BYTES = 2 * 2**30
"""Of a file, and so of rank 0's memory while it writes; a larger single tensor has a file of its own."""


def save_model(
    model: PreTrainedModel,
    folder: Path,
    is_main: bool = True,
    gathered: Callable[[list[Tensor]], AbstractContextManager] = nullcontext,
) -> None:
    """Write the model in the dtype it has. Every rank must call it; the main one writes.

    The same weights give the same bytes. What configs the base model came with is not judged: many published ones contradict
    themselves, and transformers' own save_pretrained refuses to write those.

    Args:
        gathered: makes weights whole while it is entered, where ZeRO-3 holds them in pieces; one at a time.
    """
    stored = model.state_dict().keys()
    # Under its first name only, where a tensor has two: tied embeddings are stored once.
    named = chain(model.named_parameters(), model.named_buffers())
    tensors = {name: tensor for name, tensor in named if name in stored}
    shards = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=_num_bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD_BYTES,
    )
    if is_main:
        folder.mkdir(parents=True, exist_ok=True)
    for file, names in shards.filename_to_tensors.items():
        weights = {}
        for name in names:
            with gathered([tensors[name]]):
                if is_main:
                    weights[name] = tensors[name].detach().to("cpu", copy=True)
        if is_main:
            save_file(weights, folder / file, metadata={"format": "pt"})
    if not is_main:
        return
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.to_json_file(folder / "config.json")
    if model.generation_config is not None:
        model.generation_config.to_json_file(folder / "generation_config.json")


def _num_bytes(tensor: Tensor) -> int:
    return getattr(tensor, "ds_numel", tensor.numel()) * tensor.element_size()
