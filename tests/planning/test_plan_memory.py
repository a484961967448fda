"""The planner's formulas against the real thing: transformers' models, peft's adapters, the peak of a real backward."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

from loop_rl.config.load import parse_config
from loop_rl.planning.memory import (
    DTYPE_BYTES,
    head_bytes_per_token,
    kv_bytes_per_token,
    layer_bytes_per_token,
    server_memory,
    training_memory,
)
from loop_rl.planning.shapes import KNOWN, ModelShape, model_shape
from loop_rl.training.model import PolicyModel, trainable

pytestmark = pytest.mark.slow(10)

BILLIONS = {
    "Qwen2.5-1.5B-Instruct": 1.54,
    "Qwen2.5-3B-Instruct": 3.09,
    "Qwen2.5-7B-Instruct": 7.62,
    "Qwen2.5-32B-Instruct": 32.76,
    "Qwen3-14B": 14.77,
}
RANK = 8


def make_config(dtype="float32", lora=True, **trainer):
    model = {"path": "x", "dtype": dtype, "lora": {"rank": RANK} if lora else None}
    return parse_config({"name": "t", "model": model, "trainer": trainer}, "t")


def transformers_config(shape: ModelShape):
    """The transformers configuration of this shape, as `model_shape` would read it back."""
    return (Qwen3Config if shape.qk_norm else Qwen2Config)(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
    )


@pytest.mark.parametrize("name", KNOWN)
def test_the_tables_models_have_their_published_number_of_parameters(name):
    shape = KNOWN[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(transformers_config(shape), attn_implementation="sdpa")
    assert shape.num_parameters == model.num_parameters()
    assert round(shape.num_parameters / 1e9, 2) == BILLIONS[name.split("/")[1]]  # as the model cards say


def test_the_adapter_has_as_many_parameters_as_pefts():
    shape = ModelShape(2, 64, 4, 2, 16, 96, 128, tied=True, qkv_bias=True)
    model = trainable(AutoModelForCausalLM.from_config(transformers_config(shape)), make_config())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == shape.num_adapter_parameters(RANK)


def test_a_config_json_is_read_before_the_table(tmp_path):
    for shape in KNOWN.values():
        transformers_config(shape).save_pretrained(tmp_path)
        assert model_shape(str(tmp_path)) == (shape, str(tmp_path / "config.json"))


def test_the_tiny_model_is_known_by_its_file():
    shape, source = model_shape("models/tiny")
    assert (shape.num_layers, shape.hidden, shape.tied, source) == (4, 128, True, "models/tiny/config.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json in"),
        ("{", "not valid JSON"),
        ('{"model_type": "qwen2"}', "has no key 'num_hidden_layers'"),
        ('{"model_type": "gpt2"}', "model_type 'gpt2'; the planner knows llama, qwen2, qwen3"),
    ],
)
def test_a_model_of_unknown_size_is_refused_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        model_shape(str(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def peak_bytes(policy: PolicyModel, vocab: int, num_tokens: int) -> int:
    """The most that torch held at one time in a forward and backward, beyond what it held before."""
    input_ids = torch.randint(0, vocab, (1, num_tokens))
    positions = torch.arange(num_tokens - 1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        logprobs, _ = policy(input_ids, torch.zeros_like(positions), positions, input_ids[0, 1:])
        logprobs.sum().backward()
    for parameter in policy.parameters():
        parameter.grad = None
    held = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def make_policy(
    shape: ModelShape, dtype: str, checkpointing: bool, chunk_tokens: int, lora: bool = True
) -> PolicyModel:
    """The trainer's model, without DeepSpeed."""
    base = AutoModelForCausalLM.from_config(transformers_config(shape), attn_implementation="sdpa")
    model = trainable(base.to(getattr(torch, dtype)), make_config(lora=lora))
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return PolicyModel(model, temperature=1.0, chunk_tokens=chunk_tokens).train()


@pytest.mark.parametrize(
    ("dtype", "checkpointing", "qwen3", "lora"),
    [
        ("float32", True, False, True),
        ("float32", False, False, True),
        ("bfloat16", True, True, True),
        ("bfloat16", False, False, True),
        ("float32", True, False, False),
        ("float32", False, True, False),
        ("bfloat16", False, True, False),
    ],
)
def test_activations_per_token_are_those_of_a_real_backward(dtype, checkpointing, qwen3, lora):
    # Measured: 0.97 to 1.02 of the formula.
    shape = ModelShape(3, 128, 4, 2, 32, 512, 256, tied=False, qkv_bias=not qwen3, qk_norm=qwen3)
    policy = make_policy(shape, dtype, checkpointing, chunk_tokens=16, lora=lora)
    few, many = 64, 256
    measured = (peak_bytes(policy, shape.vocab, many) - peak_bytes(policy, shape.vocab, few)) / (many - few)

    config = make_config(dtype, lora, activation_checkpointing=checkpointing, logprob_chunk_tokens=16)
    terms = training_memory(shape, config, num_ranks=1)
    longest = config.trainer.max_tokens_per_microbatch
    expected = (terms["activations kept"] + terms["working set"]) / longest
    assert 0.9 < measured / expected < 1.1, f"measured {measured:.0f} bytes a token, the formula says {expected:.0f}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_chunk_of_logits_takes_what_the_formula_says(dtype):
    shape = ModelShape(1, 32, 2, 1, 16, 64, 8192, tied=False, qkv_bias=True)
    few, many = 16, 64
    peaks = [peak_bytes(make_policy(shape, dtype, True, chunk), shape.vocab, 65) for chunk in (few, many)]
    measured = (peaks[1] - peaks[0]) / (many - few)

    def working_set(chunk):
        return training_memory(shape, make_config(dtype, logprob_chunk_tokens=chunk), 1)["working set"]

    expected = (working_set(8192) - working_set(4096)) / 4096
    assert 0.9 < measured / expected < 1.1, f"measured {measured:.0f} bytes a token, the formula says {expected:.0f}"


def test_zero_shards_what_it_says():
    shape = KNOWN["Qwen/Qwen2.5-7B-Instruct"]
    stage = {stage: training_memory(shape, make_config("bfloat16", zero_stage=stage), 8) for stage in (1, 2, 3)}
    assert stage[3]["weights"] == stage[2]["weights"] / 8 and stage[2]["weights"] == stage[1]["weights"]
    assert stage[1]["optimiser"] == 12 * shape.num_adapter_parameters(RANK) / 8
    assert stage[2]["gradients"] < stage[1]["gradients"]
    assert stage[3]["gathered weights"] and not stage[2]["gathered weights"]


def test_all_weights_take_twelve_bytes_each_on_all_ranks_together():
    shape = KNOWN["Qwen/Qwen2.5-7B-Instruct"]
    terms = training_memory(shape, make_config("bfloat16", lora=False), 8)
    assert terms["optimiser"] == 12 * shape.num_parameters / 8 and "adapter" not in terms
    assert terms["gradients"] == 4 * shape.num_parameters / 8 + 2 * shape.embedding * 2
    offloaded = training_memory(shape, make_config("bfloat16", lora=False, offload_optimizer=True), 8)
    assert offloaded["optimiser"] == 0 and sum(offloaded.values()) < sum(terms.values())
    assert "adapters" not in server_memory(shape, make_config("bfloat16", lora=False), 80e9)


def test_memory_grows_linearly_with_the_longest_rollout_and_shrinks_with_sequence_parallelism():
    shape = KNOWN["Qwen/Qwen2.5-7B-Instruct"]

    def activations(tokens, **trainer):
        return training_memory(shape, make_config(max_tokens_per_microbatch=tokens, **trainer), 8)["activations kept"]

    assert activations(65_536) == 2 * activations(32_768)
    assert activations(65_536, num_processes=8, sequence_parallel_size=4) == activations(65_536) / 4


def test_the_kv_cache_is_what_vllm_has_left():
    shape = KNOWN["Qwen/Qwen2.5-32B-Instruct"]
    tree = make_config("bfloat16").model_dump()
    tree["server"] |= {"tensor_parallel_size": 4, "args": ["--gpu-memory-utilization", "0.9"]}
    config = parse_config(tree, "t")
    assert sum(server_memory(shape, config, 80e9).values()) == pytest.approx(0.9 * 80e9)
    # 64 layers, 2 of the 8 heads on each GPU, 128 numbers of 2 bytes, keys and values
    assert kv_bytes_per_token(shape, config) == 64 * 2 * 128 * 2 * 2
    tree["server"]["args"] = ["--gpu-memory-utilization"]
    with pytest.raises(ValueError, match="server.args: --gpu-memory-utilization needs a number"):
        server_memory(shape, parse_config(tree, "t"), 80e9)


def test_the_formulas_terms_are_the_documented_ones():
    shape = ModelShape(1, 2, 1, 1, 2, 3, 5, tied=True)
    for dtype, s in DTYPE_BYTES.items():
        kept, transient = layer_bytes_per_token(shape, 1, s)
        assert kept == s * (2 * 2 + 2 * 2 + 2 * 2 + 4 * 3 + 7) + 4 * (2 * 3 + 1), dtype
        assert transient == s * 2 * 3 and head_bytes_per_token(shape, s) == 4 * 2 + s * 4 * 2
