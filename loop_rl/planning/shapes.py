"""The sizes of a model, from its config.json or, where no file is at hand, from a small table of public models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelShape:
    """A decoder of the Llama family: grouped-query attention, gated MLP, RMSNorm."""

    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    """Input and output embedding are one matrix."""
    qkv_bias: bool = False
    qk_norm: bool = False

    @property
    def query(self) -> int:
        """Width of all queries of a token."""
        return self.num_heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of all keys of a token, and of all values."""
        return self.num_kv_heads * self.head_dim

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer of one decoder layer; each gets an adapter."""
        return [
            (self.hidden, self.query),
            (self.hidden, self.key_value),
            (self.hidden, self.key_value),
            (self.query, self.hidden),
            (self.hidden, self.intermediate),
            (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        ]

    @property
    def embedding(self) -> int:
        """Parameters of one embedding matrix."""
        return self.vocab * self.hidden

    @property
    def num_parameters(self) -> int:
        layer = sum(inputs * outputs for inputs, outputs in self.linears) + 2 * self.hidden
        layer += (self.query + 2 * self.key_value) * self.qkv_bias + 2 * self.head_dim * self.qk_norm
        return self.num_layers * layer + self.embedding * (1 if self.tied else 2) + self.hidden

    @property
    def num_matmul_parameters(self) -> int:
        """Parameters that every token is multiplied with: all but norms, biases and the input embedding."""
        layer = sum(inputs * outputs for inputs, outputs in self.linears)
        return self.num_layers * layer + self.embedding

    def num_adapter_parameters(self, rank: int) -> int:
        """LoRA of this rank on every linear layer but the output head."""
        return self.num_layers * rank * sum(inputs + outputs for inputs, outputs in self.linears)


# From the models' published config.json; a test compares the parameter counts with transformers' own models.
KNOWN = {
    "Qwen/Qwen2.5-1.5B-Instruct": ModelShape(28, 1536, 12, 2, 128, 8960, 151_936, tied=True, qkv_bias=True),
    "Qwen/Qwen2.5-3B-Instruct": ModelShape(36, 2048, 16, 2, 128, 11_008, 151_936, tied=True, qkv_bias=True),
    "Qwen/Qwen2.5-7B-Instruct": ModelShape(28, 3584, 28, 4, 128, 18_944, 152_064, tied=False, qkv_bias=True),
    "Qwen/Qwen2.5-32B-Instruct": ModelShape(64, 5120, 40, 8, 128, 27_648, 152_064, tied=False, qkv_bias=True),
    "Qwen/Qwen3-14B": ModelShape(40, 5120, 40, 8, 128, 17_408, 151_936, tied=False, qk_norm=True),
}
_FAMILIES = {"llama": {}, "qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": True}}


def model_shape(path: str) -> tuple[ModelShape, str]:
    """The shape of `model.path`, and where it was found: a config.json, or the planner's table.

    Raises:
        ValueError: there is no config.json and the name is not in the table, or the model is of another family.
    """
    file = _config_file(path)
    if file:
        return _read(file), str(file)
    if path in KNOWN:
        return KNOWN[path], "the planner's table (no config.json here)"
    raise ValueError(
        f"model.path: no config.json in {path} or in the hub's cache, and the planner's table has only "
        f"{', '.join(KNOWN)}; download the model's config.json"
    )


def _config_file(path: str) -> Path | None:
    if Path(path).exists():
        file = Path(path) / "config.json"
        return file if file.exists() else None
    from huggingface_hub import try_to_load_from_cache  # takes a while to import, and local folders do without

    cached = try_to_load_from_cache(path, "config.json") if path.count("/") == 1 else None
    return Path(cached) if isinstance(cached, str) else None


def _read(file: Path) -> ModelShape:
    try:
        tree = json.loads(file.read_text())
        family = tree["model_type"]
        if family not in _FAMILIES:
            raise ValueError(f"{file}: model_type {family!r}; the planner knows {', '.join(_FAMILIES)}")
        return ModelShape(
            num_layers=tree["num_hidden_layers"],
            hidden=tree["hidden_size"],
            num_heads=tree["num_attention_heads"],
            num_kv_heads=tree.get("num_key_value_heads", tree["num_attention_heads"]),
            head_dim=tree.get("head_dim") or tree["hidden_size"] // tree["num_attention_heads"],
            intermediate=tree["intermediate_size"],
            vocab=tree["vocab_size"],
            tied=tree.get("tie_word_embeddings", False),
            **_FAMILIES[family],
        )
    except KeyError as error:
        raise ValueError(f"{file}: has no key {error}; is it the config.json of a language model?") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not valid JSON: {error}") from None
