"""How fast the resident memory of a real forward and backward grows with the tokens, against the planner's formula.

    python benchmarks/plan_memory.py
    python benchmarks/plan_memory.py 512 1024 8192

A policy of 20 million parameters in float32, with and without activation checkpointing, each in a process of its own,
on the CPU. The growth is taken between the last two lengths: what the first ones reach for the first time stays.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys

VOCAB, CHUNK_TOKENS = 4096, 256


def peaks(lengths: list[int], checkpointing: bool) -> tuple[list[int], float]:
    """Peak resident bytes after a forward and backward at each length, and the formula's bytes per token."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from loop_rl.config import parse_config
    from loop_rl.planning.memory import training_memory
    from loop_rl.planning.shapes import ModelShape
    from loop_rl.policy_model import PolicyModel, trainable

    torch.set_num_threads(1)
    trainer = {"activation_checkpointing": checkpointing, "logprob_chunk_tokens": CHUNK_TOKENS}
    config = parse_config({"name": "b", "model": {"path": "b", "dtype": "float32"}, "trainer": trainer}, "benchmark")
    sizes = {"vocab_size": VOCAB, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8}
    base = Qwen2ForCausalLM(Qwen2Config(num_attention_heads=6, num_key_value_heads=2, **sizes))
    model = trainable(base, config)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = PolicyModel(model, temperature=1.0, chunk_tokens=CHUNK_TOKENS).train()
    found = []
    for length in lengths:
        input_ids, positions = torch.randint(0, VOCAB, (1, length)), torch.arange(length - 1)
        logprobs, _ = policy(input_ids, torch.zeros_like(positions), positions, input_ids[0, 1:])
        logprobs.sum().backward()
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    shape = ModelShape(8, 384, 6, 2, 64, 1536, VOCAB, tied=False, qkv_bias=True)
    terms = training_memory(shape, config, num_ranks=1)
    return found, (terms["activations kept"] + terms["working set"]) / config.trainer.max_tokens_per_microbatch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lengths", nargs="*", type=int, default=[512, 1024, 3072], help="tokens, at least two, growing")
    lengths = parser.parse_args().lengths
    # Blocks of 64 KiB and more go back to the system when freed; by default glibc keeps most, and RSS says twice as much.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    for checkpointing in (True, False):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found, formula = pool.apply(peaks, (lengths, checkpointing))
        measured = (found[-1] - found[-2]) / (lengths[-1] - lengths[-2])
        rows = ", ".join(f"{length} tokens {peak / 1e6:.0f} MB" for length, peak in zip(lengths, found, strict=True))
        print(
            f"{'with' if checkpointing else 'without'} checkpointing: {rows}; {measured / 1e3:.1f} MB per 1,000 tokens, the "
            f"formula says {formula / 1e3:.1f}: ratio {measured / formula:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
