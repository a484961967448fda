"""The LLM with its adapter, as the trainer sees it: from tokens to log-probabilities. Needs no launcher, no DeepSpeed.

Shapes: B rollouts of a micro-batch, T tokens, N action tokens, H hidden size.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from loop_rl.config import Config
from loop_rl.logprobs import LogprobHead


class PolicyModel(nn.Module):
    """The LLM with its adapter, from tokens to log-probabilities.

    Everything that touches a parameter happens in this one forward, so that ZeRO-3 gathers it.
    """

    def __init__(self, peft_model: PeftModel, temperature: float, chunk_tokens: int):
        super().__init__()
        self.peft_model = peft_model
        self.head = LogprobHead(peft_model.get_output_embeddings(), temperature, chunk_tokens)

    @property
    def config(self) -> PretrainedConfig:
        """The LLM's; Accelerate asks for it under sequence parallelism."""
        return self.peft_model.config

    def forward(
        self, input_ids_BT: Tensor, rows_N: Tensor, positions_N: Tensor, targets_N: Tensor, first_position: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Float32 log-probabilities and entropies (nats) of targets_N, predicted at column positions_N of rows_N.

        first_position: place of the first column in its rollout.
        """
        decoder = self.peft_model.get_base_model().base_model  # without the output head
        places_1T = torch.arange(first_position, first_position + input_ids_BT.shape[1], device=input_ids_BT.device)[
            None
        ]
        hidden_BTH = decoder(input_ids=input_ids_BT, position_ids=places_1T, use_cache=False).last_hidden_state
        return self.head(hidden_BTH[rows_N, positions_N], targets_N)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What a checkpoint holds: the trained parameters. DeepSpeed, asked to leave frozen ones out, leaves each out
        under one name only, but the head's weight has two and would be saved."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trained}


def load_base(config: Config, device: torch.device | None) -> PreTrainedModel:
    """The base model in the compute dtype, loaded to `device`; None leaves the place to transformers.

    Raises:
        OSError: config.model.path holds no model.
    """
    placement = {"device_map": {"": device}} if device else {}
    return AutoModelForCausalLM.from_pretrained(
        config.model.path, dtype=getattr(torch, config.model.dtype), attn_implementation="sdpa", **placement
    )


def with_fresh_adapter(base: PreTrainedModel, config: Config) -> PeftModel:
    """The frozen base model with an adapter that adds zero, seeded alike in every process."""
    lora = LoraConfig(
        r=config.model.lora.rank,
        lora_alpha=config.model.lora.alpha,
        target_modules="all-linear",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    # DeepSpeed keeps the adapter's float32 master weights; peft must not make float32 ones of its own.
    return get_peft_model(base, lora, autocast_adapter_dtype=False)


def with_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """The frozen base model with the adapter of a published policy version, in its own dtype."""
    return PeftModel.from_pretrained(base, folder, autocast_adapter_dtype=False)
