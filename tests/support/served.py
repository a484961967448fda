"""A tokenizer, a model small enough to be served in a test, and a config around it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chat_templates import CHATML
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from loop_rl.config.load import parse_config
from loop_rl.config.settings import Config

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM

SECRET = "secret-of-the-tests"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def make_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with exactly 300 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["system user assistant print(apis.spotify.login(username=email))\n" * 9], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|im_end|>", chat_template=template
    )


def make_base_model(folder: Path, tie_word_embeddings: bool = False) -> Qwen2ForCausalLM:
    """A random Qwen2, written to `folder` with its tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = make_tokenizer(CHATML)
    shape = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 2,
    }
    # A wide initialisation, so that the distribution is far from uniform and a wrong one is noticed.
    model_config = Qwen2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=tie_word_embeddings,
        **shape,
    )
    model = Qwen2ForCausalLM(model_config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def make_whole_models(folder: Path, tie_word_embeddings: bool) -> Path:
    """Write a random Qwen2 with its tokenizer to `base`, and versions of it with all weights changed to `v1`, `v2`."""
    import torch

    model = make_base_model(folder / "base", tie_word_embeddings)
    for version in (1, 2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder / f"v{version}")
    return folder


def make_served_model(folder: Path) -> Path:
    """Write a random Qwen2 with its tokenizer to `base` and three random adapters to `v1`, `v2`, `v3`."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = make_base_model(folder / "base")
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    for version in (1, 2, 3):
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder / f"v{version}")
    return folder


def served_config(served_model: Path, **sections: dict) -> Config:
    """A config for `make_served_model`; keywords replace settings, section by section."""
    tree = {
        "name": "served",
        "seed": 5,
        "model": {"path": str(served_model / "base"), "dtype": "float32", "lora": {"rank": 8, "alpha": 16}},
        "agent": {
            "max_turns": 3,
            "max_new_tokens": 24,
            "max_context_tokens": 1024,
            "max_observation_tokens": 64,
        },
        "server": {"args": ["--enforce-eager", "--kv-cache-memory-bytes", "64M"]},
        "tasks": {} if "environment" in sections.get("tasks", {}) else {"prompt": "compact"},
    }
    for name, settings in sections.items():
        tree[name] = (tree.get(name) or {}) | settings if isinstance(settings, dict) else settings
    return parse_config(tree, source="test")
