"""Sequence parallelism: the ranks of a group share each rollout, every rank has a piece of its tokens.

DeepSpeed Ulysses (arXiv 2309.14509, and 2506.13996 for transformers' models): everything but attention works token by
token, so a rank does it for its piece alone; around attention, an all-to-all gives each rank the whole sequence of some
of the heads. What is ours is the cut. Targets are chosen before it, so that the last position of a piece predicts the
first token of the next piece.

Shapes: as in batching.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from accelerate.parallelism_config import ParallelismConfig
from accelerate.utils import DeepSpeedSequenceParallelConfig
from transformers import AutoConfig

from loop_rl.config.base import ConfigError
from loop_rl.config.settings import Config
from loop_rl.training.batching import MicroBatch
from loop_rl.training.model import caps_attention


def require_divisible_heads(config: Config) -> None:
    """Refuse a model whose attention heads cannot be shared out.

    Raises:
        ConfigError: names the key and the sizes that this model allows.
        OSError: config.model.path holds no model.
    """
    size = config.trainer.sequence_parallel_size
    text = AutoConfig.from_pretrained(config.model.path).get_text_config()
    if caps_attention(text):
        raise ConfigError(
            f"trainer.sequence_parallel_size={size}: {config.model.path} caps its attention scores (attn_logit_softcapping), which "
            "only plain attention computes; use trainer.sequence_parallel_size=1"
        )
    num_heads, num_kv_heads = text.num_attention_heads, text.num_key_value_heads

    def fits(size: int) -> bool:
        # Key and value heads are shared out too, or each is given to several ranks.
        return num_heads % size == 0 and (num_kv_heads % size == 0 or size % num_kv_heads == 0)

    if not fits(size):
        allowed = [n for n in range(1, config.trainer.num_processes + 1) if fits(n)]
        raise ConfigError(
            f"trainer.sequence_parallel_size={size}: {config.model.path} has {num_heads} attention heads and "
            f"{num_kv_heads} key-value heads, which cannot be shared out over {size} ranks; choose one of {allowed}"
        )


def parallelism(size: int, num_ranks: int) -> ParallelismConfig | None:
    """What Accelerate has to know; None where every rank works alone."""
    if size == 1:
        return None
    handler = DeepSpeedSequenceParallelConfig(sp_seq_length_is_variable=True, sp_attn_implementation="sdpa")
    return ParallelismConfig(sp_backend="deepspeed", sp_size=size, sp_handler=handler, dp_shard_size=num_ranks // size)


def shard(batch: MicroBatch, index: int, size: int) -> MicroBatch:
    """Piece `index` of `size`: as many columns in each, and the action tokens that these columns predict (maybe none).

    The losses of the pieces add up to the micro-batch's.
    """
    num_columns = -(-batch.input_ids_BT.shape[1] // size)
    first = index * num_columns
    padded_BT = F.pad(batch.input_ids_BT, (0, size * num_columns - batch.input_ids_BT.shape[1]))
    ours_N = (batch.positions_N >= first) & (batch.positions_N < first + num_columns)
    ours = batch.map_tokens(lambda tensor_N: tensor_N[ours_N])
    lengths = [int(part.sum()) for part in ours_N.split(batch.lengths)] if batch.lengths else []
    columns_BT = padded_BT[:, first : first + num_columns]
    positions_N = ours.positions_N - first
    return replace(ours, input_ids_BT=columns_BT, first_position=first, positions_N=positions_N, lengths=lengths)
