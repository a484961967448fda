"""The LLM as the trainer sees it, with its adapter if it has one: from tokens to log-probabilities. Needs no launcher.

Shapes: B rollouts of a micro-batch, T tokens, N action tokens, H hidden size.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from loop_rl.config.settings import Config
from loop_rl.training.heads import LogitRule, LogprobHead

if TYPE_CHECKING:
    from loop_rl.training.batching import MicroBatch

POLICY_ADAPTER = "default"
"""PEFT's name of the adapter that is published."""


class PolicyModel(nn.Module):
    """The LLM from tokens to log-probabilities.

    Everything that touches a parameter happens in this one forward, so that ZeRO-3 gathers it.
    """

    def __init__(self, llm: PreTrainedModel | PeftModel, temperature: float, chunk_tokens: int):
        super().__init__()
        self.llm = llm
        self.head = LogprobHead(llm.get_output_embeddings(), temperature, chunk_tokens, LogitRule.of(llm.config))
        self.keeps_hidden = False
        """Whether a forward leaves the hidden states that it predicted the targets from in `hidden_NH`, for a critic."""
        self.hidden_NH: Tensor | None = None
        """Of the last forward, without gradient."""

    @property
    def config(self) -> PretrainedConfig:
        """The LLM's; Accelerate asks for it under sequence parallelism."""
        return self.llm.config

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.llm.config.get_text_config().hidden_size

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def hidden(self, batch: MicroBatch) -> Tensor:
        """[N, H], the hidden states that a micro-batch's targets are predicted from, with gradient."""
        return self(
            batch.input_ids_BT, batch.rows_N, batch.positions_N, batch.targets_N, batch.first_position, hidden_only=True
        )

    def forward(
        self,
        input_ids_BT: Tensor,
        rows_N: Tensor,
        positions_N: Tensor,
        targets_N: Tensor,
        first_position: int = 0,
        own_forward: bool = False,
        entropy_gradient: bool = False,
        hidden_only: bool = False,
    ) -> tuple[Tensor, Tensor] | Tensor:
        """Float32 log-probabilities and entropies (nats) of targets_N, predicted at column positions_N of rows_N.

        first_position: place of the first column in its rollout.
        own_forward: as the LLM's own forward computes the logits, all of them; to compare with.
        entropy_gradient: the entropies carry a gradient.
        hidden_only: see `hidden`.
        """
        model = self.llm.get_base_model() if isinstance(self.llm, PeftModel) else self.llm
        end = first_position + input_ids_BT.shape[1]
        places_1T = torch.arange(first_position, end, device=input_ids_BT.device)[None]
        inputs = {"input_ids": input_ids_BT, "position_ids": places_1T, "use_cache": False}
        if own_forward:
            logits_NV = model(**inputs).logits[rows_N, positions_N].float() / self.head.temperature
            distribution = torch.distributions.Categorical(logits=logits_NV)
            return distribution.log_prob(targets_N), distribution.entropy()
        decoder = model.base_model  # without the output head
        hidden_NH = decoder(**inputs).last_hidden_state[rows_N, positions_N]
        if hidden_only:
            return hidden_NH
        if self.keeps_hidden:
            self.hidden_NH = hidden_NH.detach()
        return self.head(hidden_NH, targets_N, entropy_gradient)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What a checkpoint holds: the trained parameters. DeepSpeed, asked to leave frozen ones out, leaves each out
        under one name only, but the head's weight has two and would be saved. Trained weights of two names count once."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trained}


def load_llm(config: Config, folder: Path | None, device: torch.device | None) -> PreTrainedModel | PeftModel:
    """The LLM of a policy version in the compute dtype, loaded to `device`; None leaves the place to transformers.

    Args:
        folder: where the version was published; None for version 0, the untouched base.

    Raises:
        OSError: config.model.path holds no model, or the folder is damaged.
    """
    is_whole = folder is not None and config.model.lora is None
    path = folder if is_whole else config.model.path
    model_config = without_dropout(AutoConfig.from_pretrained(path))
    placement = {"device_map": {"": device}} if device else {}
    llm = AutoModelForCausalLM.from_pretrained(
        path,
        config=model_config,
        dtype=getattr(torch, config.model.dtype),
        # sdpa would leave out the cap on attention that Gemma 2 has.
        attn_implementation="eager" if caps_attention(model_config) else "sdpa",
        **placement,
    )
    if folder is None or is_whole:
        return llm
    return PeftModel.from_pretrained(llm, folder, autocast_adapter_dtype=False)  # in the adapter's own dtype


def without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    """The same model config with every probability of dropout 0.

    The policy's log-probabilities must be those of what was sampled, and vLLM samples without dropout.
    """
    for part in (config, config.get_text_config()):
        for name, value in vars(part).items():
            if re.search(r"dropout|pdrop|drop_rate", name) and isinstance(value, float):
                setattr(part, name, 0.0)
    return config


def caps_attention(config: PretrainedConfig) -> bool:
    """The model squeezes its attention scores, as Gemma 2 does, which only plain attention computes."""
    return bool(getattr(config.get_text_config(), "attn_logit_softcapping", None))


def trainable(base: PreTrainedModel, config: Config) -> PreTrainedModel | PeftModel:
    """The base model, frozen, with an adapter that adds zero; or, with `lora: null`, the base, all weights trainable. Seeds the
    generators alike in every process."""
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    if config.model.lora is None:
        return base
    lora = LoraConfig(
        r=config.model.lora.rank,
        lora_alpha=config.model.lora.alpha,
        target_modules="all-linear",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    # DeepSpeed keeps the adapter's float32 master weights; peft must not make float32 ones of its own.
    return get_peft_model(base, lora, POLICY_ADAPTER, autocast_adapter_dtype=False)


def adapter_weights(llm: PeftModel, name: str) -> dict[str, nn.Parameter]:
    """The weights of one of its adapters."""
    return {full: parameter for full, parameter in llm.named_parameters() if f".{name}." in full}
